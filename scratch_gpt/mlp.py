"""The position-wise feed-forward network."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.linear import Linear
from scratch_gpt.tap import Tap, no_tap, prefixed

# The activation: the tanh form of GELU, as its formula and as few steps over memory.
#
#     gelu(x) = x/2 (1 + tanh(u/2))      with u = 2 sqrt(2/pi) (x + 0.044715 x^3)
#             = x sigmoid(u)             because sigmoid(u) = (1 + tanh(u/2)) / 2
#
# The second line is the same function, needs one transcendental step over one new tensor, and does
# not lose the small values of large negative `x` in `1 + tanh`. With `s = sigmoid(u)`:
#
#     gelu'(x) = s + x s (1 - s) u'      with u' = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)
#
# It is not the erf form: the two differ by up to 5e-4.


LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
CUBIC = 0.044715
"""`u = LINEAR (x + CUBIC x^3)`."""


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the tanh form of GELU: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.

    Source: Hendrycks & Gimpel 2016; finetune-transformer-lm train.py `gelu` (a69b5c4).
    """
    inner = math.sqrt(2.0 / math.pi) * (x + CUBIC * x * x * x)
    return 0.5 * x * (1.0 + torch.tanh(inner))


def fused_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `gelu(x)` in four steps over memory; keeps `x` alone for the way back.

    Source: the identities in this module's docstring.
    """
    result: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
    return result


class _Gelu(Function):
    """GELU with its derivative written out."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _gate(x).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        gate = _gate(x)
        slope = torch.addcmul(_constant(LINEAR, x), x, x, value=3.0 * LINEAR * CUBIC)
        # Large before it is small, x comes last: half precision would overflow in between.
        return slope.mul_(1.0 - gate).mul_(gate).mul_(x).add_(gate).mul_(upstream)


def _gate(x: Tensor) -> Tensor:
    """Return `sigmoid(u)`, a new tensor."""
    inner = torch.addcmul(_constant(LINEAR, x), x, x, value=LINEAR * CUBIC)
    return inner.mul_(x).sigmoid_()


def _constant(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device)


Activation = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""`gelu`, or another function of the same values."""


class MLP(nn.Module):
    """Widen fourfold, apply GELU, narrow again."""

    def __init__(self, width: int, inner: int, *, activation: Activation = gelu) -> None:
        super().__init__()
        self.c_fc = Linear(width, inner)
        self.c_proj = Linear(inner, width)
        self.activation = activation

    def widened(
        self, x: Float[Tensor, "batch time width"], tap: Tap = no_tap
    ) -> Float[Tensor, "batch time inner"]:
        """Return what `c_proj` is given.

        Source: finetune-transformer-lm train.py `mlp` (a69b5c4).
        """
        tap_mlp = prefixed("mlp", tap)
        return tap_mlp("gelu", self.activation(tap_mlp("c_fc", self.c_fc(x))))

    def forward(
        self, x: Float[Tensor, "batch time width"], tap: Tap = no_tap
    ) -> Float[Tensor, "batch time width"]:
        """Return the feed-forward of each position."""
        return tap("mlp", self.c_proj(self.widened(x, tap)))
