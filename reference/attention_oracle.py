"""Causal attention in NumPy float64, one query at a time: the reference of every timed kernel.

It imports numpy alone and shares no code with the kernels. A query gets the keys up to its own
position and no others, so no mask can be wrong. The last query is at the position of the last key.
Work and memory grow with the number of queries, so of a long text some rows can be sampled.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAMPLED = 64
"""How many queries of a long text are computed."""


def context(query: Array, key: Array, value: Array, rows: Sequence[int] | None = None) -> Array:
    """Return `softmax(query key^T / sqrt(head_width)) value` of some rows, or of all queries.

    The query is `[batch head time_q head_width]`; key and value are `[batch head time_k
    head_width]`; the result is `[batch head rows head_width]`.

    Source: Vaswani et al. 2017, section 3.2.1; train.py `_attn` (a69b5c4).
    """
    wanted = range(query.shape[2]) if rows is None else rows
    seen_by = key.shape[2] - query.shape[2] + 1
    found = np.empty((*query.shape[:2], len(wanted), value.shape[3]))
    for place, row in enumerate(wanted):
        seen = seen_by + row
        weights = _weights(query[:, :, row], key[:, :, :seen])
        found[:, :, place] = np.einsum("bhk,bhkw->bhw", weights, value[:, :, :seen])
    return found


def gradients(
    query: Array, key: Array, value: Array, upstream: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of `sum(context * upstream)` with respect to query, key and value.

    The shapes are those of `context`; `upstream` is like `query`.
    """
    by_query, by_key, by_value = (np.zeros_like(x) for x in (query, key, value))
    scale = 1.0 / np.sqrt(query.shape[3])
    seen_by = key.shape[2] - query.shape[2] + 1
    for row in range(query.shape[2]):
        seen = slice(seen_by + row)
        weights = _weights(query[:, :, row], key[:, :, seen])
        given = upstream[:, :, row]
        by_weight = np.einsum("bhw,bhkw->bhk", given, value[:, :, seen])
        mean = (weights * by_weight).sum(-1, keepdims=True)
        by_score = weights * (by_weight - mean) * scale
        by_query[:, :, row] = np.einsum("bhk,bhkw->bhw", by_score, key[:, :, seen])
        by_key[:, :, seen] += by_score[..., None] * query[:, :, None, row]
        by_value[:, :, seen] += weights[..., None] * given[:, :, None]
    return by_query, by_key, by_value


def products(query: Array, key: Array, value: Array, rows: Sequence[int] | None = None) -> Array:
    """Return `(query key^T) value` of some queries: attention's two products and nothing else."""
    wanted = query if rows is None else query[:, :, list(rows)]
    scores = np.einsum("bhqw,bhkw->bhqk", wanted, key, optimize=True)
    found: Array = np.einsum("bhqk,bhkw->bhqw", scores, value, optimize=True)
    return found


def products_gradients(
    query: Array, key: Array, value: Array, upstream: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of `sum(products * upstream)`, as `gradients` does of the context."""
    scores, by_score = query @ key.swapaxes(2, 3), upstream @ value.swapaxes(2, 3)
    return (
        by_score @ key,
        by_score.swapaxes(2, 3) @ query,
        scores.swapaxes(2, 3) @ upstream,
    )


def sampled_rows(time: int, *, tile: int, seed: int = 0, count: int = SAMPLED) -> list[int]:
    """Return `count` of `time` queries: both ends, those at tile edges, and random others.

    If the edges are more than half of `count`, an even selection of them is returned.
    """
    if time <= count:
        return list(range(time))
    edges = [row for start in range(tile, time, tile) for row in (start - 1, start)]
    evenly = np.linspace(0, len(edges) - 1, min(len(edges), count // 2)).round().astype(int)
    chosen = {0, time - 1, *(edges[at] for at in evenly)}
    others = np.random.default_rng(seed).permutation(time)
    for row in others:
        if len(chosen) == count:
            break
        chosen.add(int(row))
    return sorted(chosen)


def _weights(query: Array, key: Array) -> Array:
    """Return `[batch head seen]`: the weights of one query's visible keys."""
    scores = np.einsum("bhw,bhkw->bhk", query, key) / np.sqrt(query.shape[2])
    grown = np.exp(scores - scores.max(-1, keepdims=True))
    weights: Array = grown / grown.sum(-1, keepdims=True)
    return weights
