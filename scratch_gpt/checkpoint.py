"""A model as a folder: `config.json` and `model.safetensors`, in Hugging Face's form."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt import config_file
from scratch_gpt.checkpoint_names import PREFIX, match
from scratch_gpt.config import GPTConfig
from scratch_gpt.files import safetensors_file
from scratch_gpt.files.finite import not_finite
from scratch_gpt.files.replaced_folder import replaced_folder
from scratch_gpt.files.shown import one_line
from scratch_gpt.files.weight_names import other_weights
from scratch_gpt.files.write_error import OccupiedError
from scratch_gpt.model import GPT

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


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
        ValueError: A weight is not float32 or not finite, or the tensors are not those of the
            model's config; nothing was written.
        OccupiedError: Something at `directory` would be lost.
        WriteError: The file system refused.
    """
    named = model.named_parameters(remove_duplicate=False)
    tensors = {name: parameter.detach() for name, parameter in named}
    _require_whole(tensors, model.config)
    for name, tensor in tensors.items():
        _require_savable(name, tensor)
    with replaced_folder(Path(directory), overwrite=overwrite, require=_require_alone) as staging:
        write(staging, model.config, tensors)


def write(folder: Path, config: GPTConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write both files into a folder that is there, without making sure that both arrive.

    Args:
        folder: Where to write.
        config: The model's.
        tensors: Every tensor by our name, float32.
    """
    named = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    stated = {"architectures": ["OpenAIGPTLMHeadModel"], "dtype": "float32"}
    text = json.dumps(config.to_huggingface() | stated, indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def from_pretrained(directory: str | os.PathLike[str], *, attention: str = "plain") -> GPT:
    """Return the model that a folder holds, in evaluation mode.

    Args:
        directory: Holds `config.json` and `model.safetensors`, whose names may have Hugging
            Face's prefix or not. Half precision is widened to float32, which is exact.
        attention: Name of the way to run it, a key of `scratch_gpt.paths.PATHS`.

    Raises:
        CheckpointError: A file is missing or unsound, or the two do not describe one GPT-1.
        ValueError: No path has that name.
    """
    folder = Path(directory)
    config, _ = config_file.read(folder / CONFIG)
    with torch.device("meta"):
        model = GPT(config, attention=attention)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tensors = safetensors_file.read(folder / WEIGHTS).tensors
    theirs = match(tensors, wanted, one_line(folder / WEIGHTS))
    # Taken out one by one: a half-precision tensor is gone before the next one is widened.
    state = {name: tensors.pop(its).float() for name, its in theirs.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _require_whole(tensors: Mapping[str, Tensor], config: GPTConfig) -> None:
    """Require the very tensors that a model of this config has: others could not be loaded back."""
    with torch.device("meta"):
        whole = GPT(config)
    wanted = {name: parameter.shape for name, parameter in whole.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    differing = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    if differing:
        raise ValueError(f"the model is not the one its config describes: {differing[:4]}")


def _require_alone(folder: Path) -> None:
    """Require that no other weights would lie beside the new ones."""
    if others := other_weights(folder, (WEIGHTS,)):
        raise OccupiedError(
            f"the folder holds weights that would stay beside the new ones: {one_line(others[0])}",
            where=one_line(folder),
            fix="choose another folder",
        )


def _require_savable(name: str, weights: Tensor) -> None:
    if weights.dtype != torch.float32:
        raise ValueError(f"{name} must be float32 to be saved, got {weights.dtype}")
    count = not_finite(weights)
    if count:
        raise ValueError(f"{name} holds NaN or infinity in {count} of its numbers")
