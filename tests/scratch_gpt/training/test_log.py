"""Every step stands in the log once, whatever happened."""

import errno
import os
from pathlib import Path

import pytest

from scratch_gpt.errors import WriteError
from scratch_gpt.training import log
from scratch_gpt.training.log import Log


def steps(path: Path) -> list[int]:
    """Return the steps of a log's lines."""
    return [line["step"] for line in log.read_log(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a log of five steps."""
    path = tmp_path / "log.jsonl"
    lines = Log(path, step=0, warn=pytest.fail)
    for step in range(1, 6):
        lines.write({"step": step, "loss": 0.1 * step})
    lines.close()
    return path


def test_lines_come_back(path: Path) -> None:
    """Every number bit for bit."""
    assert [0.1 * step for step in range(1, 6)] == [line["loss"] for line in log.read_log(path)]


def test_a_resumed_run_overwrites_what_came_after_its_checkpoint(path: Path) -> None:
    """Steps 4 and 5 were done by a process that died before they were saved."""
    lines = Log(path, step=3, warn=pytest.fail)
    lines.write({"step": 4, "loss": 0.0})
    lines.close()
    assert steps(path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "tail", [b'{"step": 6, "lo', b'{"step": 6}', b"{}x\n", b"{}\n", b"\x00\xff\n"]
)
def test_a_line_that_was_never_finished_is_none(path: Path, tail: bytes) -> None:
    """Also where only its line break is missing."""
    path.write_bytes(path.read_bytes() + tail)
    assert steps(path) == [1, 2, 3, 4, 5]
    Log(path, step=5, warn=pytest.fail).close()
    assert not path.read_bytes().endswith(tail)


def test_missing_steps_are_told(path: Path) -> None:
    """A log that knows less than the checkpoint does not pass for a whole one."""
    warnings: list[str] = []
    Log(path, step=8, warn=warnings.append).close()
    assert warnings == ["log.jsonl holds 5 of the 8 steps done"]


def test_what_is_no_number_is_strict_json(path: Path) -> None:
    """NaN becomes text, for JSON has none."""
    lines = Log(path, step=5, warn=pytest.fail)
    lines.write({"step": 6, "loss": float("nan")})
    lines.close()
    assert log.read_log(path)[-1] == {"step": 6, "loss": "nan"}


def test_a_full_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what it is, with a way out."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines = Log(path, step=5, warn=pytest.fail)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="the disk is full"):
        lines.settle()
    with pytest.raises(WriteError, match="the disk is full"):
        Log(path, step=2, warn=pytest.fail)
    assert steps(path) == [1, 2, 3, 4, 5]
    lines.close()
