"""The position-wise feed-forward network and its activation, GELU."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scratch_gpt.linear import Linear, linear
from scratch_gpt.tap import Tap, no_tap, prefixed


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the tanh form of GELU: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.

    The erf form is another function: the two differ by up to 5e-4.

    Source: Hendrycks & Gimpel 2016; finetune-transformer-lm train.py `gelu` (a69b5c4).
    """
    argument = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + torch.tanh(argument))


class MLP(nn.Module):
    """Widen fourfold, apply GELU, project back."""

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        activation: Callable[[Tensor], Tensor] = gelu,
        product: Callable[..., Tensor] = linear,
    ) -> None:
        """Create the two linear maps; both functions may be faster forms of their defaults."""
        super().__init__()
        self.c_fc = Linear(width, inner, product=product)
        self.c_proj = Linear(inner, width, product=product)
        self.activation = activation

    def hidden(
        self, x: Float[Tensor, "batch time width"], tap: Tap = no_tap
    ) -> Float[Tensor, "batch time inner"]:
        """Return the inner layer, the input of `c_proj`; taps `mlp.c_fc` and `mlp.gelu`.

        Source: finetune-transformer-lm train.py `mlp` (a69b5c4).
        """
        tap_mlp = prefixed("mlp", tap)
        return tap_mlp("gelu", self.activation(tap_mlp("c_fc", self.c_fc(x))))

    def forward(
        self, x: Float[Tensor, "batch time width"], tap: Tap = no_tap
    ) -> Float[Tensor, "batch time width"]:
        """Return the MLP's output at each position; taps `hidden`'s and `mlp`."""
        return tap("mlp", self.c_proj(self.hidden(x, tap)))
