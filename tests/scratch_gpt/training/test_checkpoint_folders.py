"""The newest good checkpoint is found, and the old ones go."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.errors import CheckpointError
from scratch_gpt.training import checkpoints
from scratch_gpt.training.checkpoints import (
    Checkpoint,
    checkpoint_folder,
    checkpoints_by_step,
    newest_checkpoint,
    prune_checkpoints,
    sweep_checkpoints,
)

AtStep = Callable[[int], Checkpoint]


@pytest.fixture
def filled(tmp_path: Path, at_step: AtStep) -> Path:
    """Return a folder with the checkpoints of steps 9 and 10."""
    for step in (9, 10):
        checkpoints.write_checkpoint(checkpoint_folder(tmp_path, step), at_step(step))
    return tmp_path


def test_steps_are_numbers(tmp_path: Path) -> None:
    """A hundred million comes after nine; what was not written as a step is none."""
    for step in (9, 99_999_999, 100_000_000):
        checkpoint_folder(tmp_path, step).mkdir()
    for name in ("step-9", "step-000000010", "step-0000001\u0661", "step-", "step-x", "other"):
        (tmp_path / name).mkdir()
    assert list(checkpoints_by_step(tmp_path)) == [100_000_000, 99_999_999, 9]
    assert all(
        checkpoint_folder(tmp_path, step) == place
        for step, place in checkpoints_by_step(tmp_path).items()
    )


def test_the_newest_is_found(filled: Path) -> None:
    """And nothing is said."""
    found = newest_checkpoint(filled, pytest.fail)
    assert found is not None
    assert found.state.step == 10


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """A run that begins is no error."""
    assert newest_checkpoint(tmp_path / "checkpoints", pytest.fail) is None


def test_a_damaged_one_is_passed_over(filled: Path, flip: Callable[[Path], None]) -> None:
    """With a warning that names it."""
    flip(checkpoint_folder(filled, 10) / "model.safetensors")
    warnings: list[str] = []
    found = newest_checkpoint(filled, warnings.append)
    assert found is not None
    assert found.state.step == 9
    assert len(warnings) == 1
    assert "step-00000010 is passed over" in warnings[0]


def test_none_undamaged_is_an_error(filled: Path, flip: Callable[[Path], None]) -> None:
    """A run that was there does not begin anew as if it had not been."""
    for step in (9, 10):
        flip(checkpoint_folder(filled, step) / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is undamaged"):
        newest_checkpoint(filled, lambda _: None)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    """What is newer than the run's step is not the run's to count."""
    for step in (2, 4, 6, 8, 10, 99):
        checkpoint_folder(tmp_path, step).mkdir()
    prune_checkpoints(tmp_path, upto=10, keep=2, best=4)
    assert list(checkpoints_by_step(tmp_path)) == [99, 10, 8, 4]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_kill_while_one_is_removed_leaves_no_damaged_one(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has left its place before its first file goes; what stays is swept."""

    def killed(*_where: object, **_how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune_checkpoints(filled, upto=10, keep=1, best=None)
    monkeypatch.undo()
    assert list(checkpoints_by_step(filled)) == [10]
    assert len(list(filled.iterdir())) == 2
    sweep_checkpoints(filled)
    assert [checkpoint_folder(filled, 10)] == list(filled.iterdir())


def test_sweeping_leaves_everything_else(filled: Path) -> None:
    """A killed writer's folder goes whoever owned it: the run's lock makes us the only writer."""
    (filled / f".gpt1-{os.getpid()}-00000000.partial").mkdir()
    (filled / "mine").mkdir()
    sweep_checkpoints(filled)
    assert sorted(p.name for p in filled.iterdir()) == ["mine", "step-00000009", "step-00000010"]
