"""Fused GELU, layer normalization and head: the library's values, and derived gradients."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from scratch_gpt.embeddings import head
from scratch_gpt.kernels import fused_ops
from scratch_gpt.kernels.fused_ops import fused_gelu, fused_head, fused_layer_norm
from scratch_gpt.layer_norm import layer_norm
from scratch_gpt.mlp import gelu

Draw = Callable[..., Tensor]
Same = Callable[..., None]

GELUS = {"plain": gelu, "fused": fused_gelu}
LAYER_NORMS = {"plain": layer_norm, "fused": fused_layer_norm}
HEADS = {"plain": head, "fused": fused_head}

EPSILON = 0.3  # large, so that its place and size show


@pytest.mark.parametrize("form", GELUS)
def test_gelu_and_its_gradient_equal_the_librarys(form: str, draw: Draw, assert_same: Same) -> None:
    """It is torch's tanh form, both where it differs from the erf form and far from there."""
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64).requires_grad_()
    expected, actual = functional.gelu(x, approximate="tanh"), GELUS[form](x)
    assert_same(expected, actual)
    upstream = draw(1001)
    assert_same(*(torch.autograd.grad(y, x, upstream)[0] for y in (expected, actual)))


@pytest.mark.parametrize("form", GELUS)
@pytest.mark.parametrize("size", [1e4, 1e13, 1e38])
def test_gelu_of_huge_inputs_is_the_identity_or_zero(size: float, form: str) -> None:
    x = torch.tensor([size, -size])
    assert GELUS[form](x).tolist() == [float(x[0]), 0.0]


def test_gelu_gradient_agrees_with_differences(draw: Draw) -> None:
    assert gradcheck(fused_gelu, (draw(3, 4) * 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [40.0, 200.0])
def test_gelu_far_from_zero_does_not_overflow(size: float, dtype: torch.dtype) -> None:
    x = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    y = fused_gelu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [size, 0.0]
    assert slope.tolist() == [1.0, 0.0]


def test_gelu_keeps_small_values_of_large_negatives() -> None:
    """Where the formula's `1 + tanh` is 0 in float32, the fused form still has digits."""
    x = torch.tensor([-6.0])
    right = float(gelu(x.double()))
    assert float(gelu(x)) == 0.0
    assert abs(float(fused_gelu(x)) / right - 1.0) < abs(float(gelu(x)) / right - 1.0)


def test_gelu_does_not_modify_its_input(draw: Draw) -> None:
    x, upstream = draw(5, 7).requires_grad_(), draw(5, 7)
    before = x.detach().clone(), upstream.clone()
    fused_gelu(x).backward(upstream)
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], upstream)


@pytest.mark.parametrize("form", LAYER_NORMS)
@pytest.mark.parametrize("leading", [(), (2, 5), (2, 3, 5)], ids=str)
def test_layer_norm_and_its_gradients_equal_the_librarys(
    leading: tuple[int, ...], form: str, draw: Draw, assert_same: Same
) -> None:
    inputs = x, gain, bias = draw(*leading, 7) * 3 + 2, draw(7), draw(7)
    for each in inputs:
        each.requires_grad_()
    library = functional.layer_norm(x, (7,), gain, bias, EPSILON)
    ours = LAYER_NORMS[form](x, gain, bias, epsilon=EPSILON)
    assert_same(library, ours)
    upstream = draw(*leading, 7)
    expected, actual = (torch.autograd.grad(y, inputs, upstream) for y in (library, ours))
    for pair in zip(expected, actual, strict=True):
        assert_same(*pair)


def test_layer_norm_gradients_agree_with_differences(draw: Draw) -> None:
    inputs = [(draw(*shape) * 2).requires_grad_() for shape in ((2, 3, 5), (5,), (5,))]
    assert gradcheck(functools.partial(fused_layer_norm, epsilon=EPSILON), inputs)


@pytest.mark.parametrize("form", LAYER_NORMS)
def test_layer_norm_divides_by_width_and_adds_epsilon_inside_the_root(form: str) -> None:
    """For the row (1, -1) and an epsilon of 3 the divisor is sqrt(1 + 3) = 2."""
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    gain, bias = torch.tensor([6.0, 10.0]).double(), torch.tensor([100.0, 200.0]).double()
    assert LAYER_NORMS[form](row, gain, bias, epsilon=3.0).tolist() == [103.0, 195.0]


@pytest.mark.parametrize("form", LAYER_NORMS)
def test_layer_norm_of_a_constant_row_is_the_bias(form: str, draw: Draw) -> None:
    bias = draw(7)
    actual = LAYER_NORMS[form](torch.full((7,), 5.0).double(), draw(7), bias, epsilon=1e-5)
    assert torch.equal(bias, actual)


@pytest.mark.parametrize("form", HEADS)
def test_head_is_the_product_with_every_token(form: str, draw: Draw, assert_same: Same) -> None:
    x, table = draw(2, 5, 7), draw(37, 7)
    expected = torch.einsum("btw,vw->btv", x, table)
    assert_same(expected, HEADS[form](x, table))


@pytest.mark.parametrize("columns", [1, 8, 36, 37, 38])
def test_blocks_of_the_vocabulary_make_the_whole(
    columns: int, draw: Draw, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_ops, "_COLUMNS", columns)
    x, table = draw(2, 5, 7), draw(37, 7)
    assert_same(x @ table.T, fused_head(x, table))


def test_head_gradients_agree_with_differences(draw: Draw) -> None:
    assert gradcheck(fused_head, (draw(2, 3, 4).requires_grad_(), draw(5, 4).requires_grad_()))


def test_head_takes_an_upstream_gradient_of_any_layout(draw: Draw, assert_same: Same) -> None:
    inputs = draw(2, 5, 7).requires_grad_(), draw(37, 7).requires_grad_()
    upstream = draw(37, 2, 5).permute(1, 2, 0)
    expected = torch.autograd.grad(head(*inputs), inputs, upstream)
    actual = torch.autograd.grad(fused_head(*inputs), inputs, upstream)
    for pair in zip(expected, actual, strict=True):
        assert_same(*pair)


def test_head_rows_of_a_batch_are_one_view(draw: Draw) -> None:
    logits = fused_head(draw(2, 5, 7), draw(37, 7))
    assert logits.flatten(0, 1).data_ptr() == logits.data_ptr()
    assert logits.view(-1, 37).shape == (10, 37)
