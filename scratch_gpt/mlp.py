"""The position-wise feed-forward network and its activation."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scratch_gpt.affine import Affine
from scratch_gpt.tap import Tap, untapped, within


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the tanh form of GELU: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.

    It is not the erf form: the two differ by up to 5e-4.

    Source: Hendrycks & Gimpel 2016; finetune-transformer-lm train.py `gelu` (a69b5c4).
    """
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + torch.tanh(inner))


class MLP(nn.Module):
    """Widen fourfold, apply GELU, narrow again."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = Affine(width, inner)
        self.c_proj = Affine(inner, width)

    def forward(
        self, x: Float[Tensor, "batch time width"], tap: Tap = untapped
    ) -> Float[Tensor, "batch time width"]:
        """Return the feed-forward of each position.

        Source: finetune-transformer-lm train.py `mlp` (a69b5c4).
        """
        tap_mlp = within("mlp", tap)
        inner = tap_mlp("gelu", gelu(tap_mlp("c_fc", self.c_fc(x))))
        return tap("mlp", self.c_proj(inner))
