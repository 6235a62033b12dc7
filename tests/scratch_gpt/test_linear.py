"""The affine map `x W + b`."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor, nn

from scratch_gpt.linear import Linear, linear

Draw = Callable[..., Tensor]
Same = Callable[..., None]


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 3, 5)], ids=str)
def test_is_product_plus_bias(leading: tuple[int, ...], draw: Draw, assert_same: Same) -> None:
    x, weight, bias = draw(*leading, 7), draw(7, 13), draw(13)
    expected = np.einsum("...i,io->...o", x.numpy(), weight.numpy()) + bias.numpy()
    assert_same(expected, linear(x, weight, bias))


def test_takes_rows_that_are_not_contiguous(draw: Draw, assert_same: Same) -> None:
    x, weight, bias = draw(7, 5, 2).permute(2, 1, 0), draw(7, 13), draw(13)
    assert_same(x.numpy() @ weight.numpy() + bias.numpy(), linear(x, weight, bias))


def test_stores_its_weight_as_released() -> None:
    layer = Linear(7, 13)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {"weight": (7, 13), "bias": (13,)}


def test_the_layer_uses_its_own_weight_and_bias(
    draw: Draw, loud: Callable[[nn.Module], nn.Module], assert_same: Same
) -> None:
    layer, x = loud(Linear(7, 13)), draw(2, 5, 7)
    assert_same(x @ layer.weight + layer.bias, layer(x))


def test_gradients_reach_weight_and_bias(draw: Draw, assert_same: Same) -> None:
    x, weight, bias, upstream = draw(2, 5, 7), draw(7, 13), draw(13), draw(2, 5, 13)
    weight.requires_grad_()
    bias.requires_grad_()
    linear(x, weight, bias).backward(upstream)
    assert_same(np.einsum("bti,bto->io", x.numpy(), upstream.numpy()), weight.grad)
    assert_same(upstream.numpy().sum((0, 1)), bias.grad)
