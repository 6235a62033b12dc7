"""Layer normalisation."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional

from scratch_gpt.kernels.fused_ops import fused_layer_norm
from scratch_gpt.layer_norm import LayerNorm, layer_norm

Draw = Callable[..., Tensor]
Same = Callable[..., None]

EPSILON = 0.3  # large, so that its place and size show
FORMS = {"formula": layer_norm, "derived": fused_layer_norm}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "leading",
    [
        pytest.param((), id="one row"),
        pytest.param((2, 5), id="batch time"),
        pytest.param((2, 3, 5), id="three axes"),
    ],
)
def test_equals_the_library(
    leading: tuple[int, ...], form: str, draw: Draw, assert_same: Same
) -> None:
    """Every row is normalised as torch's own layer norm does it."""
    x, gain, bias = draw(*leading, 7) * 3 + 2, draw(7), draw(7)
    expected = functional.layer_norm(x, (7,), gain, bias, EPSILON)
    assert_same(expected, FORMS[form](x, gain, bias, epsilon=EPSILON))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_the_librarys(form: str, draw: Draw, assert_same: Same) -> None:
    """Input, gain and bias receive the gradients of torch's own layer norm."""
    inputs = [draw(2, 5, 7).requires_grad_(), draw(7).requires_grad_(), draw(7).requires_grad_()]
    upstream, (x, gain, bias) = draw(2, 5, 7), inputs
    library = functional.layer_norm(x, (7,), gain, bias, EPSILON)
    expected = torch.autograd.grad(library, inputs, upstream)
    ours = FORMS[form](x, gain, bias, epsilon=EPSILON)
    for of_library, of_ours in zip(
        expected, torch.autograd.grad(ours, inputs, upstream), strict=True
    ):
        assert_same(of_library, of_ours)


def test_the_derivative_is_that_of_differences(draw: Draw) -> None:
    """Without any library: the written derivatives are what small changes do."""
    inputs = [(draw(*shape) * 2).requires_grad_() for shape in ((2, 3, 5), (5,), (5,))]
    assert gradcheck(functools.partial(fused_layer_norm, epsilon=EPSILON), inputs)


@pytest.mark.parametrize("form", FORMS)
def test_the_variance_is_biased_and_epsilon_under_the_root(form: str) -> None:
    """For the row (1, -1) and an epsilon of 3 the divisor is sqrt(1 + 3) = 2."""
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    gain, bias = torch.tensor([6.0, 10.0]).double(), torch.tensor([100.0, 200.0]).double()
    expected = [103.0, 195.0]
    actual = FORMS[form](row, gain, bias, epsilon=3.0).tolist()
    assert expected == actual


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_row_becomes_the_bias(form: str, draw: Draw) -> None:
    """Where nothing varies only the bias is left, and nothing is divided by zero."""
    bias = draw(7)
    actual = FORMS[form](torch.full((7,), 5.0).double(), draw(7), bias, epsilon=1e-5)
    assert torch.equal(bias, actual)


@pytest.mark.parametrize("form", FORMS)
def test_the_layer_uses_its_own_gain_bias_and_epsilon(
    form: str, draw: Draw, loud: Callable[[nn.Module], nn.Module], assert_same: Same
) -> None:
    """The layer normalises with what it owns."""
    layer, x = loud(LayerNorm(7, epsilon=EPSILON, normalize=FORMS[form])), draw(2, 5, 7)
    expected = functional.layer_norm(x, (7,), layer.weight, layer.bias, EPSILON)
    assert_same(expected, layer(x))
