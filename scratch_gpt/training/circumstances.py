"""What a run's numbers hang on: written into every checkpoint, compared before it goes on."""

import dataclasses
import math
from typing import Any

import torch

from scratch_gpt.command.errors import EnvironmentUnfitError
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.distributed import Group
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe, kept_fields

_ABOUT_THE_CORPUS = ("merges", "splitting", "validation_fraction", "epochs")
"""Fields of a recipe that say nothing that vocabulary, data and steps do not."""


def settled(recipe: Recipe, windows: Windows) -> Recipe:
    """Return the recipe with what it left open: steps and threads.

    Args:
        recipe: A run's.
        windows: Those of the training data, whose epoch has a length.
    """
    steps = recipe.steps or max(1, math.ceil(recipe.epochs * len(windows) / recipe.batch))
    threads = recipe.threads or torch.get_num_threads()
    return dataclasses.replace(recipe, steps=steps, threads=threads)


def device_of(recipe: Recipe) -> str:
    """Return the kind of device that the recipe asks for.

    Raises:
        EnvironmentUnfitError: It is not there.
    """
    if recipe.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnfitError(
            "there is no CUDA device", where="--device cuda", fix="use --device cpu"
        )
    return recipe.device


def circumstances(
    recipe: Recipe, tokenizer: Tokenizer, data: TokenData, group: Group
) -> dict[str, Any]:
    """Return, by name, everything that has to be the same for a run to be bitwise the same."""
    fields = {name: getattr(recipe, name) for name in kept_fields()}
    for name in _ABOUT_THE_CORPUS:
        fields.pop(name)
    return fields | {
        "device": group.device.type,
        "vocabulary": tokenizer.digest,
        "data": data.manifest.sha256,
        "world_size": group.processes,
        "torch": str(torch.__version__),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
