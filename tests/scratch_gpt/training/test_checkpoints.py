"""A checkpoint comes back bit for bit, or is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scratch_gpt import GPT
from scratch_gpt.errors import CheckpointError
from scratch_gpt.training import checkpoints
from scratch_gpt.training.checkpoints import Checkpoint

FILES = ("config.json", "model.safetensors", "optimizer.safetensors", "state.json")


def test_all_of_it_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """State, config, weights and moments, counts as the numbers they were."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    back = checkpoints.read_checkpoint(tmp_path / "step")
    assert (checkpoint.state, checkpoint.config) == (back.state, back.config)
    assert checkpoint.weights.keys() == back.weights.keys()
    assert checkpoint.optimizer.keys() == back.optimizer.keys()
    assert back.optimizer["step"] == 7
    pairs = [(t, back.weights[n]) for n, t in checkpoint.weights.items()]
    moments = [(t, back.optimizer[n]) for n, t in checkpoint.optimizer.items() if n != "step"]
    assert all(torch.equal(one, other) for one, other in pairs + moments)


def test_weights_in_float64_come_back_as_they_are(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The model beside them is their rounded form, for whoever loads a model."""
    weights = {name: tensor.double() + 1e-12 for name, tensor in checkpoint.weights.items()}
    checkpoints.write_checkpoint(
        tmp_path / "step", dataclasses.replace(checkpoint, weights=weights)
    )
    back = checkpoints.read_checkpoint(tmp_path / "step")
    assert all(torch.equal(tensor, back.weights[name]) for name, tensor in weights.items())
    model = GPT.from_pretrained(tmp_path / "step")
    assert all(torch.equal(p, weights[name].float()) for name, p in model.named_parameters())


def test_files_beside_go_along(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """And the manifest lists them too."""
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text("{}", "utf-8")
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint, beside=[vocabulary])
    listed = json.loads((tmp_path / "step" / checkpoints.SEAL_FILE).read_text("utf-8"))["sha256"]
    assert sorted((*FILES, "vocab.json")) == sorted(listed)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_seen(
    name: str, checkpoint: Checkpoint, flip: Callable[[Path], None], tmp_path: Path
) -> None:
    """In whichever file, and the message says in which."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    flip(tmp_path / "step" / name)
    with pytest.raises(CheckpointError, match="not the file that was written") as refusal:
        checkpoints.read_checkpoint(tmp_path / "step")
    assert refusal.value.where.endswith(name)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_seen(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The manifest among them: it is written last, so without it nothing was finished."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    (tmp_path / "step" / name).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoints.read_checkpoint(tmp_path / "step")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "sha256": {', "not sound JSON"),
        ("[]", "not a JSON object"),
        ('{"version": 2, "sha256": {}}', "no manifest of this version"),
        ('{"version": 1, "sha256": {"state.json": "0"}}', "does not list config.json"),
    ],
)
def test_an_unsound_manifest_is_refused(
    text: str, message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Half-written, of another kind, of another version, or not complete."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    (tmp_path / "step" / checkpoints.SEAL_FILE).write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_checkpoint(tmp_path / "step")


def test_a_manifest_leads_nowhere_else(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A name in it is a file beside it, never a path."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    place = tmp_path / "step" / checkpoints.SEAL_FILE
    listed = json.loads(place.read_text("utf-8"))
    listed["sha256"]["../outside"] = "0"
    place.write_text(json.dumps(listed), "utf-8")
    with pytest.raises(CheckpointError, match="no name of a file"):
        checkpoints.read_checkpoint(tmp_path / "step")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"random": 1}, r"lacks \[\] and holds \['random'\]"),
        ({"windows": None}, r"lacks \['windows'\] and holds \[\]"),
    ],
    ids=["strange field", "no data position"],
)
def test_a_state_of_other_fields_is_refused(
    change: dict[str, object], message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Even where the manifest vouches for the file."""
    checkpoints.write_checkpoint(tmp_path / "step", checkpoint)
    place = tmp_path / "step" / checkpoints.STATE
    fields = json.loads(place.read_text("utf-8")) | change
    place.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}), "utf-8")
    checkpoints.seal(tmp_path / "step")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_checkpoint(tmp_path / "step")


def test_exact_weights_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Weights of two models in one folder do not become one."""
    weights = {name: tensor.double() for name, tensor in checkpoint.weights.items()}
    moments = {**checkpoint.optimizer, "weight.strange": torch.ones(2)}
    mixed = dataclasses.replace(checkpoint, weights=weights, optimizer=moments)
    checkpoints.write_checkpoint(tmp_path / "step", mixed)
    with pytest.raises(CheckpointError, match="not those of the model"):
        checkpoints.read_checkpoint(tmp_path / "step")
