"""Causal attention one tile of queries at a time, without the matrix of scores.

A tile of queries attends to the keys up to its own end and to no others. So no tile of scores that
lies entirely in the future is computed, and the largest buffer is `[tile time_k]`: it grows with
the length and not with its square. The product of queries and keys starts at the causal mask, a
bias of 0 or minus infinity, instead of at 0.

The backward saves no scores either. With `p` a strip's softmax, `c` its context and `g` the
gradient of `c`,

    d value = p^T g        d p = g value^T        d scores = p (d p - g . c)

where `g . c` is one number a row, and `p` is recomputed from the logarithm of its normalizer.

Scores are kept in units of log(2): `2^(s / log 2) = e^s`. The factor joins their scale, and
`exp2` is 2.6 times as fast as `exp`, as measured.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.causal_mask import check_kernel_inputs, hidden_keys
from scratch_gpt.numerics import accumulate_dtype, empty_merged, needs_gradients
from scratch_gpt.tap import Tap

LOG_2 = math.log(2.0)
"""The unit of the scores."""

TILE = 64
"""Queries per tile: the smallest that keeps the matrix product busy. Of 32 to 256 it was the
fastest, measured at 128 to 512 tokens. Above the diagonal it wastes 1/8 of the work at 512."""

_CACHED = 1 << 19
"""Scores computed at once, unless a single sequence has more: 2 MiB in float32. With half of it,
4 x 192 tokens took 1.1 to 1.3 times as long. With four times as much 4 x 512 took 1.5 times as
long: the memory was returned to the system and faulted in again."""


def tiled_attention(  # noqa: PLR0913 - the signature of an attention kernel
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,  # noqa: ARG001 - neither scores nor weights exist as tensors
    dropout_probability: float = 0.0,
    *,
    tile: int = TILE,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return the context of causal attention; calls no taps.

    Without gradients and dropout, queries that fit one tile take `one_tile_attention`.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: the tiling of Dao et al. 2022 (arXiv 2205.14135), without its inner loop over keys;
    the backward of Dao 2023 (arXiv 2307.08691), section 3.1.2.
    """
    check_kernel_inputs(query, key, value, mask)
    if dropout_probability == 0.0 and not needs_gradients(query, key, value):
        batch, n_head, time_q, _ = query.shape
        if time_q <= tile and batch * n_head * time_q * key.shape[-2] <= _CACHED:
            return one_tile_attention(query, key, value, mask)
        return _forward(query, key, value, mask, tile)[0]
    result: Tensor = _Tiled.apply(query, key, value, mask, dropout_probability, tile)  # type: ignore[no-untyped-call]
    return result


def one_tile_attention(
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return the context of causal attention with all scores at once; records no gradients.

    At up to 64 tokens the products are so small that every further operation counts.

    Source: Vaswani et al. 2017, section 3.2.1.
    """
    dtype = compute_dtype(query)
    queries, keys, values = (x.to(dtype).flatten(0, 1) for x in (query, key, value))
    repeated = None if mask is None else mask.repeat_interleave(query.shape[1], 0)
    scores = _masked_scores(queries, keys, repeated, _causal_bias(query.shape[-2], keys))
    powers = scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
    total = powers.sum(-1, keepdim=True).view(*query.shape[:-1], 1)
    weighted = torch.bmm(powers.to(dtype), values).view(query.shape)
    return torch.div(weighted, total, out=empty_merged(query))


def compute_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype of the products: float32 for half precision on a CPU.

    There products this small are no faster in half precision, and each would need its scores
    converted and converted back.
    """
    return accumulate_dtype(like.dtype) if like.device.type == "cpu" else like.dtype


def _forward(  # noqa: PLR0913 - the kernel's arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    tile: int,
    dropout_probability: float = 0.0,
    normalizer: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the context and the dropout masks; write the normalizers, if they are wanted."""
    context = empty_merged(query)
    causal = _causal_bias(min(tile, query.shape[2]), key)
    dropout_masks: list[Tensor] = []
    for group in groups(query.shape, key.shape[-2], tile):
        inputs = _Inputs.of(group, query, key, value, mask, causal)
        rows = None if normalizer is None else normalizer[group]
        dropout_masks += _attend(inputs, context[group], rows, dropout_probability)
    return context, dropout_masks


class _Tiled(Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - the kernel's arguments
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropout_probability: float,
        tile: int,
    ) -> Tensor:
        dtype = accumulate_dtype(query.dtype)
        normalizer = None
        if any(ctx.needs_input_grad):  # type: ignore[attr-defined]
            normalizer = query.new_empty(*query.shape[:3], 1, dtype=dtype)
        context, dropout_masks = _forward(
            query, key, value, mask, tile, dropout_probability, normalizer
        )
        ctx.save_for_backward(query, key, value, mask, context, normalizer, *dropout_masks)  # type: ignore[arg-type]
        ctx.options = dropout_probability, tile  # type: ignore[attr-defined]
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, context, normalizer, *dropout_masks = ctx.saved_tensors  # type: ignore[attr-defined]
        dropout_probability, tile = ctx.options  # type: ignore[attr-defined]
        upstream = upstream.to(compute_dtype(query))
        row_dot = (upstream * context).sum(-1, keepdim=True)
        gradients = [x.new_zeros(x.shape, dtype=upstream.dtype) for x in (query, key, value)]
        causal = _causal_bias(min(tile, query.shape[2]), key)
        masks = iter(dropout_masks)
        for group in groups(query.shape, key.shape[-2], tile):
            inputs = _Inputs.of(group, query, key, value, mask, causal)
            outputs = _Outputs.of(group, upstream, row_dot, normalizer, *gradients)
            _attend_backward(inputs, outputs, masks, dropout_probability)
        return (*(gradient.to(query.dtype) for gradient in gradients), None, None, None)


class _Inputs(NamedTuple):
    """The inputs of a group of sequences; the heads of all of them are one axis."""

    query: Tensor
    """`[heads time_q head_width]`."""
    key: Tensor
    """`[heads time_k head_width]`."""
    value: Tensor
    """`[heads time_k head_width]`."""
    mask: Tensor | None
    """`[heads time_k]`, bool, False at padding; None without padding."""
    causal: Tensor
    """`[tile time_k]`, of `_causal_bias`."""

    @classmethod
    def of(  # noqa: PLR0913 - the kernel's arguments
        cls,
        group: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: Tensor,
    ) -> "_Inputs":
        """Return the inputs of the sequences in `group`: views if possible."""
        dtype = compute_dtype(query)
        queries, keys, values = (x[group].flatten(0, 1).to(dtype) for x in (query, key, value))
        repeated = None if mask is None else mask[group].repeat_interleave(query.shape[1], 0)
        return cls(queries, keys, values, repeated, causal)

    def scores(self, queries: slice, seen: int) -> Tensor:
        """Return the scores of a tile of queries with the keys seen, `[heads tile seen]`."""
        rows = self.query[:, queries]
        mask = None if self.mask is None else self.mask[:, :seen]
        return _masked_scores(rows, self.key[:, :seen], mask, self.causal[-rows.shape[1] :, -seen:])


class _Outputs(NamedTuple):
    """The backward's inputs and gradients for a group of sequences; heads as in `_Inputs`."""

    upstream: Tensor
    """`[heads time_q head_width]`, the gradient of the context."""
    row_dot: Tensor
    """`[heads time_q 1]`, its product with the context, `g . c`."""
    normalizer: Tensor
    """`[heads time_q 1]`, from the forward."""
    query: Tensor
    """`[heads time_q head_width]`, the gradient, written."""
    key: Tensor
    """`[heads time_k head_width]`, the gradient, accumulated."""
    value: Tensor
    """`[heads time_k head_width]`, the gradient, accumulated."""

    @classmethod
    def of(cls, group: slice, *tensors: Tensor) -> "_Outputs":
        """Return the parts of the sequences in `group`."""
        return cls(*(x[group].flatten(0, 1) for x in tensors))


def groups(shape: tuple[int, ...], time_k: int, tile: int) -> Iterator[slice]:
    """Yield groups of sequences to process together: as many as fit the cache."""
    batch, n_head, *_ = shape
    together = max(1, _CACHED // (n_head * min(tile, time_k) * time_k))
    for first in range(0, batch, together):
        yield slice(first, min(first + together, batch))


def _strips(inputs: _Inputs) -> Iterator[tuple[slice, int]]:
    """Yield each tile of queries, and the number of keys that its last query attends to."""
    time_q, past = inputs.query.shape[1], inputs.key.shape[1] - inputs.query.shape[1]
    tile = len(inputs.causal)
    for start in range(0, time_q, tile):
        end = min(start + tile, time_q)
        yield slice(start, end), past + end


def _masked_scores(query: Tensor, key: Tensor, mask: Tensor | None, causal: Tensor) -> Tensor:
    """Return a tile's scores over log(2), `[heads time_q seen]`, minus infinity where hidden.

    The product starts at the causal mask, which costs less than a fill after it. `mask` is
    `[heads seen]`, `causal` a part of `_causal_bias`.
    """
    scale = query.shape[-1] ** -0.5 / LOG_2
    product = torch.baddbmm(causal, query, key.transpose(1, 2), alpha=scale)
    scores = product.to(accumulate_dtype(product.dtype))
    if mask is None:
        return scores
    hidden = hidden_keys(query.shape[1], key.shape[1], mask, scores.device)[:, 0]
    return scores.masked_fill_(hidden, float("-inf"))


def _causal_bias(tile: int, key: Tensor) -> Tensor:
    """Return `[tile time_k]`: minus infinity where a query of the last tile must not attend, or 0.

    Its last rows and columns are those of any other tile.
    """
    time_k = key.shape[-2]
    hidden = key.new_full((tile, time_k), float("-inf"), dtype=compute_dtype(key))
    return hidden.triu_(time_k - tile + 1)


def _attend(
    inputs: _Inputs, context: Tensor, normalizer: Tensor | None, dropout_probability: float
) -> list[Tensor]:
    """Write the context and the normalizers of a group; return the dropout masks.

    The softmax's division is applied to the context, which is narrower.
    """
    dropout_masks = []
    for queries, seen in _strips(inputs):
        scores = inputs.scores(queries, seen)
        largest = scores.amax(-1, keepdim=True)
        powers = scores.sub_(largest).exp2_()
        total = powers.sum(-1, keepdim=True)
        if normalizer is not None:
            rows = normalizer[:, :, queries]
            torch.add(total.log2().view_as(rows), largest.view_as(rows), out=rows)
        if dropout_probability > 0.0:
            # In half precision the random numbers would be too coarse.
            kept = torch.rand_like(powers, dtype=torch.float32) >= dropout_probability
            dropout_masks.append(kept)
            powers.mul_(kept)
            total.mul_(1.0 - dropout_probability)
        weighted = torch.bmm(powers.to(inputs.value.dtype), inputs.value[:, :seen])
        part = context[:, :, queries]
        torch.div(weighted.view_as(part), total.view(*part.shape[:-1], 1), out=part)
    return dropout_masks


def _attend_backward(
    inputs: _Inputs,
    outputs: _Outputs,
    dropout_masks: Iterator[Tensor],
    dropout_probability: float,
) -> None:
    """Write the gradients of a group's queries, keys and values."""
    scale = inputs.query.shape[-1] ** -0.5
    dtype = inputs.query.dtype
    for queries, seen in _strips(inputs):
        weights = inputs.scores(queries, seen).sub_(outputs.normalizer[:, queries]).exp2_()
        upstream = outputs.upstream[:, queries]
        slopes = (upstream @ inputs.value[:, :seen].transpose(1, 2)).to(weights.dtype)
        used = weights
        if dropout_probability > 0.0:
            mask = next(dropout_masks).to(weights.dtype) / (1.0 - dropout_probability)
            slopes.mul_(mask)
            used = weights * mask
        # Added in place, the product would run head by head, because these rows are not adjacent.
        outputs.value[:, :seen].add_(used.to(dtype).transpose(1, 2) @ upstream)
        slopes = slopes.sub_(outputs.row_dot[:, queries]).mul_(weights).to(dtype)
        torch.mul(slopes @ inputs.key[:, :seen], scale, out=outputs.query[:, queries])
        key_gradient = slopes.transpose(1, 2) @ inputs.query[:, queries]
        outputs.key[:, :seen].add_(key_gradient, alpha=scale)
