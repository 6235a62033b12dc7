"""Every trouble with the hub has its sentence, and none is waited for without end."""

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest
from huggingface_hub import file_download

from reference import hub
from reference.errors import RejectedError, UnavailableError
from reference.hub import FetchedFolder, Hub

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
    """Let the client sleep a hundredth of a second where it would sleep one, between its tries."""
    hasty = vars(time) | {"sleep": lambda _: time.sleep(0.01)}
    monkeypatch.setattr(file_download, "time", SimpleNamespace(**hasty))


REFUSALS = {
    "no such repository": (404, "RepoNotFound", "there is no repository", "owner/name"),
    "no such revision": (404, "RevisionNotFound", "has no revision", "commit, branch or tag"),
    "gated": (403, "GatedRepo", "is gated", "hf auth login"),
    "unauthorised": (401, "", "is not shown to you", "hf auth login"),
    "forbidden": (403, "", "is forbidden to you", "hf auth login"),
    "broken": (500, "", r"answers with an error \(500\)", "try again later"),
    "overrun": (429, "", r"answers with an error \(429\)", "try again later"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_each_refusal_has_its_sentence(
    refusal: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """What the hub says, in one line, with the address and the way out; and no cause but that."""
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


def test_an_error_that_passes_is_asked_through(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Two answers with an error, and then the files."""
    fake = serve(files=FILES, refuse={"api": (503, "")}, refusals=2)
    assert fetch(fake, tmp_path).paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.mark.parametrize("kind", ["api", "HEAD", "GET"])
def test_a_hub_that_is_down_is_given_up(
    kind: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Whichever question it answers with an error for ever."""
    fake = serve(files=FILES, refuse={kind: (503, "")})
    with pytest.raises(UnavailableError):
        fetch(fake, tmp_path, answer=0.3, stall=0.3)


@pytest.mark.parametrize(
    "trouble", [{"refuse": {"api": (500, "")}}, {"api": "<html>log in</html>"}]
)
def test_the_cache_serves_while_the_hub_is_down(
    trouble: dict[str, object], serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A branch is then at the commit it was last seen at, and that is said."""
    first = fetch(serve(files=FILES), tmp_path, RELEASED, "main")
    again = fetch(serve(files=FILES, **trouble), tmp_path, RELEASED, "main")
    assert (first.commit, True) == (again.commit, again.from_cache)


@pytest.mark.parametrize("answer", ["<html>log in</html>", "[]", '{"id": "x"}', '{"sha": "main"}'])
def test_what_is_no_hub_is_told_from_one(
    answer: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A page to log in to the network, and JSON that no hub would send."""
    with pytest.raises(UnavailableError, match="is no hub"):
        fetch(serve(files=FILES, api=answer), tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("http://127.0.0.1:9", "cannot connect to the hub"),
        ("no address", "cannot connect|is no hub"),
        ("http://[", "cannot connect|is no hub"),
    ],
)
def test_nobody_is_there(endpoint: str, sentence: str, tmp_path: Path) -> None:
    """A closed port, and addresses that are none."""
    with pytest.raises(UnavailableError, match=sentence):
        hub.fetch(RELEASED, hub=Hub(endpoint=endpoint, cache=tmp_path, answer=1.0))


def test_a_silent_hub_is_given_up(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """It takes the connection and says nothing; the seconds waited are named."""
    fake = serve(files=FILES, mute=1.0)
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
        fetch(fake, tmp_path, answer=0.2)
    assert not hub.reachable(0.1, endpoint=fake.address)
    assert time.monotonic() - started < 1.0


def test_a_file_cut_off_once_comes_after_all(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Whole, and with its digest."""
    fetched = fetch(serve(files=FILES, cut=CUT, cuts=1), tmp_path, stall=2.0)
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_file_always_cut_off_is_given_up(
    forgetful: bool,  # noqa: FBT001 - a case
    serve: Serve,
    fetch: Fetch,
    tmp_path: Path,
) -> None:
    """Also where the server starts over each time, which the client would follow for ever."""
    cut = CUT if forgetful else 0
    with pytest.raises(UnavailableError, match=r"download incomplete: .*model\.safetensors"):
        fetch(
            serve(files=FILES, cut=cut, forgetful=forgetful, spared="config.json"),
            tmp_path,
            stall=0.4,
        )
    assert not list(tmp_path.glob("*/snapshots/*/model.safetensors"))


def test_a_file_that_stops_coming_names_the_timeout(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """And how much of it had come."""
    sentence = r"stopped at [1-9][\d,]* of 1,024,000 bytes, no new byte for 0\.4 s"
    with pytest.raises(UnavailableError, match=sentence):
        fetch(serve(files=FILES, cut=CUT, hang=2.0), tmp_path, stall=0.4)


def test_a_slow_file_is_waited_for(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """It takes longer than a stall may, and never stalls."""
    started = time.monotonic()
    fetched = fetch(serve(files=FILES, pace=0.04), tmp_path, stall=0.4)
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
