"""What no run can be made of is told, with a code and a way out."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch_gpt.training import run as run_module
from scratch_gpt.training.distributed import Group

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--recipe", "large"], 2, "there is no recipe 'large'"),
        (["--dropout", "1.5"], 2, "dropout must be a number in [0, 1), got 1.5"),
        (["--dropout", "much"], 2, "Invalid value for '--dropout'"),
        (["--n-positions", "100000"], 2, "a window takes 100000"),
        (["--vocabulary", "nowhere"], 4, "nowhere"),
        (["--data", "nowhere.txt"], 4, "nowhere.txt"),
    ],
)
def test_what_cannot_be_is_told(
    options: list[str], code: int, said: str, command: Command, tmp_path: Path
) -> None:
    """In three lines and a code."""
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--warmup", "9"], "warmup must be below steps, 8, got 9"),
        (["--allow-changed", "sead"], "there is nothing called sead to allow"),
        (["--tokens", "nowhere"], "prepared tokens and text are both given"),
        (["--timeout", "nan"], "a timeout of nan seconds is not allowed"),
        (["--timeout", "-1"], "a timeout of -1.0 seconds is not allowed"),
        (["--timeout", "0"], "a timeout of 0.0 seconds is not allowed"),
        (["--timeout", "inf"], "a timeout of inf seconds is not allowed"),
        (["--seed", str(2**64)], "seed must be a whole number from 0 to 2**64 - 1"),
    ],
)
def test_what_is_known_to_be_wrong_is_told_before_anything_is_made(
    options: list[str], said: str, command: Command, tmp_path: Path
) -> None:
    """No folder, and no minutes of preparation."""
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_micro_batches_are_told_before_anything_is_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the processes have met."""
    monkeypatch.setattr(run_module, "join_group", lambda *_, **__: nullcontext(Group(0, 3)))
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    assert "a step has 2 micro-batches for 3 processes" in result.stderr
    assert not (tmp_path / "run").exists()


def test_tokens_need_their_vocabulary(command: Command, tmp_path: Path) -> None:
    """Before one is learned from other text."""
    result = command(tmp_path / "run", "--tokens", "nowhere", data=None)
    assert (result.exit_code, "without their vocabulary" in result.stderr) == (2, True)
    assert not (tmp_path / "run" / "vocabulary").exists()
    result = command(tmp_path / "run", "--tokens", "nowhere", "--vocabulary", "x", data=None)
    assert (result.exit_code, "x" in result.stderr) == (4, True)


def test_a_curve_that_cannot_be_written_is_told(command: Command, tmp_path: Path) -> None:
    """As what the file system refused, not as a mistake of this program."""
    (tmp_path / "run" / "loss.png").mkdir(parents=True)
    (tmp_path / "run" / "training.lock").touch()
    result = command(tmp_path / "run", steps=3)
    assert (result.exit_code, "loss.png" in result.stderr) == (5, True), result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told(command: Command, tmp_path: Path) -> None:
    """It is not skipped in silence."""
    result = command(tmp_path / "run", device="cuda")
    assert (result.exit_code, "there is no CUDA device" in result.stderr) == (5, True)


def test_somebody_elses_folder_is_refused(command: Command, tmp_path: Path) -> None:
    """Exit code 2; nothing is written."""
    (tmp_path / "thesis.tex").touch()
    assert command(tmp_path).exit_code == 2
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written_is_told(command: Command, corpus: Path) -> None:
    """Exit code 5."""
    result = command(corpus / "run")
    assert (result.exit_code, "a part of the path is no folder" in result.stderr) == (5, True)


def test_an_environment_without_a_way_to_meet_is_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WORLD_SIZE alone makes no group."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    missing = "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    assert f"WORLD_SIZE is 2 and {missing} is not set" in result.stderr
    assert "torchrun" in result.stderr
