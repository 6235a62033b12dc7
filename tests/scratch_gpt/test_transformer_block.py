"""One transformer block."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPTConfig
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.transformer_block import TransformerBlock

Draw = Callable[..., Tensor]
Same = Callable[..., None]
Loud = Callable[[nn.Module], nn.Module]


@pytest.fixture(params=["plain", "tiled", "fused"])
def block(request: pytest.FixtureRequest, config: GPTConfig, loud: Loud) -> TransformerBlock:
    return loud(TransformerBlock(config, BACKENDS[request.param])).eval()


def test_equals_the_library(
    block: TransformerBlock,
    config: GPTConfig,
    draw: Draw,
    block_formula: Callable[..., Tensor],
    assert_same: Same,
) -> None:
    x = draw(2, 5, 21)
    assert_same(block_formula(x, block, config), block(x))


def test_hides_padding(block: TransformerBlock, draw: Draw, assert_same: Same) -> None:
    x = draw(2, 5, 21)
    mask = torch.tensor([[False, False, True, True, True]] * 2)
    assert_same(block(x[:, 2:]), block(x, mask)[:, 2:])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_normalization_gets_the_residual_sum(
    mode: str, block: TransformerBlock, draw: Draw, watch: Callable[..., Tensor], assert_same: Same
) -> None:
    """In training a sublayer's output is dropped or doubled; the residual stream never is."""
    x, training = draw(2, 5, 21), mode == "train"
    output = block.train(training)(x, tap=watch)
    seen = watch.seen
    if "attn" not in seen:  # fused: a sublayer's output never exists as a tensor
        seen["attn"] = block.attn.c_proj(seen["attn.context"])
        seen["mlp"] = block.mlp.c_proj(seen["mlp.gelu"])
    for stream, added, total in ((x, "attn", "ln_1.input"), (seen["ln_1"], "mlp", "ln_2.input")):
        dropped = seen[total] == stream
        assert training == bool(dropped.any())
        assert not bool(dropped.all())
        scale = 2.0 if training else 1.0  # resid_pdrop is 1/2
        assert_same(stream + (seen[added] * scale).masked_fill(dropped, 0.0), seen[total])
    assert torch.equal(output, seen["ln_2"])
