"""The Triton core's forward kernel.

A program owns a tile of queries and walks over the keys they may see, a tile at a time. It keeps,
per row, the largest score so far, the sum of the exponentials below it, and the context they
weigh; when a larger score comes, sum and context shrink to it. The quotient and the row's
logarithm of the sum are all that is written.

Source: Dao 2023 (arXiv 2307.08691), algorithm 1; the running sums are those of Milakov and
Gimelshein 2018 (arXiv 1805.02867).
"""
# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator"

from typing import no_type_check

import triton
import triton.language as tl

from scratch_gpt.attention_triton_tiles import (
    Inputs,
    View,
    drop,
    hide,
    kept,
    load,
    load_scaled,
    places,
    product,
    store,
)


@triton.jit
@no_type_check
def _gather(  # noqa: PLR0913 - the running sums, and what they run over
    sums: tl.tuple,
    query: tl.tensor,
    inputs: Inputs,
    own: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    causal: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
) -> tl.tuple:
    """Return the sums after the keys from `first` to `last`: context, largest score, total."""
    context, largest, total = sums
    for start in range(first, last, block):
        keys = start + tl.arange(0, block)
        key = load(inputs.key, keys, width, query.shape[1])
        scores = product(query, tl.trans(key), total.dtype)
        if causal or inputs.mask is not None:
            scores = hide(scores, own[:, None], keys[None, :], inputs.mask)
        highest = tl.maximum(largest, tl.max(scores, 1))
        # Where nothing is visible yet any finite number does, and minus infinity would give NaN.
        level = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp(scores - level[:, None])
        shrink = tl.exp(largest - level)
        total = total * shrink + tl.sum(weights, 1)
        if dropout > 0.0:
            keep = kept(inputs, own[:, None], keys[None, :], dropout)
            weights = drop(weights, keep, dropout)
        value = load(inputs.value, keys, width, query.shape[1])
        context = context * shrink[:, None] + product(weights, value, total.dtype)
        largest = highest
    return context, largest, total


@triton.jit
@no_type_check
def forward(  # noqa: PLR0913 - a kernel is told everything
    inputs: Inputs,
    out: View,
    log_sum: View,
    scale: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    """Write a tile of the context, and the logarithm of the sum of each of its rows."""
    # The last tile has the most keys to meet, so it starts first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_q
    rows = start + tl.arange(0, block_q)
    past = inputs.key.rows - inputs.query.rows
    own = past + rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    query = load_scaled(inputs.query, rows, scale, width, padded, exact)
    context = tl.full([block_q, padded], 0.0, exact)
    largest = tl.full([block_q], float("-inf"), exact)
    total = tl.full([block_q], 0.0, exact)
    # Keys before `near` are in every row's past; from there on the causal rule can hide some.
    near = (past + start) // block_k * block_k
    end = tl.minimum(past + start + block_q, inputs.key.rows)
    sums = (context, largest, total)
    sums = _gather(sums, query, inputs, own, 0, near, False, dropout, width, block_k)
    context, largest, total = _gather(
        sums, query, inputs, own, near, end, True, dropout, width, block_k
    )
    store(context / total[:, None], out, rows, width)
    tl.store(places(log_sum, rows), largest + tl.log(total), mask=rows < log_sum.rows)
