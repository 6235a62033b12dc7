"""Every failure of the hub, the network or the disk ends with its own sentence, in time."""

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


Serve = Callable[..., Any]
Fetch = Callable[..., FetchedFolder]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Shorten the client's pauses between its tries; return the seconds that each would take."""
    asked: list[float] = []
    hasty = SimpleNamespace(**vars(time) | {"sleep": asked.append})
    monkeypatch.setattr(file_download, "time", hasty)
    monkeypatch.setattr("huggingface_hub.utils._http.time", hasty)
    return asked


def refusing(kind: str, status: int, code: str = "") -> dict[str, object]:
    return {"refuse": {kind: (status, code)}}


@pytest.mark.parametrize(
    ("faults", "sentence", "fix"),
    [
        (refusing("api", 404, "RepoNotFound"), "there is no repository", "owner/name"),
        (refusing("api", 404, "RevisionNotFound"), "has no revision", "commit, branch or tag"),
        (refusing("api", 403, "GatedRepo"), "is gated", "hf auth login"),
        (refusing("api", 401), "is private, or there is no such", "hf auth login"),
        (refusing("api", 403), "is forbidden to you", "hf auth login"),
        (refusing("api", 500), r"answers with an error \(500\)", "try again later"),
        (refusing("api", 429), r"answers with an error \(429\)", "try again later"),
        (refusing("api", 503), None, ""),
        (refusing("HEAD", 503), None, ""),
        (refusing("GET", 503), None, ""),
        (refusing("HEAD", 404, "EntryNotFound"), r"has no file config\.json", "revision"),
        ({"api": "<html>log in</html>"}, "is not a hub's", "HF_ENDPOINT"),
        ({"api": "[]"}, "is not a hub's", "HF_ENDPOINT"),
        ({"api": '{"id": "x"}'}, "is not a hub's", "HF_ENDPOINT"),
        ({"api": '{"sha": "main"}'}, "is not a hub's", "HF_ENDPOINT"),
    ],
)
def test_each_fault_of_the_hub_has_its_sentence(
    faults: dict[str, object], sentence: str | None, fix: str, serve: Serve, fetch: Fetch
) -> None:
    fake = serve(files=FILES, **faults)
    with pytest.raises(UnavailableError, match=sentence) as caught:
        fetch(fake=fake)
    assert fix in caught.value.fix
    assert fake.address in caught.value.where
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("kind", ["api", "HEAD", "GET"])
def test_a_hub_that_always_refuses_is_given_up(
    kind: str, status: int, fetch: Fetch, pauses: list[float]
) -> None:
    """After 20 refusals this hub would serve; the client's pauses are 1, 2, 4, 8 and 8 seconds."""
    with pytest.raises(UnavailableError):
        fetch(files=FILES, refusals=20, **refusing(kind, status))
    assert sum(pauses) <= 30


@pytest.mark.parametrize("failures", [4, 5])
def test_a_file_cut_off_is_requested_five_times(
    failures: int, serve: Serve, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client before 1.0 gives up at the first cut, with this error."""
    right, asked = hub.hf_hub_download, []

    class ChunkedEncodingError(OSError):
        pass

    def cut_off(*given: object, **named: object) -> object:
        asked.append(given)
        if len(asked) <= failures:
            raise ChunkedEncodingError
        return right(*given, **named)

    monkeypatch.setattr(hub, "hf_hub_download", cut_off)
    fake = serve(files=FILES)
    if failures < 5:
        assert fetch(fake=fake).paths["config.json"].read_bytes() == b"{}"
    else:
        with pytest.raises(UnavailableError, match=r"broke off during config\.json"):
            fetch(fake=fake)
        assert len(asked) == 5


def test_an_id_of_no_repository_is_not_requested(serve: Serve, fetch: Fetch) -> None:
    fake = serve(files=FILES)
    with pytest.raises(RejectedError, match="no id of a repository"):
        fetch("a/b/c", fake=fake)
    assert not fake.asked


@pytest.mark.parametrize("faults", [refusing("api", 500), {"api": "<html>log in</html>"}])
def test_the_cache_serves_while_the_hub_is_down(faults: dict[str, object], fetch: Fetch) -> None:
    """A branch is then at the commit it was last seen at, which the result names."""
    first = fetch(RELEASED, "main", files=FILES)
    again = fetch(RELEASED, "main", files=FILES, **faults)
    assert (first.commit, True) == (again.commit, again.from_cache)


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("http://127.0.0.1:9", "cannot connect to the hub"),
        ("no address", "cannot connect|is not a hub"),
        ("http://[", "cannot connect|is not a hub"),
    ],
)
def test_an_address_without_a_hub_is_reported(endpoint: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=sentence):
        hub.fetch(RELEASED, hub=Hub(endpoint=endpoint, cache=tmp_path))


def test_a_silent_hub_is_given_up(
    serve: Serve, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer after 3 s, which is within the client's own time limit of 10 s."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    fake = serve(files=FILES, mute=3.0)
    with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
        fetch(fake=fake)
    assert not hub.reachable(0.1, endpoint=fake.address)


def test_a_file_cut_off_once_is_completed(fetch: Fetch) -> None:
    fetched = fetch(files=FILES, cut=CUT, cuts=1)
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.mark.parametrize(("cut", "forgetful"), [(0, False), (CUT, True)])
def test_a_file_always_cut_off_is_given_up(
    cut: int, *, forgetful: bool, fetch: Fetch, tmp_path: Path
) -> None:
    """Also where the server starts again from the first byte each time."""
    with pytest.raises(UnavailableError, match=r"download incomplete: .*model\.safetensors"):
        fetch(files=FILES, cut=cut, forgetful=forgetful, spared="config.json")
    assert not list(tmp_path.glob("*/snapshots/*/model.safetensors"))


def test_a_file_that_stops_coming_names_the_timeout(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    sentence = r"no new bytes of model\.safetensors for 0\.2 s"
    with pytest.raises(UnavailableError, match=sentence):
        fetch(files=FILES, cut=CUT, hang=2.0)


def test_a_slow_file_is_waited_for(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the timeout, which counts from byte to byte."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    started = time.monotonic()
    fetched = fetch(files=FILES, pace=0.04)
    assert time.monotonic() - started > 0.5
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """Let no file grow beyond half a megabyte, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_is_named(fetch: Fetch) -> None:
    with pytest.raises(UnavailableError, match="the disk is full") as caught:
        fetch(files=FILES)
    assert "model.safetensors" in caught.value.where


def test_a_file_in_the_place_of_the_cache_is_named(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UnavailableError, match="the cache cannot be used"):
        fetch(files=FILES, cache=tmp_path / "cache")


LISTING = HubRequest(
    repository="me/mine", revision="main", endpoint="https://hub", cache=Path("cache")
)
FILE = HubRequest(**{**vars(LISTING), "file": "config.json"})


class ReadTimeout(Exception):  # noqa: N818 - the name in both HTTP libraries
    pass


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
    meant = explain(error, asked)
    assert type(meant) is kind
    assert sentence in meant.what
    assert "\n" not in str(meant)
    assert meant.where
    assert meant.fix


def test_the_cause_of_a_client_error_is_explained() -> None:
    """The client reports every failed request as "not in the cache"."""
    wrapped = errors.LocalEntryNotFoundError("cannot find the requested files")
    wrapped.__cause__ = ReadTimeout()
    assert "no answer within 10 s" in explain(wrapped, FILE).what


def test_an_explained_error_is_unchanged() -> None:
    refusal = RejectedError("not this", where="doc", fix="another")
    assert explain(refusal, FILE) is refusal


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ZeroDivisionError()])
def test_a_programming_error_is_not_explained(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        explain(error, FILE)
    assert error is caught.value
