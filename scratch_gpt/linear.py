"""The affine map `x W + b`, with `W` stored `[in, out]` as released."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear(
    x: Float[Tensor, "*rows fan_in"],
    weight: Float[Tensor, "fan_in fan_out"],
    bias: Float[Tensor, " fan_out"],
    residual: Float[Tensor, "*rows fan_out"] | None = None,
) -> Float[Tensor, "*rows fan_out"]:
    """Return `x @ weight + bias`, plus the residual if there is one; one sum is fused.

    Source: finetune-transformer-lm train.py `conv1d` with a receptive field of 1 (a69b5c4).
    """
    rows = x.reshape(-1, x.shape[-1])
    if residual is None:
        sums = torch.addmm(bias, rows, weight)
    else:
        sums = torch.addmm(residual.reshape(-1, residual.shape[-1]), rows, weight).add_(bias)
    return sums.reshape(*x.shape[:-1], weight.shape[1])


class Linear(nn.Module):
    """The weight `[in, out]` and the bias `[out]` of one affine map."""

    def __init__(
        self, fan_in: int, fan_out: int, *, product: Callable[..., Tensor] = linear
    ) -> None:
        """Create the parameters; `product` is `linear` or a faster form of it."""
        super().__init__()
        self.product = product
        self.weight = nn.Parameter(torch.empty(fan_in, fan_out))
        self.bias = nn.Parameter(torch.empty(fan_out))

    def forward(self, x: Float[Tensor, "*rows fan_in"]) -> Float[Tensor, "*rows fan_out"]:
        """Return `x W + b`."""
        return self.product(x, self.weight, self.bias)

    def add_to(
        self, residual: Float[Tensor, "*rows fan_out"], x: Float[Tensor, "*rows fan_in"]
    ) -> Float[Tensor, "*rows fan_out"]:
        """Return `residual + x W + b` without a tensor for `x W + b`."""
        return self.product(x, self.weight, self.bias, residual)
