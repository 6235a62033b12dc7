"""What an error of the hub's client means: told apart by kind, and nothing swallowed."""

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import errors

from reference.errors import RejectedError, UnavailableError
from reference.hub_errors import CutOffError, HubRequest, NoAnswerError, StalledError, explain

LISTING = HubRequest(
    repository="me/mine", revision="main", endpoint="https://hub", cache=Path("cache"), seconds=7
)
FILE = HubRequest(**{**vars(LISTING), "file": "config.json"})


class ReadTimeout(Exception):  # noqa: N818 - both HTTP libraries call theirs so
    """Stands for either library's."""


MEANINGS = [
    (LISTING, StalledError(), NoAnswerError, "no answer within 7 s"),
    (LISTING, ReadTimeout(), NoAnswerError, "no answer within 7 s"),
    (LISTING, ValueError("no JSON"), NoAnswerError, "is no hub"),
    (FILE, errors.FileMetadataError("no ETag"), NoAnswerError, "is no hub"),
    (FILE, errors.OfflineModeIsEnabled("off"), UnavailableError, "not in the cache"),
    (LISTING, errors.HFValidationError("?"), RejectedError, "'me/mine' is no id"),
    (FILE, OSError("Consistency check failed"), CutOffError, "broke off during config.json"),
    (FILE, OSError(errno.ENOSPC, "x"), UnavailableError, "the disk is full"),
    (FILE, OSError(errno.EDQUOT, "x"), UnavailableError, "the disk is full"),
    (FILE, OSError(errno.EROFS, os.strerror(errno.EROFS)), UnavailableError, "Read-only"),
]


@pytest.mark.parametrize(("asked", "error", "kind", "sentence"), MEANINGS)
def test_each_error_means_one_thing(
    asked: HubRequest, error: Exception, kind: type[Exception], sentence: str
) -> None:
    """And says it in one line, with the place and the way out."""
    meant = explain(error, asked)
    assert type(meant) is kind
    assert sentence in meant.what
    assert "\n" not in str(meant)
    assert meant.where
    assert meant.fix


def test_what_the_client_wraps_is_what_counts() -> None:
    """It says "not in the cache" of everything that kept it from asking."""
    wrapped = errors.LocalEntryNotFoundError("cannot find the requested files")
    wrapped.__cause__ = ReadTimeout()
    assert "no answer within 7 s" in explain(wrapped, FILE).what


def test_a_refusal_stays_what_it_is() -> None:
    """It was explained where it was raised."""
    refusal = RejectedError("not this", where="doc", fix="another")
    assert explain(refusal, FILE) is refusal


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError()])
def test_a_fault_of_ours_is_not_blamed_on_the_hub(error: Exception) -> None:
    """It is raised as it is."""
    with pytest.raises(type(error)) as caught:
        explain(error, FILE)
    assert error is caught.value
