"""One checkpoint: a folder that holds all that a run needs to go on as if nothing had happened.

`model.safetensors` and `config.json` are a model that `GPT.from_pretrained` and Hugging Face
load. `optimizer.safetensors` holds the optimizer's moments and, where the run's weights are no
float32 numbers, those weights. `state.json` says how far the run was and under what
circumstances, and `manifest.json`, written last, how to tell that all of this is undamaged.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt import checkpoint as model_folder
from scratch_gpt.config import GPTConfig
from scratch_gpt.files import safetensors_file
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.replaced_folder import replaced_folder
from scratch_gpt.files.shown import one_line
from scratch_gpt.training import manifest

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"

_NEEDED = frozenset({model_folder.CONFIG, model_folder.WEIGHTS, OPTIMIZER, STATE})
_EXACT = "weight."
"""Before the name of a weight that is kept in its own dtype."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """How far a run is, and under what circumstances.

    Attributes:
        step: Optimizer steps done.
        windows: Windows of training data seen: the place from which the data goes on. Dropout
            needs none of its own, because its draws are a function of seed and step.
        best: The lowest validation loss so far and its step, None before the first.
        circumstances: By name, what has to be the same for the run to be the same.
    """

    step: int
    windows: int
    best: tuple[float, int] | None
    circumstances: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run at one step.

    Attributes:
        state: How far it is.
        config: The model's.
        weights: Every parameter by name, in the run's dtype.
        optimizer: The optimizer's state by name.
    """

    state: State
    config: GPTConfig
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor | int]


def write(path: Path, checkpoint: Checkpoint, *, beside: Iterable[Path] = ()) -> None:
    """Write a checkpoint's folder whole or not at all.

    Args:
        path: The folder; one that is there is replaced.
        checkpoint: What to write.
        beside: Files that go along, such as the vocabulary's.

    Raises:
        WriteError: The file system refused; what was there is as it was.
    """
    weights = {name: tensor.detach() for name, tensor in checkpoint.weights.items()}
    with replaced_folder(path, overwrite=True) as staging:
        model_folder.write(staging, checkpoint.config, {n: t.float() for n, t in weights.items()})
        exact = {_EXACT + n: t for n, t in weights.items() if t.dtype != torch.float32}
        kept = {name: _tensor(value) for name, value in checkpoint.optimizer.items()}
        tensors = {name: tensor.contiguous() for name, tensor in {**kept, **exact}.items()}
        save_file(tensors, staging / OPTIMIZER, metadata={"format": "pt"})
        text = json.dumps(dataclasses.asdict(checkpoint.state), indent=2, allow_nan=False)
        (staging / STATE).write_text(text + "\n", encoding="utf-8")
        for file in beside:
            shutil.copyfile(file, staging / file.name)
        manifest.seal(staging)


def read(path: Path) -> Checkpoint:
    """Return what a checkpoint's folder holds.

    Raises:
        CheckpointError: It is damaged, or was never whole.
    """
    manifest.require_sealed(path, needed=_NEEDED)
    state = _state(path / STATE)
    model = model_folder.from_pretrained(path)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors = safetensors_file.read(path / OPTIMIZER).tensors
    exact = {n.removeprefix(_EXACT): t for n, t in tensors.items() if n.startswith(_EXACT)}
    if exact and {n: t.shape for n, t in exact.items()} != {n: t.shape for n, t in weights.items()}:
        raise _unsound(path / OPTIMIZER, "its exact weights are not those of the model")
    kept = {n: _plain(t) for n, t in tensors.items() if not n.startswith(_EXACT)}
    return Checkpoint(state=state, config=model.config, weights=exact or weights, optimizer=kept)


def _tensor(value: Tensor | int) -> Tensor:
    return torch.tensor(value) if isinstance(value, int) else value


def _plain(tensor: Tensor) -> Tensor | int:
    """Return a count as the number it was before it was written."""
    is_count = tensor.ndim == 0 and not tensor.is_floating_point()
    return int(tensor) if is_count else tensor


def _state(path: Path) -> State:
    fields = manifest.read_json(path)
    wanted = {field.name for field in dataclasses.fields(State)}
    if set(fields) != wanted:
        missing, strange = sorted(wanted - set(fields)), sorted(set(fields) - wanted)
        raise _unsound(path, f"it lacks {missing} and holds {strange} besides")
    best = fields.pop("best")
    return State(best=None if best is None else (best[0], best[1]), **fields)


def _unsound(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, where=one_line(path), fix="use another checkpoint")
