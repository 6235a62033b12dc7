"""Strips of scores: what the tiled core works on at a time, and how one is made.

Scores are kept in units of log(2): `2^(s / log 2) = e^s`, the factor joins the scale of the
query, and a power of two is the cheaper one (2.6 times, as measured). They fit float32 up to
2.3e38.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scratch_gpt.visibility import hidden_keys


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
        dtype = worked_in(query)
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


def scores_of(inputs: Inputs, queries: slice, seen: int) -> Tensor:
    """Return a strip's scores over log(2), `[heads tile seen]`, minus infinity where hidden."""
    rows = inputs.query[:, queries]
    heads, tile, _ = rows.shape
    product = inputs.scratch[: heads * tile * seen].view(heads, tile, seen)
    torch.bmm(rows, inputs.key[:, :seen].transpose(1, 2), out=product)
    scores = product.to(wide(product.dtype))
    if inputs.mask is None:
        # A minimum hides as a fill does, whatever stands there, at a quarter of its cost.
        corner = scores[:, :, seen - tile :]
        torch.minimum(corner, inputs.ceiling[:tile, :tile], out=corner)
        return scores
    hidden = hidden_keys(tile, seen, inputs.mask[:, :seen], scores.device)[:, 0]
    return scores.masked_fill_(hidden, float("-inf"))


def ceiling_of(tile: int, like: Tensor) -> Tensor:
    """Return `[tile tile]`: minus infinity where the key is in the future, else infinity."""
    future = hidden_keys(tile, tile, None, like.device)[0, 0]
    seen = like.new_full(future.shape, float("inf"), dtype=wide(like.dtype))
    return seen.masked_fill_(future, float("-inf"))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which scores are summed: float32 at least."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def worked_in(like: Tensor) -> torch.dtype:
    """Return the dtype of the products.

    On a CPU products this small are no faster in half precision, and each would need its scores
    converted and converted back; so all of it is done in float32.
    """
    return wide(like.dtype) if like.device.type == "cpu" else like.dtype
