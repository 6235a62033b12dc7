"""The tiled attention core: causal attention, a tile of queries at a time.

A tile of queries meets the keys up to its own end and no others, so no tile of scores that lies
wholly in the future is ever computed, and the largest buffer is `[tile time_k]`: it grows with
time and not with its square. The causal rule can hide something only in the last `tile` columns
of such a strip, so only these are masked.

The way back keeps no scores either. With `p` a strip's softmax, `c` its context and `g` the
gradient of `c`,

    d value = p^T g        d p = g value^T        d scores = p (d p - g . c)

where `g . c` is one number a row, and `p` is computed again from the logarithm of its normaliser.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.attention_single import single
from scratch_gpt.attention_strips import (
    LOG_2,
    Inputs,
    Outputs,
    ceiling_of,
    groups,
    scores_of,
    strips,
    wide,
    worked_in,
)
from scratch_gpt.tap import Tap
from scratch_gpt.visibility import check_core_inputs

TILE = 64
"""Queries per tile: the smallest that keeps the matrix product busy. Of 32 to 256, measured at
128 to 512 tokens, it was the fastest; what it wastes above the diagonal is 1/8 at 512."""


def tiled(  # noqa: PLR0913 - the signature of a core
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,  # noqa: ARG001 - neither scores nor weights are ever formed whole
    dropout_probability: float = 0.0,
    *,
    tile: int = TILE,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return causal attention's context without forming the matrix of scores.

    Shows no taps: `scores` and `weights` never exist as tensors. One query, of which nobody asks
    a gradient, needs no tiles: that is `scratch_gpt.attention_single`.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: the tiling of Dao et al. 2022 (arXiv 2205.14135), without its inner loop over keys;
    the backward of Dao 2023 (arXiv 2307.08691), section 3.1.2.
    """
    check_core_inputs(query, key, value, mask)
    if query.shape[-2] == 1 and dropout_probability == 0.0 and not torch.is_grad_enabled():
        return single(query, key, value, mask)
    result: Tensor = _Tiled.apply(query, key, value, mask, dropout_probability, tile)  # type: ignore[no-untyped-call]
    return result


class _Tiled(Function):
    """The core with its derivative written out."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the core's arguments
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout_probability: float,
        tile: int,
    ) -> Tensor:
        batch, n_head, time_q, head_width = query.shape
        # Laid out as merged heads, so that merging them is no copy.
        context = query.new_empty(batch, time_q, n_head, head_width).transpose(1, 2)
        going_back = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        rows = time_q if going_back else 0
        normaliser = query.new_empty(batch, n_head, rows, 1, dtype=wide(query.dtype))
        ceiling = ceiling_of(min(tile, time_q), query)
        kept: list[Tensor] = []
        for group in groups(query.shape, key.shape[-2], tile):
            inputs = Inputs.of(group, query, key, value, mask, ceiling)
            into = (context[group], normaliser[group])
            kept += _attend(inputs, *into, dropout_probability)
        ctx.save_for_backward(query, key, value, mask, context, normaliser, *kept)  # type: ignore[arg-type]
        ctx.options = dropout_probability, tile  # type: ignore[attr-defined]
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, context, normaliser, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        dropout_probability, tile = ctx.options  # type: ignore[attr-defined]
        upstream = upstream.to(worked_in(query))
        along = (upstream * context).sum(-1, keepdim=True)
        gradients = [x.new_zeros(x.shape, dtype=upstream.dtype) for x in (query, key, value)]
        ceiling = ceiling_of(min(tile, query.shape[2]), query)
        masks = iter(kept)
        for group in groups(query.shape, key.shape[-2], tile):
            inputs = Inputs.of(group, query, key, value, mask, ceiling)
            outputs = Outputs.of(group, upstream, along, normaliser, *gradients)
            _attend_backward(inputs, outputs, masks, dropout_probability)
        return (*(made.to(query.dtype) for made in gradients), None, None, None)


def _attend(
    inputs: Inputs, context: Tensor, normaliser: Tensor, dropout_probability: float
) -> list[Tensor]:
    """Fill the context and the normalisers of some sequences; return which weights were kept.

    The division by the softmax's sum is left to the context, which is narrower. Normalisers are
    for the way back alone: where there is none, there is no room for them either.
    """
    kept = []
    for queries, seen in strips(inputs):
        scores = scores_of(inputs, queries, seen)
        largest = scores.amax(-1, keepdim=True)
        powers = scores.sub_(largest).exp2_()
        total = powers.sum(-1, keepdim=True)
        if normaliser.numel():
            place = normaliser[:, :, queries]
            torch.add(total.log2().view_as(place), largest.view_as(place), out=place)
        if dropout_probability > 0.0:
            kept.append(_drawn(powers, dropout_probability))
            powers.mul_(kept[-1])
            total.mul_(1.0 - dropout_probability)
        gathered = torch.bmm(powers.to(inputs.value.dtype), inputs.value[:, :seen])
        part = context[:, :, queries]
        torch.div(gathered.view_as(part), total.view(*part.shape[:-1], 1), out=part)
    return kept


def _drawn(like: Tensor, probability: float) -> Tensor:
    """Return bool: False with `probability`. A draw in half precision would be too coarse."""
    return torch.rand_like(like, dtype=torch.float32) >= probability


def _attend_backward(
    inputs: Inputs,
    outputs: Outputs,
    kept: Iterator[Tensor],
    dropout_probability: float,
) -> None:
    """Fill the gradients of some sequences' queries, keys and values."""
    scale = inputs.query.shape[-1] ** -0.5
    dtype = inputs.query.dtype
    for queries, seen in strips(inputs):
        weights = scores_of(inputs, queries, seen).sub_(outputs.normaliser[:, queries]).exp2_()
        upstream = outputs.upstream[:, queries]
        slopes = (upstream @ inputs.value[:, :seen].transpose(1, 2)).to(weights.dtype)
        used = weights
        if dropout_probability > 0.0:
            mask = next(kept) / (1.0 - dropout_probability)
            slopes.mul_(mask)
            used = weights * mask
        # A product added in place would be made head by head, because these rows are not adjacent.
        outputs.value[:, :seen].add_(used.to(dtype).transpose(1, 2) @ upstream)
        slopes = slopes.sub_(outputs.along[:, queries]).mul_(weights).to(dtype)
        torch.mul(slopes @ inputs.key[:, :seen], scale, out=outputs.query[:, queries])
        # The query's scale is in it already, and the unit of its scores, which a slope has not.
        gathered = slopes.transpose(1, 2) @ inputs.query[:, queries]
        outputs.key[:, :seen].add_(gathered, alpha=LOG_2)
