"""A model as a folder: `config.json` and `model.safetensors`, in Hugging Face's form."""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt.checkpoint import safetensors, strict_io
from scratch_gpt.checkpoint.atomic import replace_folder
from scratch_gpt.checkpoint.hf_config import ALIASES
from scratch_gpt.checkpoint.safetensors import MOST_TENSORS, count_not_finite
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import CheckpointError, OccupiedError, one_line, quote
from scratch_gpt.model import GPT

# Other weights in a folder: beside new ones it would be unclear which are meant.


_SUFFIXES = {".safetensors", ".bin", ".npy", ".pt", ".pth", ".npz", ".h5", ".ot", ".msgpack"}
_MARKS = {
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("params_shapes.json", ".metadata"),
}


def other_weight_files(folder: Path, own: Collection[str]) -> list[str]:
    """Return the names of files that are, or point to, weights, except `own`.

    The folder may be missing.
    """
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        name
        for name in names
        if name not in own and (Path(name).suffix.lower() in _SUFFIXES or name in _MARKS)
    )


# Names of tensors.
#
# Hugging Face writes our names with the prefix `transformer.`; the released file has none. A file
# may also hold constants that old versions saved among the weights, and a second copy of the token
# embedding as the head.


PREFIX = "transformer."

_BUFFER = re.compile(r"(transformer\.)?(h\.\d+\.attn\.bias|position_ids)")
_HEAD = "lm_head.weight"
_EMBEDDING = "tokens_embed.weight"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_NAMES = 12

Shapes = Mapping[str, tuple[int, ...]]


def match_names(found: Mapping[str, Tensor], wanted: Shapes, where: str) -> dict[str, str]:
    """Return the file's name of each tensor, by ours.

    `found` has the file's names, `wanted` the shapes of the model's tensors by our names.

    Raises:
        CheckpointError: Names are missing or unexpected, shapes or dtypes differ, or the head is
            not the token embedding, bit for bit. The message lists all problems.
    """
    prefix = PREFIX if any(name.startswith(PREFIX) for name in found) else ""
    theirs = {name: prefix + name for name in wanted}
    problems = _problems(found, wanted, theirs)
    if problems:
        what = f"its tensors are not this model's: {'; '.join(problems)}"
        raise CheckpointError(what, where=where, fix=_fix(found, wanted, theirs))
    return theirs


def _problems(found: Mapping[str, Tensor], wanted: Shapes, theirs: Mapping[str, str]) -> list[str]:
    """Return one phrase for each kind of problem."""
    missing = [name for name in theirs.values() if name not in found]
    known = {*theirs.values(), _HEAD}
    unexpected = [name for name in found if name not in known and not _BUFFER.fullmatch(name)]
    present = {name: found[theirs[name]] for name in wanted if theirs[name] in found}
    shapes = [
        f"{theirs[name]} is {list(tensor.shape)}, expected {list(wanted[name])}"
        for name, tensor in present.items()
        if tuple(tensor.shape) != wanted[name]
    ]
    dtypes = [
        f"{theirs[name]} is {tensor.dtype}"
        for name, tensor in present.items()
        if tensor.dtype not in _DTYPES
    ]
    kinds = {
        "missing": map(quote, missing),
        "unexpected": map(quote, unexpected),
        "of another shape": shapes,
        "of a dtype that is not float32, float16 or bfloat16": dtypes,
        "untied": _untied(found, present),
    }
    return [phrase for kind, names in kinds.items() if (phrase := _phrase(kind, names))]


def _phrase(kind: str, names: Iterable[str]) -> str:
    """Return their number and names, or an empty string if there are none."""
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return f"{len(listed)} {kind}: {', '.join(listed[:_MOST_NAMES])}{more}" if listed else ""


def _untied(found: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase if the file has a head of its own, which differs in at least one bit."""
    head, embedding = found.get(_HEAD), present.get(_EMBEDDING)
    if head is None or embedding is None:
        return []
    alike = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if alike and torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (head, embedding))):
        return []
    return [f"{_HEAD} differs from {_EMBEDDING}, which is the head here"]


def _fix(found: Mapping[str, Tensor], wanted: Shapes, theirs: Mapping[str, str]) -> str:
    """Return what the user can do, with a guess at the cause."""
    if not any(name in found for name in theirs.values()):
        prefixes = {name.removesuffix(_EMBEDDING) for name in found if name.endswith(_EMBEDDING)}
        for prefix in sorted(prefixes):
            if all(prefix + name in found for name in wanted):
                shown = quote(prefix)
                return f"no name matches, but all would without the prefix {shown}: rename them"
    transposed = [
        theirs[name]
        for name, shape in wanted.items()
        if theirs[name] in found and tuple(found[theirs[name]].shape) == shape[::-1] != shape
    ]
    if transposed:
        return f"transpose {transposed[0]} and its like: weights are [in, out] here"
    return "check that the file and its config.json belong together"


# The config. It is read strictly: the number of heads does not follow from the tensors.


_LARGEST = 1_000_000
_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# Beyond these limits no accepted file holds the model, and torch cannot count its bytes.
_MOST_BLOCKS = MOST_TENSORS // 12
_LARGEST_SIZE = 1 << 24


def read_config(path: Path) -> tuple[GPTConfig, dict[str, Any]]:
    """Return the config in a file, and all fields of the file.

    Raises:
        CheckpointError: There is no such file, or it is not a complete config of a GPT-1.
    """
    with open_regular(path) as file:
        text = file.read(_LARGEST + 1)
    try:
        fields = _fields(text)
        return config_of(fields), fields
    except ValueError as error:
        raise CheckpointError(
            f"{path.name}: {one_line(error)}",
            where=one_line(path),
            fix="give the config.json that belongs to the weights",
        ) from error


def config_of(fields: Mapping[str, Any]) -> GPTConfig:
    """Return the config that Hugging Face's fields describe; all five sizes are required.

    Raises:
        ValueError: A size is missing or implausible, or a field is unknown or unsupported.
    """
    spelled = {ALIASES.get(name, name) for name in fields}
    missing = [name for name in _SIZES if name not in spelled]
    if missing:
        raise ValueError(f"it does not give {', '.join(missing)}")
    config = GPTConfig.from_huggingface(fields)
    for name in _SIZES:
        value, limit = getattr(config, name), _MOST_BLOCKS if name == "n_layer" else _LARGEST_SIZE
        if value > limit:
            raise ValueError(f"{name}={value} is implausible; the limit is {limit}")
    return config


def _fields(text: bytes) -> dict[str, Any]:
    if len(text) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes: it is not a config")
    fields = strict_io.load_strict_json(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file
    return fields


CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_pretrained(
    model: GPT, directory: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Write the model's config and weights in Hugging Face's form.

    If it is interrupted, `directory` holds the old files or the new ones. Other files in it, such
    as a vocabulary, stay.

    `directory` is a folder of plain files, or a path without one.

    Raises:
        ValueError: A weight is not float32 or not finite, or the tensors are not those of the
            model's config; nothing was written.
        OccupiedError: Something at `directory` would be lost.
        WriteError: The file system refused.
    """
    named = model.named_parameters(remove_duplicate=False)
    tensors = {name: parameter.detach() for name, parameter in named}
    _require_whole(tensors, model.config)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32 to be saved, got {tensor.dtype}")
        if count := count_not_finite(tensor):
            raise ValueError(f"{name} holds NaN or infinity in {count} of its numbers")
    with replace_folder(Path(directory), overwrite=overwrite, require=_require_alone) as staging:
        write_checkpoint(staging, model.config, tensors)


def write_checkpoint(folder: Path, config: GPTConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write both files into an existing folder; this is not atomic.

    `tensors` holds every tensor by our name, float32.
    """
    named = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    stated = {"architectures": ["OpenAIGPTLMHeadModel"], "dtype": "float32"}
    text = json.dumps(config.to_huggingface() | stated, indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def from_pretrained(directory: str | os.PathLike[str], *, backend: str = "fused") -> GPT:
    """Return the model of a folder, in evaluation mode.

    The tensors' names may have Hugging Face's prefix or not. Half precision is widened to float32,
    which is exact.

    Raises:
        CheckpointError: A file is missing or unsound, or the two do not describe one GPT-1.
        ValueError: No backend has that name.
    """
    folder = Path(directory)
    config, _ = read_config(folder / CONFIG)
    with torch.device("meta"):
        model = GPT(config, backend=backend)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tensors = safetensors.read_safetensors(folder / WEIGHTS).tensors
    theirs = match_names(tensors, wanted, one_line(folder / WEIGHTS))
    # One by one: a half-precision tensor is freed before the next one is widened.
    state = {name: tensors.pop(its).float() for name, its in theirs.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _require_whole(tensors: Mapping[str, Tensor], config: GPTConfig) -> None:
    """Require exactly the tensors of a model of this config: others could not be loaded."""
    with torch.device("meta"):
        whole = GPT(config)
    wanted = {name: parameter.shape for name, parameter in whole.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    differing = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    if differing:
        raise ValueError(f"the model is not the one its config describes: {differing[:4]}")


def _require_alone(folder: Path) -> None:
    """Require that the folder has no other weights."""
    if others := other_weight_files(folder, (WEIGHTS,)):
        raise OccupiedError(
            f"the folder holds weights that would stay beside the new ones: {one_line(others[0])}",
            where=one_line(folder),
            fix="choose another folder",
        )
