"""What a file system's refusal means."""

import errno
import os

import pytest
from safetensors import SafetensorError

from scratch_gpt.checkpoint.atomic import to_write_error
from scratch_gpt.errors import OccupiedError, WriteError


@pytest.mark.parametrize(
    ("number", "what", "fix"),
    [
        (errno.ENOSPC, "the disk is full", "free some space"),
        (errno.EDQUOT, "the disk quota is used up", "free some space"),
        (errno.EFBIG, "the file would be larger than is allowed", "ulimit -f"),
        (errno.EROFS, "the file system is read-only", "another place"),
        (errno.EACCES, "there is no permission to write", "permissions"),
    ],
)
def test_says_what_an_error_number_means(number: int, what: str, fix: str) -> None:
    errors = (
        OSError(number, os.strerror(number)),
        SafetensorError(f"Error while serializing: I/O error: whatever (os error {number})"),
    )
    for error in errors:
        told = to_write_error(error, "models/mine")
        assert told is not None
        assert (what, "models/mine") == (told.what, told.where)
        assert fix in told.fix
        assert f"{what} (models/mine; {told.fix})" == str(told)


def test_an_unknown_number_is_quoted_on_one_line() -> None:
    told = to_write_error(OSError(errno.EIO, "Input/output\nerror"), "a\nb")
    assert told is not None
    assert told.what == "it cannot be written: [Errno 5] Input/output error"
    assert told.where == r"'a\nb'"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no number"),
        SafetensorError("a header is wrong (os error x)"),
        OccupiedError("told already", where="here", fix="there"),
        WriteError("told already", where="here", fix="there"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_what_is_no_news_of_the_file_system_stays_what_it_is(error: Exception) -> None:
    assert to_write_error(error, "here") is None
