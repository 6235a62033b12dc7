"""The hub's cache: damage to it is seen, whatever was damaged."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from reference import hub_cache
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
    """Whichever way a blob was damaged, small or large, the file and the way out are named."""
    fake = serve(files=FILES)
    DAMAGES[damage](blob(fetch(fake, tmp_path).paths[name]))
    for offline in (True, False):
        with pytest.raises(RejectedError, match=f"cache damaged: {name}") as caught:
            fetch(fake, tmp_path, offline=offline)
        assert f"hf cache rm model/{RELEASED}" in caught.value.fix


def test_a_plain_copy_in_place_of_a_link_is_taken(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Where the cache has no links nothing says what the bytes must be."""
    path = fetch(serve(files=FILES), tmp_path).paths["config.json"]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert hub_cache.etag(path) is None
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
    """And says so where it would have to be written to."""
    assert fetch(serve(files={}), locked).from_cache
    with pytest.raises(UnavailableError, match="the cache cannot be used") as caught:
        fetch(serve(files=FILES, repository="me/mine"), locked, "me/mine")
    assert "HF_HOME" in caught.value.fix


def test_a_cache_that_may_not_be_looked_into_is_named(
    serve: Serve, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says that the model is not there."""
    fake = serve(files=FILES)
    fetch(fake, tmp_path)

    def forbid(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbid)
    with pytest.raises(UnavailableError, match="the cache cannot be used: Permission denied"):
        fetch(fake, tmp_path, offline=True)


def test_weights_without_their_config_are_not_a_model(
    serve: Serve, fetch: Fetch, tmp_path: Path
) -> None:
    """Somebody else cached the weights alone."""
    fake = serve(files=FILES)
    fetch(fake, tmp_path).paths["config.json"].unlink()
    with pytest.raises(UnavailableError, match="not in the cache"):
        fetch(fake, tmp_path, offline=True)


def test_a_dangling_link_of_a_branch_is_refused(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """The hub can be asked, and is: yet what was fetched has gone, and that is said."""
    fake = serve(files=FILES)
    blob(fetch(fake, tmp_path, RELEASED, "main").paths["vocab.json"]).unlink()
    with pytest.raises(RejectedError, match=r"cache damaged: vocab\.json"):
        fetch(fake, tmp_path, RELEASED, "main")
