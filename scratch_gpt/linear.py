"""The affine map `x W + b`, with `W` stored `[in, out]` as released."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear(
    x: Float[Tensor, "*rows fan_in"],
    weight: Float[Tensor, "fan_in fan_out"],
    bias: Float[Tensor, " fan_out"],
) -> Float[Tensor, "*rows fan_out"]:
    """Return `x @ weight + bias`, the sum fused into the matrix product.

    Source: finetune-transformer-lm train.py `conv1d` with a receptive field of 1 (a69b5c4).
    """
    rows = x.reshape(-1, x.shape[-1])
    return torch.addmm(bias, rows, weight).reshape(*x.shape[:-1], weight.shape[1])


class Linear(nn.Module):
    """The weight `[in, out]` and the bias `[out]` of one affine map."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_in, fan_out))
        self.bias = nn.Parameter(torch.empty(fan_out))

    def forward(self, x: Float[Tensor, "*rows fan_in"]) -> Float[Tensor, "*rows fan_out"]:
        """Return `x W + b`."""
        return linear(x, self.weight, self.bias)

    def add_to(
        self, residual: Float[Tensor, "*rows fan_out"], x: Float[Tensor, "*rows fan_in"]
    ) -> Float[Tensor, "*rows fan_out"]:
        """Return `residual + x W + b`, the residual sum fused into the matrix product.

        The product is added to the residual directly, which saves one tensor; the bias is added
        last.
        """
        rows = torch.addmm(residual.reshape(-1, residual.shape[-1]), x.flatten(0, -2), self.weight)
        return rows.add_(self.bias).reshape(residual.shape)
