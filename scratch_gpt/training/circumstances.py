"""What a run's numbers hang on: written into every checkpoint, compared before it goes on."""

import dataclasses
import math
from typing import Any

import torch

from scratch_gpt.command.errors import UsageError
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.devices import device_named
from scratch_gpt.distributed import Group
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe, kept_fields

_ABOUT_THE_CORPUS = ("merges", "splitting", "validation_fraction", "epochs")
"""Fields of a recipe that say nothing that vocabulary, data and steps do not."""

_OF_NOW = ("device", "vocabulary", "data", "world_size", "torch", "processor")
"""What is known when a run begins, and stands in no recipe."""

_WARMUP = 2_000
"""The paper's; it takes part of its run alone, and most of a much shorter one."""


def settled(recipe: Recipe, windows: Windows) -> Recipe:
    """Return the recipe with what it left open: steps, warm-up and threads.

    Args:
        recipe: A run's.
        windows: Those of the training data, whose epoch has a length.

    Raises:
        UsageError: The warm-up is not shorter than the run.
    """
    steps = recipe.steps or max(1, math.ceil(recipe.epochs * len(windows) / recipe.batch))
    warmup = recipe.warmup if recipe.warmup >= 0 else min(_WARMUP, steps // 10)
    threads = recipe.threads or torch.get_num_threads()
    if warmup >= steps:
        raise UsageError(
            f"a warm-up of {warmup} steps does not fit into the {steps} that "
            f"{recipe.epochs:g} epochs of this text make",
            where="--warmup",
            fix="lower --warmup, or raise --epochs or --steps",
        )
    return dataclasses.replace(recipe, steps=steps, warmup=warmup, threads=threads)


def device_of(recipe: Recipe) -> str:
    """Return the kind of device that the recipe asks for.

    Raises:
        EnvironmentUnfitError: It is not there.
    """
    return device_named(recipe.device)


def names() -> frozenset[str]:
    """Return the names of all circumstances, known before any of them is."""
    return frozenset(kept_fields()).difference(_ABOUT_THE_CORPUS).union(_OF_NOW)


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
