"""The layer normalization module; `kernels/test_fused_ops.py` tests the formula."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt.kernels.fused_ops import fused_layer_norm
from scratch_gpt.layer_norm import LayerNorm, layer_norm


@pytest.mark.parametrize("normalize", [layer_norm, fused_layer_norm])
def test_the_layer_uses_its_own_gain_bias_and_epsilon(
    normalize: Callable[..., Tensor],
    draw: Callable[..., Tensor],
    loud: Callable[[nn.Module], nn.Module],
    assert_same: Callable[..., None],
) -> None:
    layer, x = loud(LayerNorm(7, epsilon=0.3, normalize=normalize)), draw(2, 5, 7)
    expected = functional.layer_norm(x, (7,), layer.weight, layer.bias, 0.3)
    assert_same(expected, layer(x))
