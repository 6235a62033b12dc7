"""The health of a model, computed again row by row."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.core.liveness import (
    SETTLED,
    BlockHealth,
    HealthMonitor,
    constant_tensors,
    mean_cosine,
    sharpness,
)
from parity.core.tolerances import DEGENERATE_ATTENTION, DEGENERATE_COSINE

pytestmark = pytest.mark.usefixtures("one_thread")

Same = Callable[[Tensor, Tensor], None]
TIME = 40


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(20180611)
    return torch.rand(shape, dtype=torch.float64, generator=generator)


def float64(*numbers: float) -> Tensor:
    """Return the numbers without rounding them to float32 on the way."""
    return torch.tensor(numbers, dtype=torch.float64)


def causal(scores: Tensor) -> Tensor:
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, -math.inf), -1)


def uniform(batch: int, time: int) -> Tensor:
    return causal(torch.zeros(batch, 3, time, time, dtype=torch.float64))


MASKS = {
    "whole": None,
    "padded": torch.arange(TIME) < torch.tensor([[TIME], [36]]),
    "padded on the left": torch.arange(TIME) >= torch.tensor([[0], [5]]),
    "one row padding": torch.arange(TIME) < torch.tensor([[TIME], [0]]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_sharpness_is_the_mean_of_the_largest_weights(
    mask: Tensor | None, assert_same: Same
) -> None:
    """Over heads and settled real rows; then the same times the number of visible keys."""
    weights = causal(9 * drawn(2, 3, TIME, TIME))
    real = torch.ones(2, TIME, dtype=torch.bool) if mask is None else mask
    plain, times = [], []
    for batch in range(2):
        for row in (row for row in range(SETTLED, TIME) if real[batch, row]):
            largest = sum(max(weights[batch, head, row].tolist()) for head in range(3)) / 3
            plain.append(largest)
            times.append(largest * int(real[batch, : row + 1].sum()))
    expected = float64(sum(plain) / len(plain), sum(times) / len(times))
    assert_same(expected, float64(*sharpness(weights, mask)))


def test_uniform_attention_is_once_the_uniform(assert_same: Same) -> None:
    """A row that sees n keys gives each 1/n."""
    for time in (34, 60):
        _, times = sharpness(uniform(2, time), None)
        assert_same(float64(1.0), float64(times))


@pytest.mark.parametrize("time", [1, 32, 33])
def test_short_rows_have_no_sharpness(time: int) -> None:
    """No row has enough keys; with one row more, one has. Rows of padding do not count."""
    assert sharpness(uniform(2, time), None) is None
    assert sharpness(uniform(2, 34), None) is not None
    assert sharpness(uniform(2, TIME), torch.arange(TIME).expand(2, -1) < SETTLED) is None


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_cosine_is_the_mean_over_all_pairs(mask: Tensor | None, assert_same: Same) -> None:
    rows = drawn(2, TIME, 7) - 0.3
    real = torch.ones(2, TIME, dtype=torch.bool) if mask is None else mask
    chosen = rows[real]
    cosines = [
        float(x @ y / (x.norm() * y.norm()))
        for at, x in enumerate(chosen)
        for y in chosen[at + 1 :]
    ]
    expected = float64(math.fsum(cosines) / len(cosines))
    assert_same(expected, float64(mean_cosine(rows, mask)))


def test_rows_that_are_alike_have_cosine_one(assert_same: Same) -> None:
    rows = (float64(1.0, 2.0, 3.0) * float64(1.0, 2.0, 0.1)[:, None])[None]
    assert_same(float64(1.0), float64(mean_cosine(rows, None)))
    assert_same(float64(0.0), float64(mean_cosine(torch.eye(3, dtype=torch.float64)[None], None)))


@pytest.mark.parametrize("mask", [None, torch.tensor([[True]])], ids=["whole", "masked"])
def test_one_row_has_no_cosine(mask: Tensor | None) -> None:
    assert mean_cosine(drawn(1, 1, 7), mask) is None


@pytest.mark.parametrize(
    ("signs", "why"),
    [
        ({"cosine": DEGENERATE_COSINE}, None),
        ({"cosine": math.nextafter(DEGENERATE_COSINE, 1)}, "h.3: all positions are alike"),
        ({"cosine": 1.0}, "h.3: all positions are alike (mean cosine 1.0000)"),
        ({"cosine": math.nan}, "h.3: all positions are alike"),
        ({"cosine": -1.0}, None),
        ({"cosine": None}, None),
        ({"times_uniform": DEGENERATE_ATTENTION}, None),
        ({"times_uniform": math.nextafter(DEGENERATE_ATTENTION, 0)}, "h.3: attention is uniform"),
        ({"times_uniform": 1.0}, "h.3: attention is uniform (1.00 times)"),
        ({"times_uniform": math.nan}, "h.3: attention is uniform"),
        ({"times_uniform": None}, None),
    ],
    ids=str,
)
def test_a_block_is_degenerate_past_either_bound(
    signs: dict[str, float | None], why: str | None
) -> None:
    """The bound itself is healthy, NaN is not, and None decides nothing."""
    healthy = {"largest_weight": 0.5, "times_uniform": 9.0, "cosine": 0.3}
    why_degenerate = BlockHealth(block="h.3", **(healthy | signs)).dead
    assert (why_degenerate or "").startswith(why or "")
    assert (why_degenerate is None) is (why is None)


def test_both_signs_are_measured_in_each_block() -> None:
    monitor, first, second = HealthMonitor(None), drawn(2, TIME, 7), drawn(2, TIME, 7) - 0.5
    sharp, flat = causal(9 * drawn(2, 3, TIME, TIME)), uniform(2, TIME)
    for tap, truth in (
        ("embeddings", first),
        ("h.0.attn.weights", sharp),
        ("h.0.attn.scores", flat),
        ("h.0.ln_1", second),
        ("h.0.ln_2", first),
        ("h.10.attn.weights", flat),
        ("h.10.ln_2", second),
        ("logits", first),
    ):
        monitor.look(tap, truth)
    assert [
        (block.block, (block.largest_weight, block.times_uniform), block.cosine)
        for block in monitor.blocks()
    ] == [
        ("h.0", sharpness(sharp, None), mean_cosine(first, None)),
        ("h.10", sharpness(flat, None), mean_cosine(second, None)),
    ]


def test_a_block_without_weights_has_its_cosine() -> None:
    monitor, rows = HealthMonitor(None), drawn(1, 5, 7)
    monitor.look("h.0.attn.weights", uniform(1, 1))
    monitor.look("h.0.ln_2", drawn(1, 1, 7))
    monitor.look("h.1.ln_2", rows)
    none = {"largest_weight": None, "times_uniform": None}
    assert monitor.blocks() == [
        BlockHealth(block="h.0", cosine=None, **none),
        BlockHealth(block="h.1", cosine=mean_cosine(rows, None), **none),
    ]


def test_tensors_of_one_value_are_named() -> None:
    nearly = torch.zeros(3, 5)
    nearly[2, 4] = 1e-30
    state = {
        "gain": torch.ones(7),
        "bias": torch.zeros(7),
        "matrix": torch.full((3, 5), -2.5),
        "nearly": nearly,
        "drawn": drawn(3, 5),
        "broken": torch.full((7,), math.nan),
    }
    assert constant_tensors(state) == ["gain", "bias", "matrix"]
    assert constant_tensors({"empty": torch.empty(0, 3)}) == ["empty"]
