"""Bitwise reproducible runs: deterministic mode, random seeds, and settings compared on resume."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from scratch_gpt.data import TokenData
from scratch_gpt.errors import InputRejectedError, UsageError, one_line, quote
from scratch_gpt.kernels import onednn
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe, kept_fields

# Deterministic mode


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Allow only operations whose result does not depend on the order in which threads finish.

    Otherwise the backward of indexing would: it sums rows of the embedding's gradient. torch gets
    this number of threads; 0 leaves it unchanged.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS raises
    settings = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    threads_before = torch.get_num_threads()
    with _deterministic_algorithms(enabled=True):
        try:
            # Deterministic mode would also write NaN into every new tensor, which takes time.
            settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.set_num_threads(threads or threads_before)
            yield
        finally:
            settings.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.set_num_threads(threads_before)


@contextmanager
def nondeterministic() -> Iterator[None]:
    """Allow all operations, such as cumulative sums on a GPU, inside `deterministic`."""
    with _deterministic_algorithms(enabled=False):
        yield


@contextmanager
def _deterministic_algorithms(*, enabled: bool) -> Iterator[None]:
    """Set torch's deterministic mode, and restore it with its warning mode."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(enabled)
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


# Random numbers: each is a function of the seed and of where it is used. No generator state is
# carried from step to step, so none can be lost on resume, and a micro-batch has the same dropout
# masks whichever process computes it.

_WEIGHTS, _DROPOUT = 0, 1
"""First word of a stream's seed: no two purposes share a stream."""


def weight_generator(seed: int) -> torch.Generator:
    """Return the generator of a run's initial weights."""
    return torch.Generator().manual_seed(_mixed(seed, _WEIGHTS))


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Seed torch's own generator for the dropout masks of one micro-batch.

    Steps count from 0; so do the step's micro-batches, over all processes.
    """
    torch.manual_seed(_mixed(seed, _DROPOUT, step, micro_batch))


def _mixed(*words: int) -> int:
    """Return 63 bits that depend on every word.

    NumPy guarantees the same bits for the same words in every version.
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


# Reproducibility settings: recorded in every checkpoint, compared on resume

_REPLACED = ("merges", "pretokenizer", "validation_fraction", "epochs")
"""Fields of a recipe that the settings for vocabulary, data and steps replace."""

_ENVIRONMENT = ("device", "vocabulary", "data", "world_size", "torch", "processor")
"""Settings that are not fields of a recipe."""

SETTING_NAMES = frozenset(kept_fields()).difference(_REPLACED).union(_ENVIRONMENT)
"""Names of all reproducibility settings."""

_INCOMPATIBLE = {
    **dict.fromkeys(("n_layer", "n_embd", "n_head", "n_positions"), "it shapes the weights"),
    "vocabulary": "ids would mean other tokens",
    "optimizer": "its moments mean something else",
    "dtype": "its moments have the other precision",
}
"""Settings that `--allow-changed` cannot allow to change, and why."""


def reproducibility_settings(
    recipe: Recipe, tokenizer: Tokenizer, data: TokenData, group: Group
) -> dict[str, Any]:
    """Return everything that affects a run's results, by name."""
    fields = {name: getattr(recipe, name) for name in kept_fields() if name not in _REPLACED}
    return fields | {
        "device": group.device.type,
        "vocabulary": tokenizer.digest,
        "data": data.manifest.sha256,
        "world_size": group.processes,
        "torch": str(torch.__version__),
        "processor": onednn.processor(),
    }


def require_known_settings(allowed: Collection[str]) -> None:
    """Require that each name is that of a reproducibility setting, or raise UsageError."""
    if unknown := sorted(set(allowed) - SETTING_NAMES):
        raise UsageError(
            f"there is no setting {one_line(', '.join(unknown))}",
            where="--allow-changed",
            fix=f"use one of {', '.join(sorted(SETTING_NAMES.difference(_INCOMPATIBLE)))}",
        )


def require_same_settings(
    recorded: Mapping[str, Any], found: Mapping[str, Any], *, allowed: Collection[str], where: str
) -> list[str]:
    """Require that no reproducibility setting changed, except those that may.

    Returns:
        One phrase for each allowed change.

    Raises:
        InputRejectedError: A setting changed that must not; the message lists all of them.
    """
    phrases = {
        name: f"{name} was {quote(recorded.get(name))} and is {quote(found.get(name))}"
        for name in sorted({**recorded, **found})
        if recorded.get(name) != found.get(name)
    }
    # Runs in float32 and bfloat16 both have float32 moments.
    is_narrow = {recorded.get("dtype"), found.get("dtype")} <= {"float32", "bfloat16"}
    incompatible = [n for n in phrases if n in _INCOMPATIBLE and not (n == "dtype" and is_narrow)]
    rejected = [name for name in phrases if name not in allowed or name in incompatible]
    if not rejected:
        return list(phrases.values())
    if incompatible:
        reasons = ", ".join(f"{name} ({_INCOMPATIBLE[name]})" for name in incompatible)
        fix = f"give {reasons} as before, or train anew with another --output"
    else:
        options = " ".join(f"--allow-changed {name}" for name in rejected)
        fix = f"give them as before, or resume with changed results by {options}"
    raise InputRejectedError(
        f"settings differ from the checkpoint's: {'; '.join(phrases[name] for name in rejected)}",
        where=where,
        fix=fix,
    )
