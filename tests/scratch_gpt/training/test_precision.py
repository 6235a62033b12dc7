"""Products in bfloat16, everything that is summed up in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.training import trainer


@pytest.mark.parametrize("backend", ["plain", "tiled", "fused"])
def test_weights_and_gradients_stay_float32(
    backend: str,
    config: GPTConfig,
    loud: Callable[[nn.Module], nn.Module],
    token_ids: Tensor,
) -> None:
    """And logits are bitwise those of the model in bfloat16."""
    model = loud(GPT(config, backend=backend)).float().eval()
    logits = trainer.autocast_products(model, "bfloat16")(token_ids)
    logits.float().sum().backward()
    assert {(p.dtype, p.grad.dtype) for p in model.parameters()} == {(torch.float32,) * 2}
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        expected = model.bfloat16()(token_ids)
    assert torch.equal(expected, logits)


def test_otherwise_it_is_the_model_itself(config: GPTConfig) -> None:
    """Nothing stands between."""
    model = GPT(config)
    assert model is trainer.autocast_products(model, "float32")
