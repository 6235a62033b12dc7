"""Windows of tokens in a seeded order."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from scratch_gpt.data import windows as module
from scratch_gpt.data.windows import Windows
from scratch_gpt.errors import TooLittleTextError

pytestmark = pytest.mark.once

TOKENS = np.arange(1_000, 1_103, dtype="<u2")
"""103 different tokens."""


def starts(windows: Windows, epoch: int) -> list[int]:
    count = len(windows)
    return (windows.rows(epoch * count, count)[:, 0] - 1_000).tolist()


@pytest.mark.parametrize("time", [2, 5, 7, 51, 52, 102, 103])
def test_an_epoch_has_every_window_once(time: int) -> None:
    """They adjoin, and at most `2 * time - 2` tokens are left out at the two ends."""
    windows = Windows(TOKENS, time=time, seed=5)
    for epoch in range(4):
        first, *others = sorted(starts(windows, epoch))
        assert [first + time * (number + 1) for number in range(len(others))] == others
        covered = len(windows) * time
        assert 0 <= first <= 103 - covered <= 2 * time - 2


def test_rows_are_what_the_file_has_there() -> None:
    windows = Windows(TOKENS, time=7, seed=5)
    rows = windows.rows(3, 4)
    assert ((4, 7), torch.int64) == (tuple(rows.shape), rows.dtype)
    for row in rows.tolist():
        assert list(range(row[0], row[0] + 7)) == row
    rows.zero_()
    assert windows.rows(3, 4).all()


def test_any_place_can_be_asked_for_alone() -> None:
    whole = Windows(TOKENS, time=7, seed=5).rows(0, 60)
    for size in (1, 4, 13, 60):
        windows = Windows(TOKENS, time=7, seed=5)
        batches = [windows.rows(first, min(size, 60 - first)) for first in range(0, 60, size)]
        assert torch.equal(whole, torch.cat(batches))
    backwards = Windows(TOKENS, time=7, seed=5)
    assert torch.equal(whole.flip(0), torch.cat([backwards.rows(p, 1) for p in range(59, -1, -1)]))


def test_seeds_and_epochs_differ() -> None:
    orders = [
        tuple(starts(Windows(TOKENS, time=5, seed=seed), epoch))
        for seed, epoch in itertools.product((0, 1, -1, 2**70), range(3))
    ]
    assert len(set(orders)) == 12


def test_windows_begin_everywhere() -> None:
    windows = Windows(TOKENS, time=5, seed=5)
    seen = set(itertools.chain.from_iterable(starts(windows, epoch) for epoch in range(80)))
    assert set(range(99)) == seen


def test_the_order_is_the_same_for_ever() -> None:
    """These starts were recorded when the order was defined."""
    windows = Windows(TOKENS, time=9, seed=11)
    assert starts(windows, 0) == [73, 64, 10, 82, 19, 28, 55, 37, 91, 46]
    assert starts(windows, 1) == [11, 29, 83, 74, 38, 92, 56, 20, 65, 47]


def test_the_order_sorts_philox() -> None:
    """The starts follow from Philox's raw words by sorting and a remainder only."""
    key = int.from_bytes(hashlib.sha256(b"windows/11/1").digest()[:16], "little")
    first, *words = np.random.Philox(key=key).random_raw(11).tolist()
    order = sorted(range(10), key=words.__getitem__)
    phase = first % (103 - 90 + 1)
    assert [phase + 9 * window for window in order] == starts(Windows(TOKENS, time=9, seed=11), 1)


def test_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a large corpus each draw takes a second."""
    drawn = []
    stream = module._stream
    monkeypatch.setattr(module, "_stream", lambda key: drawn.append(key) or stream(key))
    windows = Windows(TOKENS, time=7, seed=5)
    for first in range(len(windows) + 3):
        windows.rows(first, 2)
    assert drawn == ["windows/5/0", "windows/5/1"]


@pytest.mark.parametrize(("count", "time"), [(0, 2), (1, 2), (102, 103)])
def test_too_few_tokens_are_rejected(count: int, time: int) -> None:
    with pytest.raises(TooLittleTextError, match=f"there are {count} tokens.* takes {time}"):
        Windows(TOKENS[:count], time=time, seed=0)


def test_a_window_predicts_something() -> None:
    with pytest.raises(ValueError, match="time must be at least 2, got 1"):
        Windows(TOKENS, time=1, seed=0)


@pytest.mark.parametrize(("first", "count"), [(-1, 3), (0, 0), (4, -1)])
def test_there_is_nothing_before_the_first_row(first: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"first={first}, count={count}"):
        Windows(TOKENS, time=5, seed=0).rows(first, count)
