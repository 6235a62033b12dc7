"""Clipping by the global norm: an exact norm, one factor for all gradients; invalid input."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference.training_oracle import clip_by_global_norm
from scratch_gpt.gradient_clipping import GradientError, clip_global_norm

Pairs = list[tuple[str, nn.Parameter]]


def with_gradients(gradients: dict[str, Tensor]) -> Pairs:
    pairs = [(name, nn.Parameter(torch.zeros_like(g))) for name, g in gradients.items()]
    for (_, parameter), gradient in zip(pairs, gradients.values(), strict=True):
        parameter.grad = gradient.clone()
    return pairs


@pytest.fixture
def gradients(draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Return gradients of three shapes, one of them longer than a group of squares."""
    return {"matrix": draw(7, 5), "bias": draw(3), "long": draw(3, 7001)}


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0, 2.0])
def test_clipping_agrees_with_the_oracle(
    part: float, gradients: dict[str, Tensor], assert_same: Callable[..., None]
) -> None:
    arrays = {name: g.numpy().copy() for name, g in gradients.items()}
    maximum = part * clip_by_global_norm(arrays, math.inf)[1]
    expected, norm = clip_by_global_norm(arrays, maximum)
    pairs = with_gradients(gradients)
    found = clip_global_norm(pairs, maximum)
    assert_same(torch.tensor(norm).double(), torch.tensor(found).double())
    for name, parameter in pairs:
        assert_same(expected[name], parameter.grad)


def test_gradients_within_the_maximum_keep_their_bits(gradients: dict[str, Tensor]) -> None:
    pairs = with_gradients(gradients)
    clip_global_norm(pairs, clip_global_norm(pairs, math.inf))
    assert all(torch.equal(gradients[name], p.grad) for name, p in pairs)


def test_the_norm_is_global(gradients: dict[str, Tensor]) -> None:
    pairs = with_gradients(gradients)
    norm = clip_global_norm(pairs, 1.0)
    assert {round(float(p.grad.norm() / gradients[n].norm()) * norm, 9) for n, p in pairs} == {1.0}


def test_the_order_changes_no_bit(gradients: dict[str, Tensor]) -> None:
    pairs = with_gradients(gradients)
    assert clip_global_norm(pairs, math.inf) == clip_global_norm(pairs[::-1], math.inf)


def test_no_finite_gradient_overflows() -> None:
    pairs = with_gradients({"large": torch.full((4,), 2.0**100)})
    assert clip_global_norm(pairs, 1.0) == 2.0**101
    assert torch.equal(pairs[0][1].grad, torch.full((4,), 0.5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_gradient_that_is_not_finite_is_named(value: float, gradients: dict[str, Tensor]) -> None:
    pairs = with_gradients(gradients)
    pairs[2][1].grad[1, 5] = value
    with pytest.raises(GradientError, match="1 of 3 gradients are not finite") as caught:
        clip_global_norm(pairs, 1.0)
    assert caught.value.where == "long"
    assert torch.equal(gradients["matrix"], pairs[0][1].grad)


def test_many_names_are_cut() -> None:
    pairs = with_gradients({f"p{i}": torch.tensor([math.nan]) for i in range(5)})
    with pytest.raises(GradientError) as caught:
        clip_global_norm(pairs, 1.0)
    assert caught.value.where == "p0, p1, p2 and 2 more"


def test_an_overflow_in_float64_is_not_finite() -> None:
    """Each square is finite and their sum is not: the error lists all."""
    pairs = with_gradients(
        {f"p{i}": torch.full((1,), 1e154, dtype=torch.float64) for i in range(3)}
    )
    with pytest.raises(GradientError, match="too large") as caught:
        clip_global_norm(pairs, 1.0)
    assert caught.value.where == "p0, p1, p2"


def test_a_missing_gradient_is_named(gradients: dict[str, Tensor]) -> None:
    pairs = with_gradients(gradients)
    pairs[1][1].grad = None
    with pytest.raises(GradientError, match="bias has no gradient"):
        clip_global_norm(pairs, 1.0)


@pytest.mark.parametrize("maximum", [0.0, -1.0, math.nan])
def test_an_invalid_maximum_is_rejected(maximum: float, gradients: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        clip_global_norm(with_gradients(gradients), maximum)
