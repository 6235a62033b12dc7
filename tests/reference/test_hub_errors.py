"""Every failure of the hub, the network or the disk ends with its own sentence, in time."""

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest
from huggingface_hub import constants, errors, file_download

from reference import hub
from reference.errors import RejectedError, UnavailableError
from reference.hub import FetchedFolder, Hub
from reference.hub_errors import HubRequest, NoAnswerError, explain

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

RELEASED = "openai-community/openai-gpt"
WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "vocab.json": b"{}"}
CUT = 600_000
"""Bytes, of the weights' 1,024,000, after which a body is cut."""


class Fake(Protocol):
    """What these tests ask of a fake hub."""

    address: str
    asked: list[tuple[str, str]]


Serve = Callable[..., Fake]
Fetch = Callable[..., FetchedFolder]


@pytest.fixture(autouse=True)
def _hasty_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the client's pauses between its tries to a hundredth of a second."""
    hasty = SimpleNamespace(**vars(time) | {"sleep": lambda _: time.sleep(0.01)})
    monkeypatch.setattr(file_download, "time", hasty)
    monkeypatch.setattr("huggingface_hub.utils._http.time", hasty)


REFUSALS = {
    "no such repository": (404, "RepoNotFound", "there is no repository", "owner/name"),
    "no such revision": (404, "RevisionNotFound", "has no revision", "commit, branch or tag"),
    "gated": (403, "GatedRepo", "is gated", "hf auth login"),
    "unauthorised": (401, "", "is private, or there is no such", "hf auth login"),
    "forbidden": (403, "", "is forbidden to you", "hf auth login"),
    "broken": (500, "", r"answers with an error \(500\)", "try again later"),
    "overrun": (429, "", r"answers with an error \(429\)", "try again later"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_each_refusal_has_its_sentence(
    refusal: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """One line with the hub's answer, the address and the fix."""
    status, code, sentence, fix = REFUSALS[refusal]
    fake = serve(files=FILES, refuse={"api": (status, code)})
    with pytest.raises(UnavailableError, match=sentence) as caught:
        fetch(fake, tmp_path)
    assert fix in caught.value.fix
    assert fake.address in caught.value.where
    assert "\n" not in str(caught.value)


def test_a_file_that_went_missing_is_named(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """It is in the list of files, and is not there."""
    fake = serve(files=FILES, refuse={"HEAD": (404, "EntryNotFound")})
    with pytest.raises(UnavailableError, match=r"has no file config\.json"):
        fetch(fake, tmp_path)


def test_no_repository_has_such_an_id(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Nothing is asked about it."""
    fake = serve(files=FILES)
    with pytest.raises(RejectedError, match="no id of a repository"):
        fetch(fake, tmp_path, "a/b/c")
    assert not fake.asked


@pytest.mark.parametrize("kind", ["api", "HEAD", "GET"])
def test_a_hub_that_is_down_is_given_up(
    kind: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Whichever question it answers with an error for ever."""
    fake = serve(files=FILES, refuse={kind: (503, "")})
    with pytest.raises(UnavailableError):
        fetch(fake, tmp_path)


@pytest.mark.parametrize(
    "trouble", [{"refuse": {"api": (500, "")}}, {"api": "<html>log in</html>"}]
)
def test_the_cache_serves_while_the_hub_is_down(
    trouble: dict[str, object], serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A branch is then at the commit it was last seen at, which the result names."""
    first = fetch(serve(files=FILES), tmp_path, RELEASED, "main")
    again = fetch(serve(files=FILES, **trouble), tmp_path, RELEASED, "main")
    assert (first.commit, True) == (again.commit, again.from_cache)


@pytest.mark.parametrize("answer", ["<html>log in</html>", "[]", '{"id": "x"}', '{"sha": "main"}'])
def test_what_is_no_hub_is_told_from_one(
    answer: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A page to log in to the network, and JSON that no hub would send."""
    with pytest.raises(UnavailableError, match="is not a hub's"):
        fetch(serve(files=FILES, api=answer), tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("http://127.0.0.1:9", "cannot connect to the hub"),
        ("no address", "cannot connect|is not a hub"),
        ("http://[", "cannot connect|is not a hub"),
    ],
)
def test_an_address_without_a_hub_is_reported(endpoint: str, sentence: str, tmp_path: Path) -> None:
    """A closed port, and addresses that are none."""
    with pytest.raises(UnavailableError, match=sentence):
        hub.fetch(RELEASED, hub=Hub(endpoint=endpoint, cache=tmp_path))


def test_a_silent_hub_is_given_up(
    serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection and sends nothing; the error names the seconds waited."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    fake = serve(files=FILES, mute=1.0)
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
        fetch(fake, tmp_path)
    assert not hub.reachable(0.1, endpoint=fake.address)
    assert time.monotonic() - started < 1.0


def test_a_file_cut_off_once_comes_after_all(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Whole, and with its digest."""
    fetched = fetch(serve(files=FILES, cut=CUT, cuts=1), tmp_path)
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_file_always_cut_off_is_given_up(
    forgetful: bool,  # noqa: FBT001 - a case
    serve: Serve,
    fetch: Fetch,
    tmp_path: Path,
) -> None:
    """Also where the server starts again from the first byte each time."""
    cut = CUT if forgetful else 0
    with pytest.raises(UnavailableError, match=r"download incomplete: .*model\.safetensors"):
        fetch(
            serve(files=FILES, cut=cut, forgetful=forgetful, spared="config.json"),
            tmp_path,
        )
    assert not list(tmp_path.glob("*/snapshots/*/model.safetensors"))


def test_a_file_that_stops_coming_names_the_timeout(
    serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client tries a few times more, and then gives up."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    sentence = r"no new bytes of model\.safetensors for 0\.2 s"
    with pytest.raises(UnavailableError, match=sentence):
        fetch(serve(files=FILES, cut=CUT, hang=2.0), tmp_path)


def test_a_slow_file_is_waited_for(
    serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than the timeout, which counts from byte to byte."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    started = time.monotonic()
    fetched = fetch(serve(files=FILES, pace=0.04), tmp_path)
    assert time.monotonic() - started > 0.5
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """Let no file grow beyond half a megabyte, as on a disk with no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_is_named(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Half of the weights went in."""
    with pytest.raises(UnavailableError, match="the disk is full") as caught:
        fetch(serve(files=FILES), tmp_path)
    assert "model.safetensors" in caught.value.where


def test_a_file_in_the_place_of_the_cache_is_named(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """No folder can be made under it."""
    (tmp_path / "cache").touch()
    with pytest.raises(UnavailableError, match="the cache cannot be used"):
        fetch(serve(files=FILES), tmp_path / "cache")


LISTING = HubRequest(
    repository="me/mine", revision="main", endpoint="https://hub", cache=Path("cache")
)
FILE = HubRequest(**{**vars(LISTING), "file": "config.json"})


class ReadTimeout(Exception):  # noqa: N818 - both HTTP libraries call theirs so
    """Stands for either library's."""


MEANINGS = [
    (LISTING, ReadTimeout(), NoAnswerError, "no answer within 10 s"),
    (FILE, ReadTimeout(), UnavailableError, "no new bytes of config.json for 10 s"),
    (LISTING, ValueError("no JSON"), NoAnswerError, "is not a hub's"),
    (FILE, errors.FileMetadataError("no ETag"), NoAnswerError, "is not a hub's"),
    (FILE, errors.OfflineModeIsEnabled("off"), UnavailableError, "not in the cache"),
    (LISTING, errors.HFValidationError("?"), RejectedError, "'me/mine' is no id"),
    (FILE, OSError("Consistency check failed"), UnavailableError, "broke off during config.json"),
    (FILE, OSError(errno.ENOSPC, "x"), UnavailableError, "the disk is full"),
    (FILE, OSError(errno.EDQUOT, "x"), UnavailableError, "the disk is full"),
    (FILE, OSError(errno.EROFS, os.strerror(errno.EROFS)), UnavailableError, "Read-only"),
]


@pytest.mark.parametrize(("asked", "error", "kind", "sentence"), MEANINGS)
def test_each_error_means_one_thing(
    asked: HubRequest, error: Exception, kind: type[Exception], sentence: str
) -> None:
    """One line, with the place and the fix."""
    meant = explain(error, asked)
    assert type(meant) is kind
    assert sentence in meant.what
    assert "\n" not in str(meant)
    assert meant.where
    assert meant.fix


def test_what_the_client_wraps_is_what_counts() -> None:
    """It reports every failed question as "not in the cache"."""
    wrapped = errors.LocalEntryNotFoundError("cannot find the requested files")
    wrapped.__cause__ = ReadTimeout()
    assert "no answer within 10 s" in explain(wrapped, FILE).what


def test_a_refusal_stays_what_it_is() -> None:
    """It was explained where it was raised."""
    refusal = RejectedError("not this", where="doc", fix="another")
    assert explain(refusal, FILE) is refusal


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError()])
def test_a_programming_error_is_not_explained(error: Exception) -> None:
    """It is raised as it is."""
    with pytest.raises(type(error)) as caught:
        explain(error, FILE)
    assert error is caught.value
