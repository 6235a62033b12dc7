"""Layer normalization over the last axis: the formula and the module."""

from collections.abc import Callable

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

    The variance is the biased one (divided by `width`), and `epsilon` is inside the root.

    Source: finetune-transformer-lm train.py `_norm` (a69b5c4).
    """
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True)
    return centered * torch.rsqrt(variance + epsilon) * gain + bias


class LayerNorm(nn.Module):
    """The gain (`weight`) and bias, each `[width]`, of one layer normalization."""

    def __init__(
        self, width: int, *, epsilon: float, normalize: Callable[..., Tensor] = layer_norm
    ) -> None:
        """Create the parameters; `normalize` is `layer_norm` or a faster form of it."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon
        self.normalize = normalize

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return the normalized rows."""
        return self.normalize(x, self.weight, self.bias, epsilon=self.epsilon)
