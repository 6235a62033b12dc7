"""Inverted dropout."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.dropout import dropout


def test_probability_zero_returns_the_tensor_itself(draw: Callable[..., Tensor]) -> None:
    x = draw(5, 7)
    assert dropout(x, 0.0) is x


def test_kept_elements_are_divided_by_the_kept_share(draw: Callable[..., Tensor]) -> None:
    x = draw(50, 7)
    actual = dropout(x, 0.75)
    expected = torch.where(actual == 0, 0.0, 4 * x)
    assert torch.equal(expected, actual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("probability", [0.1, 0.75])
def test_the_share_dropped_is_the_probability(probability: float, dtype: torch.dtype) -> None:
    """The number of zeros lies within six standard deviations of the binomial's mean."""
    count = 4_000_000  # enough to see a probability rounded to bfloat16
    zeros = int((dropout(torch.ones(count, dtype=dtype), probability) == 0).sum())
    deviation = math.sqrt(count * probability * (1 - probability))
    assert abs(zeros - count * probability) < 6 * deviation


def test_each_element_is_dropped_on_its_own() -> None:
    dropped = dropout(torch.ones(50, 60), 0.5) == 0
    per_axis = torch.cat([dropped.sum(0) % 50, dropped.sum(1) % 60])
    assert bool((per_axis > 0).all())


def test_the_seed_determines_the_mask() -> None:
    x, masks = torch.ones(1000), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.5))
    masks.append(dropout(x, 0.5))  # the next call, without another seed
    assert torch.equal(masks[0], masks[1])
    assert not any(torch.equal(*pair) for pair in itertools.combinations(masks[1:], 2))


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = dropout(x, 0.5)
    y.sum().backward()
    assert torch.equal(y.detach(), x.grad)


def test_keeps_the_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert dtype == dropout(torch.ones(3, dtype=dtype), 0.5).dtype
