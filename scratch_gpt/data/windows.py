"""Rows of tokens to train on, in a seeded order without an end.

Which row stands at which place is a pure function of the seed and the place. A run that goes on
at step one million asks for that step's rows, and nothing has to be drawn, skipped or saved.
"""

import functools
import hashlib

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from scratch_gpt.errors import TooLittleTextError

_KEPT = 2  # a batch may begin in one epoch and end in the next


class Windows:
    """Windows of `time` tokens; each epoch has every one of its windows once, in its own order.

    Windows of an epoch lie side by side. Where the first one begins changes from epoch to epoch,
    over at least `time` places where there are tokens enough, so that in the long run every
    token is seen after every number of others. For this an epoch leaves out at most
    `2 * time - 2` tokens at the two ends.

    Args:
        tokens: Ids `[tokens]`, unsigned or not; may be mapped from a file.
        time: Tokens in a window, at least 2: the first one is not predicted.
        seed: Any integer. Another seed is another order.

    Raises:
        ValueError: `time` is less than 2.
        TooLittleTextError: There are fewer tokens than a window takes.
    """

    def __init__(self, tokens: NDArray[np.integer], *, time: int, seed: int) -> None:
        if time < 2:  # noqa: PLR2004 - one to look at, one to predict
            raise ValueError(f"time must be at least 2, got {time}")
        count = int(tokens.shape[0])
        if count < time:
            raise TooLittleTextError(
                f"there are {count} tokens, and a window takes {time}",
                where="the prepared tokens",
                fix="give more text, or use shorter windows",
            )
        self._tokens = tokens
        self._time = time
        self._seed = seed
        # One window fewer than would fit, so that the first one may begin anywhere in a window.
        self._each_epoch = max(1, (count + 1) // time - 1)
        self._spare = count - self._each_epoch * time
        self._epoch = functools.lru_cache(_KEPT)(self._drawn_epoch)

    def __len__(self) -> int:
        """Return how many windows an epoch has."""
        return self._each_epoch

    def rows(self, first: int, count: int) -> Int64[Tensor, "count time"]:
        """Return the windows at the places from `first` on.

        Args:
            first: Place in the endless order, from 0. Place `p` is in epoch `p // len(self)`.
            count: How many.

        Raises:
            ValueError: `first` is negative, or `count` is not positive.
        """
        if first < 0 or count < 1:
            raise ValueError(f"no rows are at first={first}, count={count}")
        starts = [self._start(place) for place in range(first, first + count)]
        windows = np.stack([self._tokens[start : start + self._time] for start in starts])
        return torch.tensor(windows.astype(np.int64))

    def _start(self, place: int) -> int:
        """Return where the window at `place` begins among the tokens."""
        epoch, within = divmod(place, self._each_epoch)
        phase, order = self._epoch(epoch)
        return phase + int(order[within]) * self._time

    def _drawn_epoch(self, epoch: int) -> tuple[int, NDArray[np.intp]]:
        """Return where an epoch's first window begins, and the order of its windows.

        The order sorts 64-bit words that are drawn. NumPy promises the raw words of its bit
        generators for ever, and what its shuffles make of them only within a version.
        """
        words = _stream(f"windows/{self._seed}/{epoch}").random_raw(1 + self._each_epoch)
        phase = int(words[0]) % (self._spare + 1)
        return phase, np.argsort(words[1:], kind="stable")


def _stream(key: str) -> np.random.Philox:
    """Return Philox4x64-10 keyed by `key`.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))
