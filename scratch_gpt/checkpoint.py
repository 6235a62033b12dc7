"""A model as a folder: `config.json` and `model.safetensors`, in Hugging Face's form."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt import safetensors_file, strict_json
from scratch_gpt.checkpoint_names import PREFIX, match
from scratch_gpt.config import GPTConfig
from scratch_gpt.finite import not_finite
from scratch_gpt.huggingface_fields import ALIASES
from scratch_gpt.model import GPT
from scratch_gpt.refusal import CheckpointError
from scratch_gpt.regular_file import opened
from scratch_gpt.replaced_folder import replaced_folder
from scratch_gpt.safetensors_header import MOST_TENSORS
from scratch_gpt.shown import one_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

_LARGEST_CONFIG = 1_000_000
_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# Beyond these no file that is read here can hold the model, and torch cannot count its bytes.
_MOST_BLOCKS = MOST_TENSORS // 12
_LARGEST_SIZE = 1 << 24


def save_pretrained(
    model: GPT, directory: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Write the model's config and weights so that Hugging Face's loaders take them too.

    Whatever interrupts it, `directory` holds the old files or the new ones. Other files in it,
    such as a vocabulary, stay.

    Args:
        model: Its weights are finite float32 numbers.
        directory: A folder of plain files, or nothing yet.
        overwrite: Whether a folder that is not empty may be there.

    Raises:
        ValueError: A weight is not float32 or not finite; nothing was written.
        OccupiedError: Something at `directory` would be lost.
        WriteError: The file system refused.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        _require_savable(name, parameter.detach())
        tensors[PREFIX + name] = parameter.detach().contiguous()
    config = model.config.to_huggingface() | {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "dtype": "float32",
    }
    with replaced_folder(Path(directory), overwrite=overwrite) as staging:
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        (staging / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def from_pretrained(directory: str | os.PathLike[str], *, attention: str = "plain") -> GPT:
    """Return the model that a folder holds, in evaluation mode.

    Args:
        directory: Holds `config.json` and `model.safetensors`, whose names may have Hugging
            Face's prefix or not. Half precision is widened to float32, which is exact.
        attention: Name of an attention core, a key of `scratch_gpt.attention.CORES`.

    Raises:
        CheckpointError: A file is missing or unsound, or the two do not describe one GPT-1.
        ValueError: No core has that name.
    """
    folder = Path(directory)
    config = _read_config(folder / CONFIG)
    with torch.device("meta"):
        model = GPT(config, attention=attention)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tensors = safetensors_file.read(folder / WEIGHTS).tensors
    theirs = match(tensors, wanted, one_line(folder / WEIGHTS))
    # Taken out one by one: a half-precision tensor is gone before the next one is widened.
    state = {name: tensors.pop(its).float() for name, its in theirs.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _require_savable(name: str, weights: Tensor) -> None:
    if weights.dtype != torch.float32:
        raise ValueError(f"{name} must be float32 to be saved, got {weights.dtype}")
    count = not_finite(weights)
    if count:
        raise ValueError(f"{name} holds NaN or infinity in {count} of its numbers")


def _read_config(path: Path) -> GPTConfig:
    """Return the config of a `config.json` that says all of it, and nothing unknown."""
    with opened(path) as file:
        text = file.read(_LARGEST_CONFIG + 1)
    try:
        return _config(text)
    except ValueError as error:
        raise CheckpointError(
            one_line(error),
            where=one_line(path),
            fix="give the config.json that belongs to the weights",
        ) from error


def _config(text: bytes) -> GPTConfig:
    """Return the config that the text spells, or raise what it lacks or has too much."""
    if len(text) > _LARGEST_CONFIG:
        raise ValueError(f"it has more than {_LARGEST_CONFIG} bytes: it is no config")
    fields = strict_json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file
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
