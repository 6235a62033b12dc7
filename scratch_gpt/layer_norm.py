"""Layer normalisation over the last axis."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def layer_norm(
    x: Float[Tensor, "*rows width"],
    gain: Float[Tensor, " width"],
    bias: Float[Tensor, " width"],
    *,
    epsilon: float,
) -> Float[Tensor, "*rows width"]:
    """Return `(x - mean) / sqrt(variance + epsilon) * gain + bias`, row by row.

    The variance is the biased one (divided by `width`), and `epsilon` stands inside the root.

    Source: finetune-transformer-lm train.py `_norm` (a69b5c4).
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + epsilon) * gain + bias


class LayerNorm(nn.Module):
    """Owns the gain (`weight`) and bias `[width]` of one layer normalisation."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return the normalised rows."""
        return layer_norm(x, self.weight, self.bias, epsilon=self.epsilon)
