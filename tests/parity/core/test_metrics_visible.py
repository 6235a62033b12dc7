"""Which entries of a tap count, and that no other does."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.core import metrics
from parity.core.metrics import Reference, Status, difference, visible_entries
from parity.core.taps import Axes

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT64 = torch.float64
TIME, HEADS, WIDTH = 5, 3, 7

MASKS = {
    "no padding": None,
    "one row, padded": torch.tensor([[True, True, True, False, False]]),
    "one row, whole": torch.tensor([[True] * 5]),
    "two rows": torch.tensor([[True] * 5, [False, True, True, False, True]]),
    "two rows, one of them padding": torch.tensor([[True] * 5, [False] * 5]),
}

SHAPES = {
    Axes.ROWS: (TIME, WIDTH),
    Axes.HEADS: (HEADS, TIME, WIDTH),
    Axes.SCORES: (HEADS, TIME, TIME),
    Axes.WEIGHTS: (HEADS, TIME, TIME),
    Axes.LOSS: (TIME - 1,),
}
"""The shapes after the batch; positions are the same in every row and have one of their own."""


def counts(axes: Axes, real: list[bool], place: tuple[int, ...]) -> bool:
    """Return whether both sides define the entry at `place` of one row of the batch."""
    if axes is Axes.ROWS:
        return real[place[0]]
    if axes is Axes.LOSS:  # both the token that predicts and the one predicted
        return real[place[0]] and real[place[0] + 1]
    if axes is Axes.SCORES:  # a key in the future, or padding, is a constant
        query, key = place[1:]
        return real[query] and real[key] and key <= query
    return real[place[1]]  # heads and weights: whatever a real position has


def drawn(axes: Axes, mask: Tensor | None) -> tuple[Tensor, Tensor, np.ndarray]:
    reals = [[True] * TIME] * 2 if mask is None else mask.tolist()
    shape = (len(reals), *SHAPES[axes])
    generator = torch.Generator().manual_seed(20180611)
    ours, reference = (
        torch.randint(-50, 51, shape, generator=generator).double() for _ in range(2)
    )
    counted = np.array(
        [[counts(axes, real, place) for place in np.ndindex(*shape[1:])] for real in reals]
    )
    return ours, reference, counted.reshape(shape)


@pytest.fixture(params=[None, 6], ids=["whole", "in chunks"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in whole chunks, and in chunks smaller than most rows."""
    if request.param is not None:
        monkeypatch.setattr(metrics, "_CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("axes", SHAPES, ids=lambda axes: axes.name)
def test_only_entries_that_count_are_compared(axes: Axes, mask: Tensor | None) -> None:
    ours, reference, counted = drawn(axes, mask)
    gap = np.where(counted, (ours - reference).numpy(), 0.0)
    ours[torch.from_numpy(~counted)] = math.nan
    reference[torch.from_numpy(~counted)] = math.inf
    found = difference(ours, reference, dtype=FLOAT64, visible=visible_entries(axes, mask, TIME))
    scale = np.square(reference.numpy()[counted]).sum() / counted.sum()
    expected = (
        Status.PASS,
        counted.sum(),
        math.sqrt(np.square(gap).sum() / counted.sum()),
        math.sqrt(scale),
        np.abs(gap).max(),
        np.unravel_index(np.abs(gap).argmax(), gap.shape),
        np.abs(reference.numpy()[counted]).max(),
    )
    assert expected == (
        *(found.status, found.count, found.rms, found.scale),
        *(found.largest, found.worst_index, found.scale_largest),
    )


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("axes", SHAPES, ids=lambda axes: axes.name)
def test_every_entry_that_counts_is_compared(axes: Axes, mask: Tensor | None) -> None:
    ours, reference, counted = drawn(axes, mask)
    held = Reference(reference, visible_entries(axes, mask, TIME))
    for place in zip(*np.nonzero(counted), strict=True):
        broken = ours.clone()
        broken[place] = math.nan
        found = held.difference(broken, dtype=FLOAT64)
        assert (found.status, found.worst_index) == (Status.NONFINITE, place)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_positions_count_throughout(mask: Tensor | None) -> None:
    assert visible_entries(Axes.POSITIONS, mask, TIME) is None


@pytest.mark.parametrize("axes", [axes for axes in SHAPES if axes is not Axes.SCORES])
def test_without_padding_only_scores_have_a_mask(axes: Axes) -> None:
    assert visible_entries(axes, None, TIME) is None


def test_a_row_of_nothing_but_padding_leaves_no_evidence() -> None:
    ones = torch.ones(1, TIME, WIDTH, dtype=FLOAT64)
    visible = visible_entries(Axes.ROWS, torch.zeros(1, TIME, dtype=torch.bool), TIME)
    assert difference(ones, ones, dtype=FLOAT64, visible=visible).status is Status.NOT_RUN


def test_one_token_has_one_score() -> None:
    ones = torch.ones(2, HEADS, 1, 1, dtype=FLOAT64)
    found = difference(ones, ones, dtype=FLOAT64, visible=visible_entries(Axes.SCORES, None, 1))
    assert (found.status, found.count) == (Status.PASS, 2 * HEADS)
