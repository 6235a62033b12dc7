"""Rows of tokens to train on, in an endless seeded order.

The row at a position is a pure function of the seed and the position. A run that is resumed at step
one million looks up the rows of that step; nothing has to be drawn, skipped or saved.
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

    The windows of an epoch do not overlap and leave no gap. The first one's start changes from
    epoch to epoch, over at least `time` positions if there are enough tokens, so that in the long
    run every token is seen at every position of a window. An epoch leaves out at most
    `2 * time - 2` tokens at the two ends.

    Args:
        tokens: Ids `[tokens]`; may be mapped from a file.
        time: Tokens in a window, at least 2: the first one is not predicted.
        seed: Any integer; each gives another order.

    Raises:
        ValueError: `time` is less than 2.
        TooLittleTextError: There are fewer tokens than a window takes.
    """

    def __init__(self, tokens: NDArray[np.integer], *, time: int, seed: int) -> None:
        if time < 2:  # noqa: PLR2004 - one to see, one to predict
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
        """Return the number of windows in an epoch."""
        return self._each_epoch

    def rows(self, first: int, count: int) -> Int64[Tensor, "count time"]:
        """Return the windows at `count` positions from `first` on.

        Positions in the endless order count from 0; position `p` is in epoch `p // len(self)`.

        Raises:
            ValueError: `first` is negative, or `count` is not positive.
        """
        if first < 0 or count < 1:
            raise ValueError(f"no rows are at first={first}, count={count}")
        windows = []
        for place in range(first, first + count):
            epoch, within = divmod(place, self._each_epoch)
            phase, order = self._epoch(epoch)
            start = phase + int(order[within]) * self._time
            windows.append(self._tokens[start : start + self._time])
        return torch.tensor(np.stack(windows).astype(np.int64))

    def _drawn_epoch(self, epoch: int) -> tuple[int, NDArray[np.intp]]:
        """Return the start of an epoch's first window, and the order of its windows.

        The order sorts random 64-bit words. NumPy keeps the raw words of its bit generators the
        same in every version, but not its shuffles.
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
