"""Files of a model from the hub: which come, from which commit, with digests checked."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from huggingface_hub import constants

from reference import hub, published
from reference.errors import RejectedError, UnavailableError
from reference.hub import FetchedFolder, Hub

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

RELEASED = "openai-community/openai-gpt"
FILES = {
    "README.md": b"not wanted",
    "config.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
    "model.safetensors": bytes(range(256)) * 2000,
    "rust_model.ot": b"not wanted either",
    "vocab.json": b'{"a": 0}',
}
WANTED = ["config.json", "merges.txt", "model.safetensors", "vocab.json"]


class Fake(Protocol):
    """What these tests ask of a fake hub."""

    address: str
    asked: list[tuple[str, str]]


Serve = Callable[..., Fake]
Fetch = Callable[..., FetchedFolder]


def test_fetches_what_a_model_needs(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Config, weights and vocabulary come, byte for byte and with their digests; no more does."""
    fetched = fetch(serve(files=FILES), tmp_path)
    assert list(fetched.paths) == WANTED
    assert [FILES[name] for name in WANTED] == [
        path.read_bytes() for path in fetched.paths.values()
    ]
    sha256 = {name: hashlib.sha256(FILES[name]).hexdigest() for name in WANTED}
    assert sha256 == {name: file.sha256 for name, file in fetched.digests.items()}
    assert (fetched.from_cache, fetched.unfinished) == (False, [])


def test_the_released_model_is_pinned(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Without a revision its published commit is requested, wherever the branch has moved."""
    fake = serve(files=FILES)
    fetched = fetch(fake, tmp_path)
    assert fetched.commit == published.REVISION
    assert fake.asked[0][1].startswith(f"/api/models/{RELEASED}/revision/{published.REVISION}")
    moved = serve(files=FILES, commit="f" * 40)
    with pytest.raises(UnavailableError, match=f"has no revision {published.REVISION}"):
        fetch(moved, tmp_path / "other")


def test_any_other_model_is_taken_from_its_main_branch(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """The result names the commit that the branch is at."""
    fetched = fetch(serve(files=FILES, repository="me/mine", commit="a" * 40), tmp_path, "me/mine")
    assert (fetched.repository, fetched.commit) == ("me/mine", "a" * 40)


def test_a_branch_that_moved_is_followed(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """A cached older commit does not replace the current one."""
    fetch(serve(files=FILES, commit="a" * 40), tmp_path, RELEASED, "main")
    newer = FILES | {"config.json": b'{"newer": 1}'}
    fetched = fetch(serve(files=newer, commit="b" * 40), tmp_path, RELEASED, "main")
    assert fetched.commit == "b" * 40
    assert fetched.paths["config.json"].read_bytes() == b'{"newer": 1}'


def test_a_pinned_model_in_the_cache_sends_no_request(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Its commit cannot have moved."""
    fake = serve(files=FILES)
    first = fetch(fake, tmp_path)
    count = len(fake.asked)
    second = fetch(fake, tmp_path)
    assert (count, True) == (len(fake.asked), second.from_cache)
    assert (first.paths, first.digests) == (second.paths, second.digests)


def test_weights_cached_alone_get_their_vocabulary(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A commit cached without it is completed if the hub answers."""
    fetched = fetch(serve(files=FILES), tmp_path)
    fetched.paths["vocab.json"].unlink()
    dead = Hub(endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert "vocab.json" not in hub.fetch(RELEASED, hub=dead).paths
    assert "vocab.json" in fetch(serve(files=FILES), tmp_path).paths


@pytest.mark.parametrize("how", ["argument", "switch"])
def test_offline_takes_the_cache(
    how: str, serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the argument or by HF_HUB_OFFLINE; a branch is at its last known commit."""
    fake = serve(files=FILES)
    fetch(fake, tmp_path, RELEASED, "main")
    count = len(fake.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "switch")
    fetched = fetch(fake, tmp_path, RELEASED, "main", offline=how == "argument" or None)
    assert (fetched.from_cache, fetched.commit) == (True, published.REVISION)
    assert count == len(fake.asked)


def test_offline_without_a_cache_names_two_ways_out(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A local path, or a download elsewhere; no request is sent."""
    fake = serve(files=FILES)
    with pytest.raises(UnavailableError, match="not in the cache") as caught:
        fetch(fake, tmp_path, offline=True)
    assert "local path" in caught.value.fix
    assert "elsewhere" in caught.value.fix
    assert not fake.asked


def test_both_ids_of_the_released_model_share_the_cache(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Files fetched under one id are found under the other."""
    fetch(serve(files=FILES), tmp_path)
    fetched = fetch(serve(files={}), tmp_path, "openai-gpt", offline=True)
    assert (fetched.repository, list(fetched.paths)) == (RELEASED, WANTED)


def test_wrong_bytes_of_the_right_size_are_refused(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """The client accepts them; their digest differs from the ETag."""
    fake = serve(files=FILES, swapped={"model.safetensors": b"x" * 512_000})
    with pytest.raises(RejectedError, match=r"model\.safetensors: its digest differs from the hub"):
        fetch(fake, tmp_path)


def test_wrong_bytes_of_a_small_file_are_refused(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Its ETag is git's id, which is compared too."""
    fake = serve(files=FILES, swapped={"vocab.json": b'{"b": 0}'})
    with pytest.raises(RejectedError, match=r"vocab\.json: its digest differs from the hub"):
        fetch(fake, tmp_path)


SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}',
    "a.safetensors": b"aaa",
    "b.safetensors": b"bbb",
    "c.safetensors": b"of no tensor",
}


def test_the_shards_of_an_index_come(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Those that it lists and no other; without the last of them the cache is not complete."""
    fetched = fetch(serve(files=SHARDED), tmp_path)
    assert sorted(SHARDED.keys() - {"c.safetensors"}) == list(fetched.paths)
    assert list(fetch(serve(files={}), tmp_path, offline=True).paths) == list(fetched.paths)
    fetched.paths["b.safetensors"].unlink()
    with pytest.raises(UnavailableError, match="not in the cache"):
        fetch(serve(files={}), tmp_path, offline=True)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_without_a_model_is_refused(
    missing: str, serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """What it lacks is named."""
    files = {name: data for name, data in FILES.items() if name != missing}
    with pytest.raises(RejectedError, match=r"has no (weights|config\.json) that can be read"):
        fetch(serve(files=files), tmp_path)


def test_without_a_home_the_cache_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unresolved tilde does not become a folder of that name."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(UnavailableError, match="HOME is not set"):
        hub.fetch(RELEASED, offline=True)
    assert not Path("~").exists()


def test_a_hub_that_answers_is_reachable(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer counts; a closed port and the offline switch do not."""
    fake = serve(files={}, refuse={"HEAD": (500, "")})
    assert hub.reachable(1.0, endpoint=fake.address)
    assert not hub.reachable(1.0, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.reachable(1.0, endpoint=fake.address)
