"""A model as a folder: `config.json` and `model.safetensors`, in Hugging Face's form."""

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt.checkpoint import safetensors, strict_io
from scratch_gpt.checkpoint.atomic import replace_folder
from scratch_gpt.checkpoint.hf_config import ALIASES, ignored_fields
from scratch_gpt.checkpoint.names import PREFIX, as_float32, find_tensors, listed
from scratch_gpt.checkpoint.safetensors import MOST_TENSORS, count_not_finite
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import CheckpointError, OccupiedError, one_line
from scratch_gpt.model import GPT

_log = logging.getLogger(__name__)

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


# The config. It is read strictly: the tensors do not tell the number of heads.


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
    """Return the config that Hugging Face's fields describe.

    A size that is not given is the released model's, as in transformers; but some must be given.

    Raises:
        ValueError: No size is given, one is implausible, or a field changes what is computed.
    """
    if len(_missing(fields)) == len(_SIZES):
        raise ValueError(f"it gives none of {', '.join(_SIZES)}")
    config = GPTConfig.from_huggingface(fields)
    for name in _SIZES:
        value, limit = getattr(config, name), _MOST_BLOCKS if name == "n_layer" else _LARGEST_SIZE
        if value > limit:
            raise ValueError(f"{name}={value} is implausible; the limit is {limit}")
    return config


def ignored(fields: Mapping[str, Any]) -> list[str]:
    """Return one note about sizes that are not given and one about fields that have no effect."""
    own = {field.name: field.default for field in dataclasses.fields(GPTConfig)}
    missing = [f"{name} is {own[name]}" for name in _missing(fields)]
    without_effect = ignored_fields(fields, own)
    return [
        *([f"config.json does not say that {', '.join(missing)}"] if missing else []),
        *([f"config.json: {listed(without_effect)} ignored"] if without_effect else []),
    ]


def float32_bytes(shapes: Iterable[Sequence[int]]) -> int:
    """Return the bytes of tensors of these shapes in float32."""
    return 4 * sum(map(math.prod, shapes))


def _missing(fields: Mapping[str, Any]) -> list[str]:
    spelled = {{**ALIASES, "n_ctx": "n_positions"}.get(name, name) for name in fields}
    return [name for name in _SIZES if name not in spelled]


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


_HUB_NAME = re.compile(r"(openai-gpt|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
"""A repository of the hub with an optional revision."""


def from_pretrained(directory: str | os.PathLike[str], *, backend: str = "fused") -> GPT:
    """Return the model of a folder, in evaluation mode.

    Args:
        directory: Holds `config.json` and `model.safetensors`. `names.find_tensors` describes the
            names that are accepted. What is renamed, rounded or left out is logged as a warning.
        backend: A key of `scratch_gpt.kernels.backends.BACKENDS`.

    Raises:
        CheckpointError: A file is missing or unsound, or the two do not describe one GPT-1; or
            `directory` is the name of a repository of the hub.
        ValueError: No backend has that name.
    """
    folder, where = Path(directory), one_line(Path(directory) / WEIGHTS)
    if not folder.exists() and (hub := _HUB_NAME.fullmatch(os.fspath(directory))):
        repository, revision = hub.groups()
        raise CheckpointError(
            "there is no such folder, and nothing is downloaded here",
            where=str(directory),
            fix=f'parity.load_pretrained("{repository}@{revision or "REVISION"}") loads from the '
            "hub; or name a folder that parity.convert or save_pretrained wrote",
        )
    config, fields = read_config(folder / CONFIG)
    with torch.device("meta"):
        model = GPT(config, backend=backend)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    strict_io.require_plausible_size([folder / WEIGHTS], float32_bytes(wanted.values()))
    found = find_tensors(
        safetensors.read_safetensors(folder / WEIGHTS).tensors,
        wanted,
        where=where,
        tied=bool(fields.get("tie_word_embeddings", True)),
    )
    # One by one: a half-precision tensor is freed before the next one is widened.
    state, notes = {}, dict.fromkeys([*found.notes, *ignored(fields)])
    for name in wanted:
        state[name], changed = as_float32(name, found.tensors.pop(name), where)
        notes |= {changed: None} if changed else {}
    for note in notes:
        _log.warning("%s: %s", where, note)
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
