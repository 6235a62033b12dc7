"""The head: logits are the products of the last block's rows with the token embedding's."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.aligned import empty_aligned_rows


def head(
    x: Float[Tensor, "batch time width"], table: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch time vocab"]:
    """Return `x table^T`.

    Source: finetune-transformer-lm train.py `model` (a69b5c4), without its rows of positions.
    """
    return x @ table.T


def fused_head(
    x: Float[Tensor, "batch time width"], table: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch time vocab"]:
    """Return `head(x, table)`, its rows aligned: the largest product of the model, sped up.

    The result is contiguous along the vocabulary and its rows are a little further apart.

    Source: `scratch_gpt.aligned`.
    """
    result: Tensor = _Head.apply(x, table)  # type: ignore[no-untyped-call]
    return result


class _Head(Function):
    """A product written into aligned rows, which torch cannot differentiate by itself."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, table)
        logits = empty_aligned_rows((*x.shape[:-1], table.shape[0]), like=x)
        torch.mm(x.flatten(0, -2), table.T, out=logits.flatten(0, -2))
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, table = ctx.saved_tensors  # type: ignore[attr-defined]
        rows = upstream.flatten(0, -2)
        return (rows @ table).reshape(x.shape), rows.T @ x.flatten(0, -2)
