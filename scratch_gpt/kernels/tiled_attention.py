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

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.causal_mask import accumulate_dtype, check_kernel_inputs, hidden_keys
from scratch_gpt.tap import Tap

# Strips of scores: what the tiled core works on at a time, and how one is made.
#
# Scores are kept in units of log(2): `2^(s / log 2) = e^s`, the factor joins the scale of the
# query, and a power of two is the cheaper one (2.6 times, as measured). They fit float32 up to
# 2.3e38.


class Inputs(NamedTuple):
    """What some sequences attend with, the heads of all of them counted as one axis.

    Attributes:
        query: `[heads time_q head_width]`, scaled: its products are scores over log(2).
        key: `[heads time_k head_width]`.
        value: `[heads time_k head_width]`.
        mask: `[heads time_k]`, bool, False at padding; None without any.
        ceiling: `[tile tile]`: minus infinity where the key is in the future, else infinity.
        scratch: Room for the scores of a strip, one after the other: memory fresh from the system
            costs more than a product this small.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    ceiling: Tensor
    scratch: Tensor

    @classmethod
    def of(  # noqa: PLR0913 - the core's arguments
        cls,
        group: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        ceiling: Tensor,
    ) -> "Inputs":
        """Return those of the sequences in `group`; keys and values are views where it is one.

        The query is scaled and not the product, which may overflow where the scores do not.
        """
        dtype = compute_dtype(query)
        queries, keys, values = (x[group].flatten(0, 1).to(dtype) for x in (query, key, value))
        repeated = None if mask is None else mask[group].repeat_interleave(query.shape[1], 0)
        scaled = queries * (query.shape[-1] ** -0.5 / LOG_2)
        scratch = scaled.new_empty(len(scaled) * len(ceiling) * keys.shape[1])
        return cls(scaled, keys, values, repeated, ceiling, scratch)


LOG_2 = math.log(2.0)
"""The unit of the scores."""


class Outputs(NamedTuple):
    """What the way back of some sequences is given, and what it fills; heads as in `Inputs`.

    Attributes:
        upstream: `[heads time_q head_width]`, the gradient of the context.
        along: `[heads time_q 1]`, its product with the context.
        normaliser: `[heads time_q 1]`, as the way forward left it.
        query: `[heads time_q head_width]`, filled.
        key: `[heads time_k head_width]`, added to.
        value: `[heads time_k head_width]`, added to.
    """

    upstream: Tensor
    along: Tensor
    normaliser: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, group: slice, *tensors: Tensor) -> "Outputs":
        """Return those of the sequences in `group`."""
        return cls(*(x[group].flatten(0, 1) for x in tensors))


def groups(shape: tuple[int, ...], time_k: int, tile: int) -> Iterator[slice]:
    """Yield the sequences that are worked on together: as many as fit the cache."""
    batch, n_head, *_ = shape
    together = max(1, _CACHED // (n_head * min(tile, time_k) * time_k))
    for first in range(0, batch, together):
        yield slice(first, min(first + together, batch))


_CACHED = 1 << 19
"""Scores computed at once, where one sequence has not more."""


def strips(inputs: Inputs) -> Iterator[tuple[slice, int]]:
    """Yield each tile of queries, and how many keys its last one sees."""
    time_q, past = inputs.query.shape[1], inputs.key.shape[1] - inputs.query.shape[1]
    tile = len(inputs.ceiling)
    for start in range(0, time_q, tile):
        end = min(start + tile, time_q)
        yield slice(start, end), past + end


def masked_scores(inputs: Inputs, queries: slice, seen: int) -> Tensor:
    """Return a strip's scores over log(2), `[heads tile seen]`, minus infinity where hidden."""
    rows = inputs.query[:, queries]
    heads, tile, _ = rows.shape
    product = inputs.scratch[: heads * tile * seen].view(heads, tile, seen)
    torch.bmm(rows, inputs.key[:, :seen].transpose(1, 2), out=product)
    scores = product.to(accumulate_dtype(product.dtype))
    if inputs.mask is None:
        # A minimum hides as a fill does, whatever stands there, at a quarter of its cost.
        corner = scores[:, :, seen - tile :]
        torch.minimum(corner, inputs.ceiling[:tile, :tile], out=corner)
        return scores
    hidden = hidden_keys(tile, seen, inputs.mask[:, :seen], scores.device)[:, 0]
    return scores.masked_fill_(hidden, float("-inf"))


def row_maximum(tile: int, like: Tensor) -> Tensor:
    """Return `[tile tile]`: minus infinity where the key is in the future, else infinity."""
    future = hidden_keys(tile, tile, None, like.device)[0, 0]
    seen = like.new_full(future.shape, float("inf"), dtype=accumulate_dtype(like.dtype))
    return seen.masked_fill_(future, float("-inf"))


def compute_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype of the products.

    On a CPU products this small are no faster in half precision, and each would need its scores
    converted and converted back; so all of it is done in float32.
    """
    return accumulate_dtype(like.dtype) if like.device.type == "cpu" else like.dtype


# Attention of one query: what a token after the prompt needs.
#
# There is no future to hide and no strip to cut: two products, and a softmax in between. The tiled
# core costs 0.15 ms at any length; this is a seventh of it, twelve times a token.


def single_query_attention(
    query: Float[Tensor, "batch head 1 head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
) -> Float[Tensor, "batch head 1 head_width"]:
    """Return the context of the last position; no gradients.

    Its own key is always seen, as everywhere: see `scratch_gpt.causal_mask`.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    dtype = compute_dtype(query)
    scaled = query.to(dtype) * (query.shape[-1] ** -0.5 / LOG_2)
    keys, values = (x.to(dtype).flatten(0, 1) for x in (key, value))
    scores = torch.bmm(scaled.flatten(0, 1), keys.transpose(1, 2)).to(accumulate_dtype(dtype))
    if mask is not None:
        hidden = ~mask[:, None, None, :-1]
        scores.view(*query.shape[:-1], -1)[..., :-1].masked_fill_(hidden, float("-inf"))
    powers = scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
    total = powers.sum(-1, keepdim=True)
    return torch.bmm(powers.div_(total).to(dtype), values).view(query.shape).to(query.dtype)


TILE = 64
"""Queries per tile: the smallest that keeps the matrix product busy. Of 32 to 256, measured at
128 to 512 tokens, it was the fastest; what it wastes above the diagonal is 1/8 at 512."""


def tiled_attention(  # noqa: PLR0913 - the signature of a core
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
    a gradient, needs no tiles: that is `scratch_gpt.kernels.tiled_attention`.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: the tiling of Dao et al. 2022 (arXiv 2205.14135), without its inner loop over keys;
    the backward of Dao 2023 (arXiv 2307.08691), section 3.1.2.
    """
    check_kernel_inputs(query, key, value, mask)
    if query.shape[-2] == 1 and dropout_probability == 0.0 and not torch.is_grad_enabled():
        return single_query_attention(query, key, value, mask)
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
        normaliser = query.new_empty(batch, n_head, rows, 1, dtype=accumulate_dtype(query.dtype))
        ceiling = row_maximum(min(tile, time_q), query)
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
        upstream = upstream.to(compute_dtype(query))
        along = (upstream * context).sum(-1, keepdim=True)
        gradients = [x.new_zeros(x.shape, dtype=upstream.dtype) for x in (query, key, value)]
        ceiling = row_maximum(min(tile, query.shape[2]), query)
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
        scores = masked_scores(inputs, queries, seen)
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
        weights = masked_scores(inputs, queries, seen).sub_(outputs.normaliser[:, queries]).exp2_()
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
