"""Linear layers, GELU, layer normalization and output head in their fastest form.

Each computes the same function as the plain form, with a derived gradient: `linear` (`linear.py`),
`gelu` (`mlp.py`), `layer_norm` (`layer_norm.py`) and `head` (`embeddings.py`).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.kernels import onednn
from scratch_gpt.linear import linear
from scratch_gpt.numerics import empty_aligned_rows, needs_gradients


def fused_linear(
    x: Float[Tensor, "*rows fan_in"],
    weight: Float[Tensor, "fan_in fan_out"],
    bias: Float[Tensor, " fan_out"],
    residual: Float[Tensor, "*rows fan_out"] | None = None,
) -> Float[Tensor, "*rows fan_out"]:
    """Return `linear(...)`, by oneDNN where that is faster."""
    if not onednn.suits(x, weight, bias):
        return linear(x, weight, bias, residual)
    rows = x.reshape(-1, x.shape[-1])
    if needs_gradients(rows, weight, bias):
        result: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        result = onednn.product(rows, weight, bias)
    result = result.view(*x.shape[:-1], weight.shape[1])
    return result if residual is None else result.add_(residual)


class _Linear(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return onednn.product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_rows, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            onednn.product(upstream, weight.T) if of_rows else None,
            onednn.product(rows.T, upstream) if of_weight else None,
            upstream.sum(0) if of_bias else None,
        )


LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
CUBIC = 0.044715
"""`gelu(x) = x sigmoid(u)` with `u = LINEAR (x + CUBIC x^3)`."""


def fused_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `gelu(x)` in four passes over memory; saves only `x` for the backward.

    It follows from `sigmoid(u) = (1 + tanh(u/2)) / 2`:

        gelu(x) = x/2 (1 + tanh(u/2)) = x sigmoid(u)       with u = LINEAR (x + CUBIC x^3)

    The sigmoid needs one transcendental operation and one new tensor. It also keeps the small
    values at large negative `x`, which `1 + tanh` rounds away. With `s = sigmoid(u)`:

        gelu'(x) = s + x s (1 - s) u'                      with u' = LINEAR (1 + 3 CUBIC x^2)
    """
    result: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
    return result


class _Gelu(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _gate(x).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        d_x: Tensor = x.new_empty(x.shape)
        flat = [t.reshape(-1, t.shape[-1]) for t in (x, upstream, d_x)]
        step = _ROWS if x.device.type == "cpu" else max(1, len(flat[0]))
        blocks = (torch.split(tensor, step) for tensor in flat)
        scratch = x.new_empty(2, step, x.shape[-1])
        for rows, d_gelu, slope in zip(*blocks, strict=True):
            gate, rest = scratch[:, : len(rows)]
            torch.sub(1.0, _gate(rows, out=gate), out=rest)
            torch.addcmul(_constant(LINEAR, x), rows, rows, value=3.0 * LINEAR * CUBIC, out=slope)
            # The row is multiplied last: in half precision, large times large would overflow. In
            # float16 the slope itself does beyond 554, and makes NaN; Hugging Face's does at 148.
            slope.mul_(rest).mul_(gate).mul_(rows).add_(gate).mul_(d_gelu)
        return d_x


_ROWS = 64
"""Rows per step of a backward: its temporaries stay in the cache. At 1,024 rows of 3,072 features
all rows at once take four times as long, most of it for fresh memory."""


def _gate(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `sigmoid(u)`, in a new tensor or in `out`."""
    factor = torch.addcmul(_constant(LINEAR, x), x, x, value=LINEAR * CUBIC, out=out)
    return factor.mul_(x).sigmoid_()


def _constant(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def fused_layer_norm(
    x: Float[Tensor, "*rows width"],
    gain: Float[Tensor, " width"],
    bias: Float[Tensor, " width"],
    *,
    epsilon: float,
) -> Float[Tensor, "*rows width"]:
    """Return `layer_norm(...)`; saves the normalized rows and one number a row for the backward.

    With `z = (x - mean) / sqrt(variance + epsilon)` and the upstream gradient `g`, the derivative
    of `z gain + bias` is

        dx = (h - mean(h) - z mean(h z)) / sqrt(variance + epsilon)      with h = g gain

    because normalization removes any change of `x` along the row's mean or along `z`.
    """
    result: Tensor = _LayerNorm.apply(x, gain, bias, epsilon)  # type: ignore[no-untyped-call]
    return result


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        normalized = x - x.mean(-1, keepdim=True)
        variance = (normalized * normalized).mean(-1, keepdim=True)
        scale = variance.add_(epsilon).rsqrt_()
        normalized.mul_(scale)
        ctx.save_for_backward(normalized, scale, gain)
        return torch.addcmul(bias, normalized, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normalized, scale, gain = ctx.saved_tensors  # type: ignore[attr-defined]
        along = upstream * normalized
        d_gain, d_bias = (x.reshape(-1, gain.numel()).sum(0) for x in (along, upstream))
        along_mean = along.mul_(gain).mean(-1, keepdim=True)
        d_x = upstream * gain
        d_x.sub_(d_x.mean(-1, keepdim=True)).sub_(torch.mul(normalized, along_mean, out=along))
        return d_x.mul_(scale), d_gain, d_bias, None


def fused_head(
    x: Float[Tensor, "batch time width"], table: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch time vocab"]:
    """Return `head(x, table)`, by oneDNN where that is faster.

    MKL computes a block of the vocabulary at a time, and writes it into aligned rows: both speed up
    this largest product. The result is contiguous along the vocabulary; `scratch_gpt.numerics`
    explains the row stride.
    """
    result: Tensor = _Head.apply(x, table)  # type: ignore[no-untyped-call]
    return result


_COLUMNS = 2048
"""Tokens of the vocabulary per product. MKL takes 0.8 of the time of the whole product at 128 rows,
0.97 at 512, measured."""


class _Head(Function):
    """A product by oneDNN or with `out=`: torch differentiates neither by itself."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, table)
        if onednn.suits(x, table):
            return onednn.product(x.flatten(0, -2), table.T).view(*x.shape[:-1], len(table))
        logits = empty_aligned_rows((*x.shape[:-1], table.shape[0]), like=x)
        rows, out = x.flatten(0, -2), logits.flatten(0, -2)
        columns = _COLUMNS if x.device.type == "cpu" else len(table)
        for start in range(0, len(table), columns):
            part = slice(start, start + columns)
            torch.mm(rows, table[part].T, out=out[:, part])
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors  # type: ignore[attr-defined]
        of_x, of_table = ctx.needs_input_grad  # type: ignore[attr-defined]
        rows = upstream.flatten(0, -2)
        times = onednn.product if onednn.suits(x, table, upstream) else torch.mm
        return (
            times(rows, table).reshape(x.shape) if of_x else None,
            times(rows.T, x.flatten(0, -2)) if of_table else None,
        )
