"""The folder in which a folder is prepared."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scratch_gpt.checkpoint import atomic
from scratch_gpt.checkpoint.atomic import make_staging, sweep

A_DAY = 24 * 60 * 60


@pytest.fixture
def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def left_behind(parent: Path, name: str, age: float) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "model.safetensors").touch()
    os.utime(folder, (time.time() - age, time.time() - age))
    return folder


def test_is_new_and_names_its_owner(tmp_path: Path) -> None:
    one, other = make_staging(tmp_path), make_staging(tmp_path)
    assert one != other
    for folder in (one, other):
        assert folder.parent == tmp_path
        assert folder.name.startswith(f".gpt1-{os.getpid()}-")
        assert not list(folder.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0])
def test_its_mode_is_what_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = make_staging(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_an_old_one_of_a_dead_owner_is_swept(tmp_path: Path, dead: int) -> None:
    folder = left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial", A_DAY + 60)
    sweep(tmp_path)
    assert not folder.exists()


def test_what_may_still_be_wanted_is_not_swept(tmp_path: Path, dead: int) -> None:
    kept = [
        left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial", A_DAY - 60),
        left_behind(tmp_path, f".gpt1-{os.getpid()}-0123abcd.partial", 2 * A_DAY),
        left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial.replaced", 2 * A_DAY),
        left_behind(tmp_path, f".gpt1-{dead}-mine.partial", 2 * A_DAY),
        left_behind(tmp_path, f"gpt1-{dead}-0123abcd.partial", 2 * A_DAY),
    ]
    sweep(tmp_path)
    assert sorted(kept) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "alive"), [(PermissionError, True), (ProcessLookupError, False)])
def test_the_system_tells_who_lives(
    error: type[OSError], alive: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, "kill", refuse)
    assert alive is atomic._is_alive(1)


def test_a_system_that_cannot_tell_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the question would kill."""
    monkeypatch.setattr(os, "kill", None)
    monkeypatch.setattr(os, "name", "nt")
    assert atomic._is_alive(1)


def test_a_folder_that_cannot_be_listed_is_let_be(tmp_path: Path) -> None:
    sweep(tmp_path / "missing")
