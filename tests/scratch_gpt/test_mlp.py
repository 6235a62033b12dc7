"""The feed-forward network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt.mlp import MLP, gelu

Loud = Callable[[nn.Module], nn.Module]
Draw = Callable[..., Tensor]
Same = Callable[..., None]


def test_equals_the_library(draw: Draw, loud: Loud, assert_same: Same) -> None:
    layer, x = loud(MLP(21, 84)), draw(2, 5, 21)
    inner = functional.linear(x, layer.c_fc.weight.T, layer.c_fc.bias)
    activated = functional.gelu(inner, approximate="tanh")
    expected = functional.linear(activated, layer.c_proj.weight.T, layer.c_proj.bias)
    assert_same(expected, layer(x))


def test_calls_its_taps_in_order(draw: Draw, loud: Loud, watch: Callable[..., Tensor]) -> None:
    layer, x = loud(MLP(21, 84)), draw(2, 5, 21)
    output = layer(x, watch)
    expected = {"mlp.c_fc": layer.c_fc(x), "mlp.gelu": gelu(layer.c_fc(x)), "mlp": output}
    assert list(expected) == list(watch.seen)
    assert all(torch.equal(expected[name], watch.seen[name]) for name in expected)


@pytest.mark.parametrize("replaced", ["mlp.c_fc", "mlp.gelu", "mlp"])
def test_uses_the_taps_result(replaced: str, draw: Draw, loud: Loud, assert_same: Same) -> None:
    layer, x = loud(MLP(21, 84)), draw(2, 5, 21)
    instead = draw(2, 5, 21 if replaced == "mlp" else 84)

    def replace(name: str, value: Tensor) -> Tensor:
        return instead if name == replaced else value

    rest = {
        "mlp.c_fc": lambda: layer.c_proj(gelu(instead)),
        "mlp.gelu": lambda: layer.c_proj(instead),
        "mlp": lambda: instead,
    }
    assert_same(rest[replaced](), layer(x, replace))
