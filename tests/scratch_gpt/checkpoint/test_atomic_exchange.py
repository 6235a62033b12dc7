"""Two folders trade names."""

import ctypes
import errno
from pathlib import Path

import pytest

from scratch_gpt.checkpoint import atomic as module
from scratch_gpt.checkpoint.atomic import exchange_paths


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in folders:
        folder.mkdir()
        (folder / folder.name).touch()
    return folders


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Library:
    """A C library whose renameat2 fails with `number`, or that has none."""

    def __init__(self, number: int | None) -> None:
        if number is not None:
            self.renameat2 = lambda *_arguments: ctypes.set_errno(number) or -1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, None, 0])
def test_trade_names(
    number: int | None, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step (0), and where the system, the file system or the library cannot do that."""
    if number != 0:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: Library(number))
    one, other = two
    exchange_paths(one, other)
    assert (names(one), names(other)) == (["other"], ["one"])
    assert names(one.parent) == ["one", "other"]


def test_one_step_is_one_call(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Path, "rename", fail)
    exchange_paths(*two)
    assert names(two[0]) == ["other"]


def test_another_system_renames(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_linux", lambda: False)
    monkeypatch.setattr(ctypes, "CDLL", None)
    exchange_paths(*two)
    assert names(two[0]) == ["other"]


def test_a_refusal_is_an_error(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: Library(errno.EROFS))
    with pytest.raises(OSError, match="Read-only file system") as refusal:
        exchange_paths(*two)
    assert refusal.value.errno == errno.EROFS
    assert (names(two[0]), names(two[1])) == (["one"], ["other"])


def test_a_half_done_exchange_is_undone(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_is_linux", lambda: False)
    one, other = two
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path == one:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        exchange_paths(one, other)
    assert (names(one), names(other)) == (["one"], ["other"])
