"""The hub's cache: complete, incomplete, damaged, read-only, shared by processes."""

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
from typing import Protocol

import pytest

from reference import hub
from reference.errors import RejectedError, UnavailableError
from reference.hub import FetchedFolder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

RELEASED = "openai-community/openai-gpt"
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 2000,
    "vocab.json": b'{"a": 0}',
}


class Fake(Protocol):
    """What these tests ask of a fake hub."""

    address: str
    asked: list[tuple[str, str]]


Serve = Callable[..., Fake]
Fetch = Callable[..., FetchedFolder]


def blob(path: Path) -> Path:
    """Return the file that a snapshot's file is a link to."""
    assert path.is_symlink()
    return path.resolve()


def flip(path: Path) -> None:
    """Turn one bit of a file's middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "gone, its link dangling": Path.unlink,
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_refused(
    damage: str,
    name: str,
    serve: Serve,
    fetch: Fetch,
    tmp_path: Path,
) -> None:
    """The error names the file and the fix, for a small and a large blob."""
    fake = serve(files=FILES)
    DAMAGES[damage](blob(fetch(fake, tmp_path).paths[name]))
    for offline in (True, False):
        with pytest.raises(RejectedError, match=f"cache damaged: {name}") as caught:
            fetch(fake, tmp_path, offline=offline)
        assert f"hf cache rm model/{RELEASED}" in caught.value.fix


def test_a_plain_copy_in_place_of_a_link_is_taken(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """A cache without links records no digest to compare with."""
    path = fetch(serve(files=FILES), tmp_path).paths["config.json"]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert "config.json" in fetch(serve(files={}), tmp_path, offline=True).paths


@pytest.fixture
def locked(serve: Serve, fetch: Fetch) -> Iterator[Path]:
    """Return a cache with the released model in it that this process may not write to."""
    cache = Path(tempfile.mkdtemp())
    fetch(serve(files=FILES), cache)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # nothing is forbidden to it
        os.seteuid(65_534)
    yield cache
    if root:
        os.seteuid(0)
    for folder in folders:
        folder.chmod(0o755)
    shutil.rmtree(cache)


def test_a_read_only_cache_serves_what_it_has(serve: Serve, fetch: Fetch, locked: Path) -> None:
    """It serves what it has; a download reports that it cannot be written."""
    assert fetch(serve(files={}), locked).from_cache
    with pytest.raises(UnavailableError, match="the cache cannot be used") as caught:
        fetch(serve(files=FILES, repository="me/mine"), locked, "me/mine")
    assert "HF_HOME" in caught.value.fix


def test_a_cache_that_may_not_be_looked_into_is_named(
    serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error does not claim that the model is absent."""
    fake = serve(files=FILES)
    fetch(fake, tmp_path)

    def forbid(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbid)
    with pytest.raises(UnavailableError, match="the cache cannot be used: Permission denied"):
        fetch(fake, tmp_path, offline=True)


def test_an_incomplete_commit_is_named_with_what_it_lacks(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Another program may have cached some of its files."""
    fake = serve(files=FILES)
    paths = fetch(fake, tmp_path).paths
    paths["model.safetensors"].unlink()
    with pytest.raises(UnavailableError, match="not in the cache") as caught:
        fetch(fake, tmp_path, offline=True)
    assert "the cache has config.json, vocab.json, lacks model.safetensors" in caught.value.what
    paths["config.json"].unlink()
    with pytest.raises(UnavailableError, match=r"lacks config\.json, model\.safetensors"):
        fetch(fake, tmp_path, offline=True)


def test_other_commits_in_the_cache_are_named(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """The fix selects one of them."""
    fetch(serve(files=FILES, commit="a" * 40), tmp_path, RELEASED, "a" * 40)
    with pytest.raises(UnavailableError, match=f"in the cache at commits {'a' * 40}") as caught:
        fetch(serve(files={}), tmp_path, offline=True)
    assert caught.value.fix.startswith(f"use {RELEASED}@{'a' * 40}; or")


def test_a_dangling_link_of_a_branch_is_refused(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """The hub answers, yet the fetched bytes are gone, which is reported."""
    fake = serve(files=FILES)
    blob(fetch(fake, tmp_path, RELEASED, "main").paths["vocab.json"]).unlink()
    with pytest.raises(RejectedError, match=r"cache damaged: vocab\.json"):
        fetch(fake, tmp_path, RELEASED, "main")


@pytest.mark.parametrize("first", range(len(hub.WEIGHTS)))
def test_the_first_form_that_is_there_is_taken(first: int) -> None:
    """Safetensors before pickles, whole files before shards."""
    names = {*hub.WEIGHTS[first:], "tf_model.h5", "rust_model.ot", "README.md"}
    assert hub.WEIGHTS[first] == hub.weights(names)


def test_other_files_are_no_weights() -> None:
    """Those of other libraries, and those whose names only look alike."""
    assert hub.weights({"tf_model.h5", "model.safetensors.bak", "a/model.safetensors"}) is None


def index(text: str, folder: Path) -> Path:
    """Write an index; return its path."""
    path = folder / "model.safetensors.index.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_shard_is_named_once(tmp_path: Path) -> None:
    """However many tensors it holds."""
    text = json.dumps(
        {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    )
    assert hub.shards(index(text, tmp_path)) == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[]", "{}", "7", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {}}'),
        *('{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": "/etc/passwd"}}'),
        *(
            '{"weight_map": {"a": ""}}',
            '{"weight_map": {"a": ".."}}',
            '{"weight_map": {"a": "b/c"}}',
        ),
        *(
            '{"weight_map": {"a": "b\\\\c"}}',
            '{"weight_map": {"a": 7}}',
            '{"weight_map": {"a": null}}',
        ),
    ],
    ids=lambda text: text[:32],
)
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """Malformed, empty, or naming what lies outside its folder."""
    with pytest.raises(RejectedError, match=r"model\.safetensors\.index\.json"):
        hub.shards(index(text, tmp_path))


def started(fake: Fake, cache: Path) -> "subprocess.Popen[str]":
    """Start another process that fetches the released model and prints its commit."""
    source = f"""
    from pathlib import Path
    from reference import hub
    from reference.hub import Hub

    at = Hub(endpoint={fake.address!r}, cache=Path({str(cache)!r}))
    print(hub.fetch({RELEASED!r}, hub=at).commit)
    """
    home = str(Path(hub.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=os.environ | {"PYTHONPATH": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LARGE = FILES | {"model.safetensors": bytes(range(256)) * 4000}


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_is_resumed_or_reported(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """The next run finishes it, or lists the unfinished file."""
    slow = serve(files=LARGE, pace=0.02)
    with started(slow, tmp_path) as process:
        wait_for(lambda: any(tmp_path.glob("*/blobs/*.incomplete")))
        process.send_signal(signal.SIGKILL)
    left = list(tmp_path.glob("*/blobs/*.incomplete"))
    assert left
    fetched = fetch(serve(files=LARGE), tmp_path)
    assert fetched.paths["model.safetensors"].read_bytes() == LARGE["model.safetensors"]
    assert [path for path in left if path.exists()] == list(fetched.unfinished)


@pytest.mark.slow  # two interpreters are started
def test_two_processes_fetch_at_once(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Both succeed, and the cache is sound."""
    fake = serve(files=LARGE, pace=0.002)
    with started(fake, tmp_path) as first, started(fake, tmp_path) as second:
        output = [process.communicate(timeout=30) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], output
    fetched = fetch(serve(files={}), tmp_path)
    assert fetched.paths["model.safetensors"].read_bytes() == LARGE["model.safetensors"]
