"""One checkpoint: a folder that holds all that a run needs to go on as if nothing had happened.

`model.safetensors` and `config.json` are a model that `GPT.from_pretrained` and Hugging Face
load. `optimizer.safetensors` holds the optimizer's moments and, where the run's weights are no
float32 numbers, those weights. `state.json` says how far the run was and under what
circumstances, and `manifest.json`, written last, how to tell that all of this is undamaged.
"""

import dataclasses
import hashlib
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
from scratch_gpt.errors import CheckpointError, one_line, quote

# A folder's list of its own files, with their digests: what is listed can be told from damage.


SEAL_FILE = "manifest.json"

_LARGEST = 1_000_000
_DAMAGED = "use another checkpoint; this one is damaged"


def seal(folder: Path) -> None:
    """List every file of a folder in `manifest.json`: the last file written."""
    files = {
        file.name: digest_of(file) for file in sorted(folder.iterdir()) if file.name != SEAL_FILE
    }
    text = json.dumps({"version": 1, "sha256": files}, indent=2) + "\n"
    (folder / SEAL_FILE).write_text(text, encoding="utf-8")


def require_sealed(folder: Path, *, needed: frozenset[str]) -> None:
    """Require that every listed file is there and is what it was.

    Args:
        folder: Where the manifest is. Files that it does not list are not looked at.
        needed: Names that it has to list.

    Raises:
        CheckpointError: The manifest is missing or unsound, a file is, or it was changed.
    """
    listed = _listed(folder / SEAL_FILE)
    if missing := sorted(needed - set(listed)):
        _refuse(folder / SEAL_FILE, f"it does not list {', '.join(missing)}")
    for name, expected in listed.items():
        if name != Path(name).name:
            _refuse(folder / SEAL_FILE, f"{quote(name)} is no name of a file")
        if digest_of(folder / name) != expected:
            _refuse(folder / name, "it is not the file that was written")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        CheckpointError: There is no such file, or it may not be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # BinaryIO lacks readinto


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file spells.

    Raises:
        CheckpointError: There is no such file, or it is no strict JSON object.
    """
    with open_regular(path) as file:
        text = file.read(_LARGEST + 1)
    try:
        found = strict_io.load_strict_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"it is not sound JSON: {error}", where=one_line(path), fix=_DAMAGED
        ) from error
    if not isinstance(found, dict):
        _refuse(path, "it is not a JSON object")
    return dict(found)


def _listed(path: Path) -> dict[str, Any]:
    fields = read_json(path)
    if fields.get("version") != 1 or not isinstance(fields.get("sha256"), dict):
        _refuse(path, "it is no manifest of this version")
    return dict(fields["sha256"])


def _refuse(path: Path, what: str) -> None:
    raise CheckpointError(what, where=one_line(path), fix=_DAMAGED)


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


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, beside: Iterable[Path] = ()) -> None:
    """Write a checkpoint's folder whole or not at all.

    Args:
        path: The folder; one that is there is replaced.
        checkpoint: What to write.
        beside: Files that go along, such as the vocabulary's.

    Raises:
        WriteError: The file system refused; what was there is as it was.
    """
    weights = {name: tensor.detach() for name, tensor in checkpoint.weights.items()}
    with replace_folder(path, overwrite=True) as staging:
        model_folder.write_checkpoint(
            staging, checkpoint.config, {n: t.float() for n, t in weights.items()}
        )
        exact = {_EXACT + n: t for n, t in weights.items() if t.dtype != torch.float32}
        kept = {name: _tensor(value) for name, value in checkpoint.optimizer.items()}
        tensors = {name: tensor.contiguous() for name, tensor in {**kept, **exact}.items()}
        save_file(tensors, staging / OPTIMIZER, metadata={"format": "pt"})
        text = json.dumps(dataclasses.asdict(checkpoint.state), indent=2, allow_nan=False)
        (staging / STATE).write_text(text + "\n", encoding="utf-8")
        for file in beside:
            shutil.copyfile(file, staging / file.name)
        seal(staging)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return what a checkpoint's folder holds.

    Raises:
        CheckpointError: It is damaged, or was never whole.
    """
    require_sealed(path, needed=_NEEDED)
    state = _state(path / STATE)
    model = model_folder.from_pretrained(path, backend="plain")
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors = safetensors.read_safetensors(path / OPTIMIZER).tensors
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
    fields = read_json(path)
    wanted = {field.name for field in dataclasses.fields(State)}
    if set(fields) != wanted:
        missing, strange = sorted(wanted - set(fields)), sorted(set(fields) - wanted)
        raise _unsound(path, f"it lacks {missing} and holds {strange} besides")
    best = fields.pop("best")
    return State(best=None if best is None else (best[0], best[1]), **fields)


def _unsound(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, where=one_line(path), fix="use another checkpoint")


# A run's checkpoints: the newest good one is found, the old ones go.


_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
"""What `folder_of` writes, and no other spelling of the same step."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the place of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """Return the folders of checkpoints by step, newest first; by number, not by name.

    Args:
        folder: Where they are; it need not be there.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(named[1]): entry for entry in entries if (named := _NAME.fullmatch(entry.name))}
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is undamaged, None where there is none at all.

    Args:
        folder: Where the checkpoints are.
        warn: Is told of each damaged one that is passed over.

    Raises:
        CheckpointError: There are checkpoints, and every one is damaged.
    """
    places = checkpoints_by_step(folder)
    for place in places.values():
        try:
            return read_checkpoint(place)
        except CheckpointError as error:
            warn(f"checkpoint {place.name} is passed over: {error}")
    if not places:
        return None
    raise CheckpointError(
        f"none of the {len(places)} checkpoints is undamaged",
        where=one_line(folder),
        fix="train anew with another --output, or bring a good checkpoint back",
    )


def prune_checkpoints(folder: Path, *, upto: int, keep: int, best: int | None) -> None:
    """Remove all checkpoints up to a step but the last `keep` and the best one.

    Each goes in one step: what a killed process leaves is no damaged checkpoint.

    Raises:
        OSError: The file system refused.
    """
    old = [step for step in checkpoints_by_step(folder) if step <= upto][keep:]
    for step in old:
        if step != best:
            aside = make_staging(folder)
            checkpoints_by_step(folder)[step].rename(aside)  # over the empty folder
            shutil.rmtree(aside, ignore_errors=True)


def sweep_checkpoints(folder: Path) -> None:
    """Remove what killed writers left: whoever holds the run's lock is the only writer."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_in_staging(Path(entry.name)):
            shutil.rmtree(entry, ignore_errors=True)
