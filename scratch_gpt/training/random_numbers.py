"""Where a run's random numbers come from: each is a function of the seed and of its place.

Nothing random is carried from step to step. So nothing random can be lost between two runs, and
a step drops out the same elements whichever process computes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_WEIGHTS, _DROPOUT = 0, 1
"""What a stream is for: no two purposes share one."""


def for_weights(seed: int) -> torch.Generator:
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
def kept_aside() -> Iterator[None]:
    """Put torch's own random state back afterwards, on every device."""
    with torch.random.fork_rng():
        yield


def _mixed(*words: int) -> int:
    """Return 64 bits that depend on every word.

    NumPy promises that the same words give the same bits in every version.
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
