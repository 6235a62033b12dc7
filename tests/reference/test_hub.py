"""Files of a model from the hub and its cache: which, from which commit, with digests checked."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from reference import hub, published
from reference.errors import RejectedError, UnavailableError
from reference.hub import FetchedFolder, Hub

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

RELEASED = "openai-community/openai-gpt"
WEIGHTS = "model.safetensors"
FILES = {
    "README.md": b"not wanted",
    "config.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
    WEIGHTS: bytes(range(256)) * 2000,
    "rust_model.ot": b"not wanted either",
    "vocab.json": b'{"a": 0}',
}
WANTED = ["config.json", "merges.txt", WEIGHTS, "vocab.json"]
LARGE = FILES | {WEIGHTS: bytes(range(256)) * 4000}

Serve = Callable[..., Any]
Fetch = Callable[..., FetchedFolder]


def test_fetches_what_a_model_needs(fetch: Fetch) -> None:
    fetched = fetch(files=FILES)
    assert list(fetched.paths) == WANTED
    assert [FILES[name] for name in WANTED] == [p.read_bytes() for p in fetched.paths.values()]
    sha256 = {name: hashlib.sha256(FILES[name]).hexdigest() for name in WANTED}
    assert sha256 == {name: file.sha256 for name, file in fetched.digests.items()}
    assert (fetched.from_cache, fetched.unfinished) == (False, [])


def test_the_released_model_is_pinned(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Without a revision its published commit is requested, wherever the branch has moved."""
    fake = serve(files=FILES)
    fetched = fetch(fake=fake)
    assert fetched.commit == published.REVISION
    assert fake.asked[0][1].startswith(f"/api/models/{RELEASED}/revision/{published.REVISION}")
    moved = serve(files=FILES, commit="f" * 40)
    with pytest.raises(UnavailableError, match=f"has no revision {published.REVISION}"):
        fetch(fake=moved, cache=tmp_path / "other")


def test_any_other_model_is_taken_from_its_main_branch(fetch: Fetch) -> None:
    fetched = fetch("me/mine", files=FILES, repository="me/mine", commit="a" * 40)
    assert (fetched.repository, fetched.commit) == ("me/mine", "a" * 40)


def test_a_branch_that_moved_is_followed(fetch: Fetch) -> None:
    fetch(RELEASED, "main", files=FILES, commit="a" * 40)
    newer = FILES | {"config.json": b'{"newer": 1}'}
    fetched = fetch(RELEASED, "main", files=newer, commit="b" * 40)
    assert fetched.commit == "b" * 40
    assert fetched.paths["config.json"].read_bytes() == b'{"newer": 1}'


def test_a_pinned_model_in_the_cache_sends_no_request(serve: Serve, fetch: Fetch) -> None:
    fake = serve(files=FILES)
    first = fetch(fake=fake)
    count = len(fake.asked)
    second = fetch(fake=fake)
    assert (count, True) == (len(fake.asked), second.from_cache)
    assert (first.paths, first.digests) == (second.paths, second.digests)


def test_weights_cached_alone_get_their_vocabulary(fetch: Fetch, tmp_path: Path) -> None:
    """A commit cached without it is completed if the hub answers."""
    fetch(files=FILES).paths["vocab.json"].unlink()
    dead = Hub(endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert "vocab.json" not in hub.fetch(RELEASED, hub=dead).paths
    assert "vocab.json" in fetch(files=FILES).paths


@pytest.mark.parametrize("how", ["argument", "switch"])
def test_offline_takes_the_last_commit_of_a_branch(
    how: str, serve: Serve, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve(files=FILES)
    fetch(RELEASED, "main", fake=fake)
    count = len(fake.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "switch")
    fetched = fetch(RELEASED, "main", fake=fake, offline=how == "argument" or None)
    assert (fetched.from_cache, fetched.commit) == (True, published.REVISION)
    assert count == len(fake.asked)


def test_offline_without_a_cache_names_two_ways_out(serve: Serve, fetch: Fetch) -> None:
    fake = serve(files=FILES)
    with pytest.raises(UnavailableError, match="not in the cache") as caught:
        fetch(fake=fake, offline=True)
    assert "local path" in caught.value.fix
    assert "elsewhere" in caught.value.fix
    assert not fake.asked


def test_both_ids_of_the_released_model_share_the_cache(fetch: Fetch) -> None:
    fetch(files=FILES)
    fetched = fetch("openai-gpt", files={}, offline=True)
    assert (fetched.repository, list(fetched.paths)) == (RELEASED, WANTED)


@pytest.mark.parametrize(("name", "data"), [(WEIGHTS, b"x" * 512_000), ("vocab.json", b'{"b": 0}')])
def test_wrong_bytes_of_the_right_size_are_refused(name: str, data: bytes, fetch: Fetch) -> None:
    """The client accepts them. A large file's ETag is its SHA-256, a small one's is git's id."""
    with pytest.raises(RejectedError, match=f"{name}: its digest differs from the hub"):
        fetch(files=FILES, swapped={name: data})


SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}',
    "a.safetensors": b"aaa",
    "b.safetensors": b"bbb",
    "c.safetensors": b"of no tensor",
}


def test_the_shards_of_an_index_are_fetched(fetch: Fetch) -> None:
    """No other shard comes; without the last of them the cache is not complete."""
    fetched = fetch(files=SHARDED)
    assert sorted(SHARDED.keys() - {"c.safetensors"}) == list(fetched.paths)
    assert list(fetch(files={}, offline=True).paths) == list(fetched.paths)
    fetched.paths["b.safetensors"].unlink()
    with pytest.raises(UnavailableError, match=r"is not complete in the cache.* lacks b\.safetens"):
        fetch(files={}, offline=True)


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS])
def test_a_repository_without_a_model_is_refused(missing: str, fetch: Fetch) -> None:
    files = {name: data for name, data in FILES.items() if name != missing}
    with pytest.raises(RejectedError, match=r"has no (weights|config\.json) that can be read"):
        fetch(files=files)


def test_without_a_home_the_cache_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unresolved tilde does not become a folder of that name."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(UnavailableError, match="HOME is not set"):
        hub.fetch(RELEASED, offline=True)
    assert not Path("~").exists()


def test_a_hub_that_answers_is_reachable(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(files={}, refuse={"HEAD": (500, "")})
    assert hub.reachable(1.0, endpoint=fake.address)
    assert not hub.reachable(1.0, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.reachable(1.0, endpoint=fake.address)


# The cache: incomplete, damaged, read-only, shared by processes.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "gone, its link dangling": Path.unlink,
}


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_refused(damage: str, name: str, fetch: Fetch) -> None:
    path = fetch(files=FILES).paths[name]
    assert path.is_symlink()
    DAMAGES[damage](path.resolve())
    for offline in (True, False):
        with pytest.raises(RejectedError, match=f"cache damaged: {name}") as caught:
            fetch(files=FILES, offline=offline)
        assert f"hf cache rm model/{RELEASED}" in caught.value.fix


def test_a_dangling_link_of_a_branch_is_refused(fetch: Fetch) -> None:
    fetch(RELEASED, "main", files=FILES).paths["vocab.json"].resolve().unlink()
    with pytest.raises(RejectedError, match=r"cache damaged: vocab\.json"):
        fetch(RELEASED, "main", files=FILES)


def test_a_plain_copy_in_place_of_a_link_is_taken(fetch: Fetch) -> None:
    """A cache without links records no digest to compare with."""
    path = fetch(files=FILES).paths["config.json"]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert "config.json" in fetch(files={}, offline=True).paths


@pytest.fixture
def locked(fetch: Fetch) -> Iterator[Path]:
    """Return a cache with the released model in it that this process may not write to."""
    cache = Path(tempfile.mkdtemp())
    fetch(files=FILES, cache=cache)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # root may write everywhere
        os.seteuid(65_534)
    yield cache
    if root:
        os.seteuid(0)
    for folder in folders:
        folder.chmod(0o755)
    shutil.rmtree(cache)


def test_a_read_only_cache_serves_its_files(fetch: Fetch, locked: Path) -> None:
    assert fetch(files={}, cache=locked).from_cache
    with pytest.raises(UnavailableError, match="the cache cannot be used") as caught:
        fetch("me/mine", files=FILES, repository="me/mine", cache=locked)
    assert "HF_HOME" in caught.value.fix


def test_a_cache_that_may_not_be_looked_into_is_named(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(files=FILES)

    def forbid(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbid)
    with pytest.raises(UnavailableError, match="the cache cannot be used: Permission denied"):
        fetch(files=FILES, offline=True)


def test_an_incomplete_commit_is_named_with_its_missing_files(fetch: Fetch) -> None:
    paths = fetch(files=FILES).paths
    paths[WEIGHTS].unlink()
    with pytest.raises(UnavailableError, match="is not complete in the cache") as caught:
        fetch(files=FILES, offline=True)
    has = f"@{published.REVISION} has config.json, merges.txt, vocab.json, lacks model.safetensors"
    assert has in caught.value.what
    assert f"hf download {RELEASED} --revision {published.REVISION}" in caught.value.fix
    paths["config.json"].unlink()
    with pytest.raises(UnavailableError, match=r"lacks config\.json, model\.safetensors"):
        fetch(files=FILES, offline=True)


def test_a_part_of_another_commit_is_named(fetch: Fetch) -> None:
    held = {"files": FILES, "repository": "owner/model", "commit": "a" * 40}
    fetch("owner/model", "a" * 40, **held).paths[WEIGHTS].unlink()
    with pytest.raises(UnavailableError, match="is not complete in the cache") as caught:
        fetch("owner/model", "b" * 40, files={}, offline=True)
    assert f"owner/model@{'a' * 40} has config.json" in caught.value.what


@pytest.mark.parametrize("offline", [True, False])
def test_other_commits_in_the_cache_are_named(*, offline: bool, fetch: Fetch) -> None:
    """They are named too if the hub gives no answer."""
    fetch(RELEASED, "a" * 40, files=FILES, commit="a" * 40)
    there = f"{RELEASED} is in the cache at {'a' * 40}, not at {published.REVISION}"
    with pytest.raises(UnavailableError, match=there) as caught:
        fetch(files={}, offline=offline, refuse={"api": (500, "")})
    assert caught.value.fix.startswith(f"use {RELEASED}@{'a' * 40}; or")


@pytest.mark.parametrize("first", range(len(hub.WEIGHTS)))
def test_safetensors_come_before_pickles_and_whole_files_before_shards(first: int) -> None:
    names = {*hub.WEIGHTS[first:], "tf_model.h5", "rust_model.ot", "README.md"}
    assert hub.WEIGHTS[first] == hub.weights(names)
    assert hub.weights({"tf_model.h5", "model.safetensors.bak", "a/model.safetensors"}) is None


def test_each_shard_is_named_once(tmp_path: Path) -> None:
    shards = {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    assert hub.shards(index) == ["1.safetensors", "2.safetensors"]


NO_FILES = ("../x", "/etc/passwd", "", "..", "b/c", "b\\c", 7, None)
NO_INDEXES = ("", "[", "[]", "{}", "7", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {}}')


@pytest.mark.parametrize(
    "text",
    [*NO_INDEXES, *(json.dumps({"weight_map": {"a": name}}) for name in NO_FILES)],
    ids=lambda text: text[:32],
)
def test_an_unsound_index_is_refused(text: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text, encoding="utf-8")
    with pytest.raises(RejectedError, match=r"model\.safetensors\.index\.json"):
        hub.shards(index)


def started(fake: Any, cache: Path) -> "subprocess.Popen[str]":  # noqa: ANN401 - a FakeHub
    """Start another process that fetches the released model and prints its commit."""
    source = f"""
    from pathlib import Path
    from reference import hub
    from reference.hub import Hub

    at = Hub(endpoint={fake.address!r}, cache=Path({str(cache)!r}))
    print(hub.fetch({RELEASED!r}, hub=at).commit)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=os.environ | {"PYTHONPATH": str(Path(hub.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_download_is_resumed_or_reported(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    with started(serve(files=LARGE, pace=0.02), tmp_path) as process:
        end = time.monotonic() + 30
        while not any(tmp_path.glob("*/blobs/*.incomplete")):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = list(tmp_path.glob("*/blobs/*.incomplete"))
    assert left
    fetched = fetch(files=LARGE)
    assert fetched.paths[WEIGHTS].read_bytes() == LARGE[WEIGHTS]
    assert [path for path in left if path.exists()] == list(fetched.unfinished)


@pytest.mark.slow  # two interpreters are started
def test_two_processes_fetch_at_once(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    fake = serve(files=LARGE, pace=0.002)
    with started(fake, tmp_path) as first, started(fake, tmp_path) as second:
        output = [process.communicate(timeout=30) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], output
    assert fetch(files={}).paths[WEIGHTS].read_bytes() == LARGE[WEIGHTS]


def test_a_damaged_index_of_another_commit_is_named(fetch: Fetch) -> None:
    held = {"files": SHARDED, "repository": "owner/model", "commit": "a" * 40}
    path = fetch("owner/model", "a" * 40, **held).paths["model.safetensors.index.json"]
    path.unlink()
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UnavailableError, match=f"@{'a' * 40} is damaged: model.safet") as caught:
        fetch("owner/model", "b" * 40, files={}, offline=True)
    assert "hf download owner/model" in caught.value.fix


def test_the_cache_is_described_without_a_request(fetch: Fetch, tmp_path: Path) -> None:
    dead = Hub(endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert hub.describe_cache("openai-gpt", hub=dead) == "openai-gpt is not in the cache"
    fetch(RELEASED, "a" * 40, files=FILES, commit="a" * 40)
    there = f"openai-gpt is in the cache at {'a' * 40}, not at {published.REVISION}"
    assert hub.describe_cache("openai-gpt", hub=dead) == there
