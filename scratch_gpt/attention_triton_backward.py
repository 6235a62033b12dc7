"""The Triton core's two backward kernels.

With `S = (scale Q) K^T`, hidden scores at minus infinity, `L` the logarithm of each row's sum of
exponentials, `P = exp(S - L)` and `O = P V`, the chain rule gives

    D  = sum(dO * O)         per row: equal to sum(P * dP), and known without P
    dV = P^T dO              dP = dO V^T
    dS = P * (dP - D)        the softmax's backward
    dQ = scale dS K          dK = dS^T (scale Q)

With dropout a factor F, 0 or 1 / (1 - p), stands beside P in O and dV, and beside dO V^T in dP;
D and dS keep their form. P is made again, tile by tile. The first kernel owns tiles of queries,
writes dQ and leaves D to the second, which owns tiles of keys and writes dK and dV. So every
number is summed by one program in one order: two runs agree bit for bit.

Source: Dao 2023 (arXiv 2307.08691), algorithm 2.
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
def _add_keys(  # noqa: PLR0913 - a tile of queries, and the keys it meets
    gradient: tl.tensor,
    tile: tl.tuple,
    inputs: Inputs,
    own: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    causal: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
) -> tl.tensor:
    """Return dQ / scale with what the keys from `first` to `last` add to it.

    `tile` has what belongs to the queries: scale Q, dO, L and D.
    """
    query, upstream, log_sums, deltas = tile
    for start in range(first, last, block):
        keys = start + tl.arange(0, block)
        key = load(inputs.key, keys, width, query.shape[1])
        scores = product(query, tl.trans(key), log_sums.dtype)
        if causal or inputs.mask is not None:
            scores = hide(scores, own[:, None], keys[None, :], inputs.mask)
        value = load(inputs.value, keys, width, query.shape[1])
        to_weights = product(upstream, tl.trans(value), log_sums.dtype)
        if dropout > 0.0:
            keep = kept(inputs, own[:, None], keys[None, :], dropout)
            to_weights = drop(to_weights, keep, dropout)
        to_scores = tl.exp(scores - log_sums[:, None]) * (to_weights - deltas[:, None])
        gradient += product(to_scores, key, log_sums.dtype)
    return gradient


@triton.jit
@no_type_check
def query_gradient(  # noqa: PLR0913 - a kernel is told everything
    inputs: Inputs,
    out: View,
    upstream: View,
    log_sum: View,
    delta: View,
    to_query: View,
    scale: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    """Write a tile of dQ, and D of its rows."""
    # The last tile has the most keys to meet, so it starts first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_q
    rows = start + tl.arange(0, block_q)
    past = inputs.key.rows - inputs.query.rows
    own = past + rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    query = load_scaled(inputs.query, rows, scale, width, padded, exact)
    received = load(upstream, rows, width, padded)
    deltas = tl.sum(received.to(exact) * load(out, rows, width, padded).to(exact), 1)
    tl.store(places(delta, rows), deltas, mask=rows < delta.rows)
    log_sums = tl.load(places(log_sum, rows), mask=rows < log_sum.rows, other=0.0)
    tile = (query, received, log_sums, deltas)
    gradient = tl.full([block_q, padded], 0.0, exact)
    # Keys before `near` are in every row's past; from there on the causal rule can hide some.
    near = (past + start) // block_k * block_k
    end = tl.minimum(past + start + block_q, inputs.key.rows)
    gradient = _add_keys(gradient, tile, inputs, own, 0, near, False, dropout, width, block_k)
    gradient = _add_keys(gradient, tile, inputs, own, near, end, True, dropout, width, block_k)
    store(gradient * scale, to_query, rows, width)


@triton.jit
@no_type_check
def _add_queries(  # noqa: PLR0913 - a tile of keys, and the queries it meets
    gradients: tl.tuple,
    tile: tl.tuple,
    inputs: Inputs,
    of_rows: tl.tuple,
    keys: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    causal: tl.constexpr,
    scale: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
) -> tl.tuple:
    """Return dK and dV with what the queries from `first` to `last` add to them.

    `tile` is K and V, `of_rows` where dO, L and D of the queries lie. Scores and weights are made
    with keys for rows, so that none has to be transposed later.
    """
    to_key, to_value = gradients
    key, value = tile
    upstream, log_sum, delta = of_rows
    padded: tl.constexpr = key.shape[1]
    exact: tl.constexpr = to_key.dtype
    for start in range(first, last, block):
        rows = start + tl.arange(0, block)
        own = (inputs.key.rows - inputs.query.rows + rows)[None, :]
        query = load_scaled(inputs.query, rows, scale, width, padded, exact)
        scores = product(key, tl.trans(query), exact)
        if causal or inputs.mask is not None:
            scores = hide(scores, own, keys[:, None], inputs.mask)
        inside = rows < log_sum.rows
        log_sums = tl.load(places(log_sum, rows), mask=inside, other=0.0)
        weights = tl.exp(scores - log_sums[None, :])
        received = load(upstream, rows, width, padded)
        to_weights = product(value, tl.trans(received), exact)
        dropped = weights
        if dropout > 0.0:
            keep = kept(inputs, own, keys[:, None], dropout)
            dropped, to_weights = drop(weights, keep, dropout), drop(to_weights, keep, dropout)
        to_value += product(dropped, received, exact)
        deltas = tl.load(places(delta, rows), mask=inside, other=0.0)
        to_key += product(weights * (to_weights - deltas[None, :]), query, exact)
    return to_key, to_value


@triton.jit
@no_type_check
def key_gradient(  # noqa: PLR0913 - a kernel is told everything
    inputs: Inputs,
    upstream: View,
    log_sum: View,
    delta: View,
    to_key: View,
    to_value: View,
    scale: tl.constexpr,
    dropout: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    """Write a tile of dK and one of dV."""
    # The first tile is seen by the most queries, and starts first.
    start = tl.program_id(0) * block_k
    keys = start + tl.arange(0, block_k)
    past = inputs.key.rows - inputs.query.rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    tile = (load(inputs.key, keys, width, padded), load(inputs.value, keys, width, padded))
    zeros = tl.full([block_k, padded], 0.0, exact)
    gradients, of_rows = (zeros, zeros), (upstream, log_sum, delta)
    # Queries before `near` see none of these keys, those from `far` on have them all in their past.
    near = tl.maximum(start - past, 0) // block_q * block_q
    far = tl.cdiv(tl.maximum(start + block_k - past, 0), block_q) * block_q
    end = inputs.query.rows
    far = tl.minimum(far, end)
    gradients = _add_queries(
        gradients, tile, inputs, of_rows, keys, near, far, True, scale, dropout, width, block_q
    )
    of_key, of_value = _add_queries(
        gradients, tile, inputs, of_rows, keys, far, end, False, scale, dropout, width, block_q
    )
    store(of_key, to_key, keys, width)
    store(of_value, to_value, keys, width)
