"""The activation, its derived form, and the derivative written by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from scratch_gpt.kernels.fused_ops import fused_gelu
from scratch_gpt.mlp import gelu

Draw = Callable[..., Tensor]
Same = Callable[..., None]

FORMS = {"formula": gelu, "derived": fused_gelu}


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_library(form: str, assert_same: Same) -> None:
    """It is torch's tanh form, where the two forms differ and far from there."""
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    expected = functional.gelu(x, approximate="tanh")
    assert_same(expected, FORMS[form](x))


@pytest.mark.parametrize("form", FORMS)
def test_has_the_librarys_gradient(form: str, draw: Draw, assert_same: Same) -> None:
    """And so is its derivative."""
    x, upstream = (draw(5, 7) * 3).requires_grad_(), draw(5, 7)
    library = functional.gelu(x, approximate="tanh")
    (expected,) = torch.autograd.grad(library, x, upstream)
    (actual,) = torch.autograd.grad(FORMS[form](x), x, upstream)
    assert_same(expected, actual)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e4, 1e13, 1e38])
def test_huge_inputs_pass_or_vanish(size: float, form: str) -> None:
    """Where the cube no longer fits float32, large inputs pass and their negatives vanish."""
    x = torch.tensor([size, -size])
    expected = [float(x[0]), 0.0]
    assert expected == FORMS[form](x).tolist()


def test_the_derivative_is_that_of_differences(draw: Draw) -> None:
    """Without any library: the written derivative is what small changes do."""
    assert gradcheck(fused_gelu, (draw(3, 4) * 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [40.0, 200.0])
def test_far_from_zero_it_is_the_identity_or_nothing(size: float, dtype: torch.dtype) -> None:
    """Nothing overflows on the way: neither the value nor the slope."""
    x = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    y = fused_gelu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [size, 0.0]
    assert slope.tolist() == [1.0, 0.0]


def test_small_values_of_large_negatives_survive() -> None:
    """Where the formula's 1 + tanh is 0 in float32, the derived form still has digits."""
    x = torch.tensor([-6.0])
    right = float(gelu(x.double()))
    assert float(gelu(x)) == 0.0
    assert abs(float(fused_gelu(x)) / right - 1.0) < abs(float(gelu(x)) / right - 1.0)


def test_leaves_its_input_as_it_was(draw: Draw) -> None:
    """Working in place touches its own tensors only."""
    x, upstream = draw(5, 7).requires_grad_(), draw(5, 7)
    before = x.detach().clone(), upstream.clone()
    fused_gelu(x).backward(upstream)
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], upstream)
