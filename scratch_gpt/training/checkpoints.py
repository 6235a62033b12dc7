"""Training checkpoints: write and read one, find the newest undamaged one, remove old ones.

A checkpoint is a folder. `model.safetensors` and `config.json` are a model that
`GPT.from_pretrained` and Hugging Face load. `optimizer.safetensors` holds the optimizer's moments
and, if the run's weights are not float32, the weights in their own dtype. `state.json` holds the
run's progress and its reproducibility settings. `manifest.json`, written last, holds the digests
of all other files, by which damage is found.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt.checkpoint import checkpoint as model_folder
from scratch_gpt.checkpoint import safetensors, strict_io
from scratch_gpt.checkpoint.atomic import is_in_staging, make_staging, replace_folder
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.config import GPTConfig
from scratch_gpt.data.dataset import sha256
from scratch_gpt.errors import CheckpointError, one_line, quote

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"

_REQUIRED = {model_folder.CONFIG, model_folder.WEIGHTS, OPTIMIZER, STATE}
_OWN_DTYPE = "weight."
"""Prefix, in `optimizer.safetensors`, of weights in their own dtype."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """A run's progress and its reproducibility settings."""

    step: int  # optimizer steps made
    windows: int  # of training data, seen; dropout masks are a function of seed and step
    best: tuple[float, int] | None  # the lowest validation loss and its step
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run at one step: its state, its weights in the run's dtype, and the optimizer's state."""

    state: State
    config: GPTConfig
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor | int]


# One checkpoint


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, beside: Iterable[Path] = ()) -> None:
    """Write or replace a checkpoint's folder atomically, with copies of the files in `beside`.

    Raises:
        WriteError: The file system failed; an existing folder was not changed.
    """
    weights = {name: tensor.detach() for name, tensor in checkpoint.weights.items()}
    with replace_folder(path, overwrite=True) as staging:
        model_folder.write_checkpoint(
            staging, checkpoint.config, {n: t.float() for n, t in weights.items()}
        )
        tensors = {
            name: torch.tensor(value) if isinstance(value, int) else value.contiguous()
            for name, value in checkpoint.optimizer.items()
        }
        tensors |= {
            _OWN_DTYPE + name: tensor.contiguous()
            for name, tensor in weights.items()
            if tensor.dtype != torch.float32
        }
        save_file(tensors, staging / OPTIMIZER, metadata={"format": "pt"})
        text = json.dumps(dataclasses.asdict(checkpoint.state), indent=2, allow_nan=False)
        (staging / STATE).write_text(text + "\n", encoding="utf-8")
        for file in beside:
            shutil.copyfile(file, staging / file.name)
        write_manifest(staging)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a folder; raise CheckpointError if it is damaged or incomplete."""
    _verify_manifest(path)
    state = _read_state(path / STATE)
    model = model_folder.from_pretrained(path, backend="plain")
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    own_dtype: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor | int] = {}
    for name, tensor in safetensors.read_safetensors(path / OPTIMIZER).tensors.items():
        if name.startswith(_OWN_DTYPE):
            own_dtype[name.removeprefix(_OWN_DTYPE)] = tensor
        else:
            is_count = tensor.ndim == 0 and not tensor.is_floating_point()
            optimizer[name] = int(tensor) if is_count else tensor
    shapes = [{name: t.shape for name, t in part.items()} for part in (own_dtype, weights)]
    if own_dtype and shapes[0] != shapes[1]:
        raise _damaged(path / OPTIMIZER, "its weights are not those of the model")
    return Checkpoint(
        state=state, config=model.config, weights=own_dtype or weights, optimizer=optimizer
    )


def _read_state(path: Path) -> State:
    fields = _read_json(path)
    expected = {field.name for field in dataclasses.fields(State)}
    if set(fields) != expected:
        missing, unexpected = sorted(expected - set(fields)), sorted(set(fields) - expected)
        raise _damaged(path, f"missing fields: {missing}; unexpected fields: {unexpected}")
    best = fields["best"]
    allowed = {
        "step": (_is_count(fields["step"]), "a number of steps"),
        "windows": (_is_count(fields["windows"]), "a number of windows"),
        "best": (best is None or _is_best(best, fields["step"]), "null, or a loss and its step"),
        "settings": (_is_flat(fields["settings"]), "an object of texts and numbers"),
    }
    for name, (is_allowed, words) in allowed.items():
        if not is_allowed:
            raise _damaged(path, f"{name} must be {words}, and is {quote(fields[name])}")
    return State(**{**fields, "best": None if best is None else (best[0], best[1])})


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_best(value: object, step: object) -> bool:
    is_pair = isinstance(value, list) and [type(part) for part in value] == [float, int]
    return is_pair and _is_count(step) and 0 <= value[1] <= step  # type: ignore[index]


def _is_flat(value: object) -> bool:
    is_object = isinstance(value, dict)
    return is_object and all(isinstance(part, str | int | float) for part in value.values())  # type: ignore[attr-defined]


def write_manifest(folder: Path) -> None:
    """Write the digests of a folder's files into its `manifest.json`."""
    files = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    text = json.dumps({"version": 1, "sha256": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _verify_manifest(folder: Path) -> None:
    """Require a manifest that lists the required files, and every listed file unchanged."""
    path = folder / MANIFEST
    fields = _read_json(path)
    digests = fields.get("sha256")
    if fields.get("version") != 1 or not isinstance(digests, dict):
        raise _damaged(path, "it is not a manifest of version 1")
    if missing := sorted(_REQUIRED - set(digests)):
        raise _damaged(path, f"it does not list {', '.join(missing)}")
    for name, digest in digests.items():
        if name != Path(name).name:
            raise _damaged(path, f"{quote(name)} is not a file name")
        if sha256(folder / name) != digest:
            raise _damaged(folder / name, "its digest is not the one in the manifest")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a strict JSON file."""
    with open_regular(path) as file:
        text = file.read(_LARGEST_JSON + 1)
    try:
        found = strict_io.load_strict_json(text)
    except ValueError as error:
        raise _damaged(path, f"it is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(path, "it is not a JSON object")
    return dict(found)


_LARGEST_JSON = 1_000_000
"""Bytes that are read at most."""


def _damaged(path: Path, what: str) -> CheckpointError:
    fix = "use another checkpoint; this one is damaged"
    return CheckpointError(what, where=one_line(path), fix=fix)


# A run's checkpoints


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return folder / f"step-{step:08d}"


_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
"""The names that `checkpoint_folder` gives, and no other spelling of the same step."""


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step, newest first; none if it does not exist."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(match[1]): entry for entry in entries if (match := _NAME.fullmatch(entry.name))}
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, None if there are no checkpoints.

    `warn` is called with a message for each damaged one that is skipped.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
    """
    found = checkpoints_by_step(folder)
    for step, path in found.items():
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            warn(f"checkpoint {path.name} is skipped: {error}")
        else:
            if checkpoint.state.step == step:
                return checkpoint
            warn(f"checkpoint {path.name} is skipped: it is of step {checkpoint.state.step}")
    if not found:
        return None
    raise CheckpointError(
        f"all {len(found)} checkpoints are damaged",
        where=one_line(folder),
        fix="train anew with another --output, or restore an undamaged checkpoint",
    )


def prune_checkpoints(folder: Path, *, upto: int, keep: int, best: int | None) -> None:
    """Remove the checkpoints up to a step, except the last `keep` and the best one.

    Each is first moved away in one rename, so a killed process leaves no damaged checkpoint. Of a
    link only the link is removed, and a file is left there.
    """
    found = checkpoints_by_step(folder)
    old = [step for step in found if step <= upto][keep:]
    for step in old:
        if step == best:
            continue
        if found[step].is_symlink():
            found[step].unlink()
        elif found[step].is_dir():
            staging = make_staging(folder)
            found[step].rename(staging)  # onto the empty folder
            shutil.rmtree(staging, ignore_errors=True)


def sweep_checkpoints(folder: Path) -> None:
    """Remove what killed writers left. The caller holds the run's lock: no other writer exists."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_in_staging(Path(entry.name)):
            shutil.rmtree(entry, ignore_errors=True)
