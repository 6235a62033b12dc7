"""Fixtures of the model's tests: random tensors, a tiny config, weights that all have an effect.

All sizes differ, so that a wrong axis cannot fit by luck: batch 2, time 5, heads 3,
head_width 7.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt import GPT, GPTConfig


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None:
    """Use one thread in all tests of this folder."""


@pytest.fixture(scope="session")
def meta() -> torch.device:
    """Return the meta device; torch loads its rules at the first use."""
    device = torch.device("meta")
    torch.arange(1, device=device)
    return device


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Return a function of a shape that returns standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(20180611)
    return lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def loud(draw: Callable[..., Tensor]) -> Callable[[nn.Module], nn.Module]:
    """Return a function that makes a module float64, with no gain near 1 and no bias at 0."""

    def fill(module: nn.Module) -> nn.Module:
        module = module.double()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                is_gain = parameter.ndim == 1 and name.endswith("weight")
                scale = 0.5 if parameter.ndim == 1 else parameter.shape[0] ** -0.5
                parameter.copy_(draw(*parameter.shape) * scale + (2.0 if is_gain else 0.0))
        return module

    return fill


@pytest.fixture
def config() -> GPTConfig:
    return GPTConfig(
        vocab_size=37,
        n_positions=11,
        n_embd=21,
        n_layer=2,
        n_head=3,
        layer_norm_epsilon=0.03,
        initializer_range=0.05,
        embd_pdrop=0.25,
        attn_pdrop=0.375,
        resid_pdrop=0.5,
    )


@pytest.fixture(params=["plain", "tiled"])
def model(
    request: pytest.FixtureRequest, config: GPTConfig, loud: Callable[[nn.Module], nn.Module]
) -> GPT:
    return loud(GPT(config, backend=request.param)).eval()


@pytest.fixture
def token_ids() -> Tensor:
    return torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])


@pytest.fixture(scope="session")
def attention_formula() -> Callable[..., Tensor]:
    """Return an attention layer computed with torch's own functions."""

    def compute(x: Tensor, layer: nn.Module, n_head: int) -> Tensor:
        weights = dict(layer.named_parameters())
        joined = functional.linear(x, weights["c_attn.weight"].T, weights["c_attn.bias"])
        query, key, value = (
            torch.stack(part.tensor_split(n_head, dim=-1), dim=1)
            for part in joined.tensor_split(3, dim=-1)
        )
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        merged = torch.cat(context.unbind(1), dim=-1)
        return functional.linear(merged, weights["c_proj.weight"].T, weights["c_proj.bias"])

    return compute


@pytest.fixture(scope="session")
def block_formula(attention_formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a post-norm block computed with torch's own functions."""

    def compute(x: Tensor, block: nn.Module, config: GPTConfig) -> Tensor:
        weights = dict(block.named_parameters())

        def normed(x: Tensor, name: str) -> Tensor:
            gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            return functional.layer_norm(x, (x.shape[-1],), gain, bias, config.layer_norm_epsilon)

        def mapped(x: Tensor, name: str) -> Tensor:
            return functional.linear(x, weights[f"{name}.weight"].T, weights[f"{name}.bias"])

        x = normed(x + attention_formula(x, block.attn, config.n_head), "ln_1")
        inner = functional.gelu(mapped(x, "mlp.c_fc"), approximate="tanh")
        return normed(x + mapped(inner, "mlp.c_proj"), "ln_2")

    return compute


class Watch:
    """A tap that keeps a copy of each tensor, in order."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        assert name not in self.seen, f"{name} was called twice"
        self.seen[name] = value.detach().clone()
        return value


@pytest.fixture
def watch() -> Watch:
    return Watch()
