"""Layer normalisation over the last axis, as its formula and with a derived backward.

For one row of `n` features, with `z = (x - mean) / sqrt(variance + epsilon)` and upstream
gradient `g`, the derivative of `z * gain + bias` is

    dx = (h - mean(h) - z mean(h z)) / sqrt(variance + epsilon)      with h = g gain

because a change of `x` along the row's mean, or along `z` itself, is normalised away.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable


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


def fused_layer_norm(
    x: Float[Tensor, "*rows width"],
    gain: Float[Tensor, " width"],
    bias: Float[Tensor, " width"],
    *,
    epsilon: float,
) -> Float[Tensor, "*rows width"]:
    """Return `layer_norm(...)`; keeps the normalised rows and one number a row for the way back.

    Source: the derivative in this module's docstring.
    """
    result: Tensor = _LayerNorm.apply(x, gain, bias, epsilon)  # type: ignore[no-untyped-call]
    return result


class _LayerNorm(Function):
    """Layer normalisation with its derivative written out."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        normalised = x - x.mean(-1, keepdim=True)
        variance = (normalised * normalised).mean(-1, keepdim=True)
        scale = variance.add_(epsilon).rsqrt_()
        normalised.mul_(scale)
        ctx.save_for_backward(normalised, scale, gain)
        return torch.addcmul(bias, normalised, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normalised, scale, gain = ctx.saved_tensors  # type: ignore[attr-defined]
        along = upstream * normalised
        rows = tuple(range(upstream.ndim - 1))
        d_gain, d_bias = along.sum(rows), upstream.sum(rows)
        along_mean = along.mul_(gain).mean(-1, keepdim=True)
        d_x = upstream * gain
        d_x.sub_(d_x.mean(-1, keepdim=True)).sub_(torch.mul(normalised, along_mean, out=along))
        return d_x.mul_(scale), d_gain, d_bias, None


Normalize = Callable[..., Float[Tensor, "*rows width"]]
"""`layer_norm`, or another function of the same arguments and values."""


class LayerNorm(nn.Module):
    """Owns the gain (`weight`) and bias `[width]` of one layer normalisation."""

    def __init__(self, width: int, *, epsilon: float, normalise: Normalize = layer_norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon
        self.normalise = normalise

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return the normalised rows."""
        return self.normalise(x, self.weight, self.bias, epsilon=self.epsilon)
