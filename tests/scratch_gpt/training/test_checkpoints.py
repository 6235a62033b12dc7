"""A checkpoint is read back bitwise or rejected; the newest is found, old ones are removed."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from scratch_gpt import GPT
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

FILES = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def written(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    return tmp_path / "step"


def rejection(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read_checkpoint(folder)
    return caught.value


def test_everything_is_read_back(checkpoint: Checkpoint, written: Path) -> None:
    back = checkpoints.read_checkpoint(written)
    assert (checkpoint.state, checkpoint.config) == (back.state, back.config)
    assert checkpoint.weights.keys() == back.weights.keys()
    assert checkpoint.optimizer.keys() == back.optimizer.keys()
    assert back.optimizer["step"] == 7
    pairs = [(t, back.weights[n]) for n, t in checkpoint.weights.items()]
    moments = [(t, back.optimizer[n]) for n, t in checkpoint.optimizer.items() if n != "step"]
    assert all(torch.equal(expected, actual) for expected, actual in pairs + moments)


def test_float64_weights_are_read_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The model in the same folder is rounded to float32."""
    weights = {name: tensor.double() + 1e-12 for name, tensor in checkpoint.weights.items()}
    checkpoints.write_checkpoint(tmp_path, dataclasses.replace(checkpoint, weights=weights))
    back = checkpoints.read_checkpoint(tmp_path)
    assert all(torch.equal(tensor, back.weights[name]) for name, tensor in weights.items())
    model = GPT.from_pretrained(tmp_path)
    assert all(torch.equal(p, weights[name].float()) for name, p in model.named_parameters())


def test_other_files_are_copied(checkpoint: Checkpoint, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text("{}", "utf-8")
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint, beside=[vocabulary])
    listed = json.loads((tmp_path / "step" / checkpoints.MANIFEST).read_text("utf-8"))["sha256"]
    assert sorted((*FILES, "vocab.json")) == sorted(listed)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_damage(name: str, written: Path, flip: Callable) -> None:
    flip(written / name)
    error = rejection(written)
    assert "its digest is not the one in the manifest" in error.what
    assert error.where.endswith(name)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_damage(name: str, written: Path) -> None:
    (written / name).unlink()
    assert "no such file" in rejection(written).what


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "sha256": {', "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"version": 2, "sha256": {}}', "not a manifest of version 1"),
        ('{"version": 1, "sha256": {"state.json": "0"}}', "does not list config.json"),
    ],
)
def test_an_invalid_manifest_is_rejected(text: str, message: str, written: Path) -> None:
    (written / checkpoints.MANIFEST).write_text(text, "utf-8")
    assert message in rejection(written).what


def test_a_manifest_names_no_other_folder(written: Path) -> None:
    place = written / checkpoints.MANIFEST
    listed = json.loads(place.read_text("utf-8"))
    listed["sha256"]["../outside"] = "0"
    place.write_text(json.dumps(listed), "utf-8")
    assert "is not a file name" in rejection(written).what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"random": 1}, "missing fields: []; unexpected fields: ['random']"),
        ({"windows": None}, "missing fields: ['windows']; unexpected fields: []"),
    ],
    ids=["unexpected", "missing"],
)
def test_other_fields_are_rejected(change: dict[str, object], message: str, written: Path) -> None:
    place = written / checkpoints.STATE
    fields = json.loads(place.read_text("utf-8")) | change
    place.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}), "utf-8")
    checkpoints.write_manifest(written)
    assert message in rejection(written).what


WRONG = [
    *(("step", value) for value in (-5, True, 7.0, "7", None, 10**40, [7])),
    *(("windows", value) for value in (-1, False, 2.5, {}, None, 2**63)),
    *(("best", value) for value in ([], [1.0], [1, 2], [1.0, 2, 3], [1.0, 99], [1.0, -1], 3.0)),
    *(("best", value) for value in (["1.0", 2], [1.0, True], {"0": 1.0, "1": 2}, [1.0, [2]])),
    *(("settings", value) for value in ([], None, 7, {"seed": [1]}, {"dtype": {}}, {"a": None})),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_state_of_another_type_is_rejected(name: str, value: object, written: Path) -> None:
    """Its digest is right: a person or a program wrote the state and the manifest."""
    place = written / checkpoints.STATE
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | {name: value}), "utf-8")
    checkpoints.write_manifest(written)
    error = rejection(written)
    assert error.what.startswith(f"{name} must be ")
    assert error.where == str(place)


def test_weights_of_another_model_are_rejected(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = {name: tensor.double() for name, tensor in checkpoint.weights.items()}
    moments = {**checkpoint.optimizer, "weight.other": torch.ones(2)}
    mixed = dataclasses.replace(checkpoint, weights=weights, optimizer=moments)
    checkpoints.write_checkpoint(tmp_path, mixed)
    assert "not those of the model" in rejection(tmp_path).what


@pytest.fixture
def filled(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    """Return a folder with the checkpoints of steps 9 and 10."""
    for step in (9, 10):
        state = dataclasses.replace(checkpoint.state, step=step)
        at_step = dataclasses.replace(checkpoint, state=state)
        checkpoints.write_checkpoint(checkpoint_folder(tmp_path, step), at_step)
    return tmp_path


def test_checkpoints_are_sorted_by_number(tmp_path: Path) -> None:
    for step in (9, 99_999_999, 100_000_000):
        checkpoint_folder(tmp_path, step).mkdir()
    for name in ("step-9", "step-000000010", "step-0000001\u0661", "step-", "step-x", "other"):
        (tmp_path / name).mkdir()
    expected = [(step, checkpoint_folder(tmp_path, step)) for step in (10**8, 10**8 - 1, 9)]
    assert expected == list(checkpoints_by_step(tmp_path).items())


def test_the_newest_checkpoint_is_found(filled: Path) -> None:
    found = newest_checkpoint(filled, pytest.fail)
    assert found is not None
    assert found.state.step == 10
    assert newest_checkpoint(filled / "missing", pytest.fail) is None


def test_a_damaged_checkpoint_is_skipped(filled: Path, flip: Callable) -> None:
    flip(checkpoint_folder(filled, 10) / "model.safetensors")
    warnings: list[str] = []
    found = newest_checkpoint(filled, warnings.append)
    assert found is not None
    assert found.state.step == 9
    assert ["step-00000010 is skipped" in warning for warning in warnings] == [True]


def test_a_checkpoint_under_another_step_is_skipped(filled: Path) -> None:
    checkpoint_folder(filled, 10).rename(checkpoint_folder(filled, 11))
    warnings: list[str] = []
    found = newest_checkpoint(filled, warnings.append)
    assert found is not None
    assert found.state.step == 9
    assert warnings == ["checkpoint step-00000011 is skipped: it is of step 10"]


def test_the_order_is_that_of_the_steps_not_of_the_clock(filled: Path) -> None:
    """The clock was set back between two checkpoints."""
    os.utime(checkpoint_folder(filled, 10), (0, 0))
    found = newest_checkpoint(filled, pytest.fail)
    assert found is not None
    assert found.state.step == 10
    prune_checkpoints(filled, upto=10, keep=1, best=None)
    assert list(checkpoints_by_step(filled)) == [10]


def test_of_a_link_only_the_link_is_removed(
    filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its target may be the only copy; a file is not from a run, and stays."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "kept"
    checkpoint_folder(filled, 9).rename(elsewhere)
    checkpoint_folder(filled, 9).symlink_to(elsewhere)
    checkpoint_folder(filled, 8).touch()
    checkpoint_folder(filled, 7).symlink_to("nothing")
    prune_checkpoints(filled, upto=10, keep=1, best=None)
    assert sorted(p.name for p in filled.iterdir()) == ["step-00000008", "step-00000010"]
    assert checkpoints.read_checkpoint(elsewhere).state.step == 9


def test_a_linked_checkpoint_is_found(
    filled: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "kept"
    checkpoint_folder(filled, 10).rename(elsewhere)
    checkpoint_folder(filled, 10).symlink_to(elsewhere)
    found = newest_checkpoint(filled, pytest.fail)
    assert found is not None
    assert found.state.step == 10


def test_only_damaged_checkpoints_are_an_error(filled: Path, flip: Callable) -> None:
    """The run does not start anew silently."""
    for step in (9, 10):
        flip(checkpoint_folder(filled, step) / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        newest_checkpoint(filled, lambda _: None)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    """Checkpoints after the run's step are neither counted nor removed."""
    for step in (2, 4, 6, 8, 10, 99):
        checkpoint_folder(tmp_path, step).mkdir()
    prune_checkpoints(tmp_path, upto=10, keep=2, best=4)
    assert list(checkpoints_by_step(tmp_path)) == [99, 10, 8, 4]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_kill_during_removal(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is renamed before its first file is removed; the rest is swept."""
    monkeypatch.setattr(checkpoints.shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prune_checkpoints(filled, upto=10, keep=1, best=None)
    monkeypatch.undo()
    assert list(checkpoints_by_step(filled)) == [10]
    assert len(list(filled.iterdir())) == 2
    sweep_checkpoints(filled)
    assert [checkpoint_folder(filled, 10)] == list(filled.iterdir())


def test_sweeping_removes_only_staging_folders(filled: Path) -> None:
    (filled / f".gpt1-{os.getpid()}-00000000.partial").mkdir()
    (filled / "other").mkdir()
    sweep_checkpoints(filled)
    assert sorted(p.name for p in filled.iterdir()) == ["other", "step-00000009", "step-00000010"]
