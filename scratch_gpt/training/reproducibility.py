"""Whether a run that goes on is still the run that the checkpoint was written by."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from scratch_gpt.cli import parse_device
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.errors import InputRejectedError, UsageError
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe, kept_fields

# The same numbers from the same inputs, on every run.


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Allow torch nothing whose result hangs on the order in which threads finish.

    The backward of indexing is such an operation: it sums rows of the embedding's gradient.

    Args:
        threads: How many threads torch may use; 0 for as many as it has.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    settings = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory)  # type: ignore[attr-defined]
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    had = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    # It would write NaN into every new tensor before the numbers come.
    settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads or had)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warned)
        settings.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]
        torch.set_num_threads(had)


@contextmanager
def allow_any_order() -> Iterator[None]:
    """Allow for a while what is not deterministic everywhere: running sums on a GPU are not."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


# Where a run's random numbers come from: each is a function of the seed and of its place.
#
# Nothing random is carried from step to step. So nothing random can be lost between two runs, and
# a step drops out the same elements whichever process computes it.


_WEIGHTS, _DROPOUT = 0, 1
"""What a stream is for: no two purposes share one."""


def weight_generator(seed: int) -> torch.Generator:
    """Return the generator of a run's first weights."""
    return torch.Generator().manual_seed(_mixed(seed, _WEIGHTS))


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Let torch draw, from here on, what belongs to one micro-batch of a step.

    Args:
        seed: The run's.
        step: From 0.
        micro_batch: From 0, counted over all processes.
    """
    torch.manual_seed(_mixed(seed, _DROPOUT, step, micro_batch))


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Put torch's own random state back afterwards, on every device."""
    with torch.random.fork_rng():
        yield


def _mixed(*words: int) -> int:
    """Return 64 bits that depend on every word.

    NumPy promises that the same words give the same bits in every version.
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


# What a run's numbers hang on: written into every checkpoint, compared before it goes on.


_ABOUT_THE_CORPUS = ("merges", "pretokenizer", "validation_fraction", "epochs")
"""Fields of a recipe that say nothing that vocabulary, data and steps do not."""

_OF_NOW = ("device", "vocabulary", "data", "world_size", "torch", "processor")
"""What is known when a run begins, and stands in no recipe."""

_WARMUP = 2_000
"""The paper's; it takes part of its run alone, and most of a much shorter one."""


def settle_recipe(recipe: Recipe, windows: Windows) -> Recipe:
    """Return the recipe with what it left open: steps, warm-up and threads.

    Args:
        recipe: A run's.
        windows: Those of the training data, whose epoch has a length.

    Raises:
        UsageError: The warm-up is not shorter than the run.
    """
    steps = recipe.steps or max(1, math.ceil(recipe.epochs * len(windows) / recipe.batch_size))
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
    return parse_device(recipe.device)


def names() -> frozenset[str]:
    """Return the names of all circumstances, known before any of them is."""
    return frozenset(kept_fields()).difference(_ABOUT_THE_CORPUS).union(_OF_NOW)


def reproducibility_settings(
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


_NEVER = {
    **dict.fromkeys(
        ("n_layer", "n_embd", "n_head", "n_positions"), "the weights have the other shape"
    ),
    "vocabulary": "ids would mean other tokens",
    "optimizer": "its moments mean something else",
    "dtype": "its moments are in the other precision",
}
"""What no `--allow-changed` can make right, and why."""


def require_known_recipe(allowed: Collection[str], names: Collection[str]) -> None:
    """Require that what is to be allowed is the name of a circumstance.

    Raises:
        UsageError: A name is none.
    """
    if strange := sorted(set(allowed) - set(names)):
        raise UsageError(
            f"there is nothing called {', '.join(strange)} to allow",
            where="--allow-changed",
            fix=f"use one of {', '.join(sorted(set(names) - set(_NEVER)))}",
        )


def require_same_settings(
    recorded: Mapping[str, Any], found: Mapping[str, Any], *, allowed: Collection[str], where: str
) -> list[str]:
    """Require that nothing that the run's numbers hang on has changed.

    Args:
        recorded: The checkpoint's circumstances by name.
        found: Those of now.
        allowed: Names that may differ.
        where: The checkpoint, for the message.

    Returns:
        One phrase for each difference that was allowed.

    Raises:
        InputRejectedError: Something differs that is not allowed to; all such are listed.
    """
    differing = sorted(
        name for name in {**recorded, **found} if recorded.get(name) != found.get(name)
    )
    hopeless = [name for name in differing if _is_hopeless(name, recorded, found)]
    refused = [name for name in differing if name not in allowed or name in hopeless]
    if refused:
        phrases = "; ".join(_phrase(name, recorded, found) for name in refused)
        raise InputRejectedError(
            f"the run is not the one that the checkpoint is from: {phrases}",
            where=where,
            fix=_fix(refused, hopeless),
        )
    return [_phrase(name, recorded, found) for name in differing]


def _phrase(name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return f"{name} was {recorded.get(name)!r} and is {found.get(name)!r}"


def _is_hopeless(name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a difference can never be allowed; bfloat16 keeps its moments in float32."""
    narrow = {"float32", "bfloat16"}
    return name in _NEVER and not (name == "dtype" and {recorded.get(name), found[name]} <= narrow)


def _fix(refused: Collection[str], hopeless: Collection[str]) -> str:
    """Return the way out: what can be allowed, or why it cannot."""
    if hopeless:
        reasons = ", ".join(f"{name} ({_NEVER[name]})" for name in hopeless)
        return f"give {reasons} as before, or train anew with another --output"
    options = " ".join(f"--allow-changed {name}" for name in refused)
    return f"give them as before, or go on with other numbers by {options}"
