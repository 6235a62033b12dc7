"""The three Triton attention kernels: forward, query gradient, key and value gradients.

Each kernel runs on the grid `(tiles, heads, batch)`, and a program reads and writes only its own
head and batch. `exact` is the dtype of the accumulators. `no_type_check` keeps the shape checker
from wrapping functions whose source Triton reads.

Forward: a program owns a tile of queries and loops over the keys that they attend to, a tile at a
time. For each row it keeps the largest score so far, the sum of the exponentials relative to it,
and the context. A larger score rescales the sum and the context. The program writes the quotient
and `L`, the logarithm of each row's sum.

Backward: with `S = (scale Q) K^T`, hidden scores at minus infinity, `P = exp(S - L)` and `O = P V`,
the chain rule gives

    D  = sum(dO * O)         per row: equal to sum(P * dP), and computed without P
    dV = P^T dO              dP = dO V^T
    dS = P * (dP - D)        the softmax's backward
    dQ = scale dS K          dK = dS^T (scale Q)

With dropout a factor F, 0 or 1 / (1 - p), multiplies P in O and dV, and dO V^T in dP; D and dS keep
their form. P is recomputed tile by tile. `query_gradient` owns tiles of queries and writes dQ and
D. `key_gradient` then owns tiles of keys and writes dK and dV. One program sums each number in one
order, so two runs agree bit for bit.

Source: Dao 2023 (arXiv 2307.08691), algorithms 1 and 2; the running sums are those of Milakov and
Gimelshein 2018 (arXiv 1805.02867).
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator"

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor


@no_type_check
class View(NamedTuple):
    """A tensor `[batch head row column]` with its strides."""

    pointer: Tensor
    """The tensor; inside a kernel, the address of its first element."""
    rows: int
    """Number of rows."""
    batch: int
    """Stride of the batch axis, in elements; the other three likewise."""
    head: int
    row: int
    column: int


@no_type_check
class Inputs(NamedTuple):
    """The inputs of all three kernels."""

    query: View
    """`[batch head time_q head_width]`."""
    key: View
    """`[batch head time_k head_width]`."""
    value: View
    """`[batch head time_k head_width]`."""
    mask: View | None
    """`[batch 1 time_k 1]`, zero at padding; None without padding."""
    seed: View | None
    """`[1 1 1 1]`, the int64 that determines the dropout mask; None without dropout."""


@triton.jit
@no_type_check
def row_addresses(view: View, rows: tl.tensor) -> tl.tensor:
    """Return the address of each row's first column."""
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    return view.pointer + batch * view.batch + head * view.head + rows * view.row


@triton.jit
@no_type_check
def load(view: View, rows: tl.tensor, width: tl.constexpr, padded: tl.constexpr) -> tl.tensor:
    """Return `[rows padded]`, with zeros beyond the last row and beyond `width`."""
    columns = tl.arange(0, padded)[None, :]
    inside = (rows[:, None] < view.rows) & (columns < width)
    return tl.load(
        row_addresses(view, rows)[:, None] + columns * view.column, mask=inside, other=0.0
    )


@triton.jit
@no_type_check
def store(value: tl.tensor, view: View, rows: tl.tensor, width: tl.constexpr) -> None:
    """Write `value` `[rows padded]` to these rows of `view`, in its dtype."""
    columns = tl.arange(0, value.shape[1])[None, :]
    inside = (rows[:, None] < view.rows) & (columns < width)
    rounded = value.to(view.pointer.dtype.element_ty)
    tl.store(row_addresses(view, rows)[:, None] + columns * view.column, rounded, mask=inside)


@triton.jit
@no_type_check
def load_scaled(  # noqa: PLR0913 - a tile and its options
    view: View,
    rows: tl.tensor,
    scale: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    """Return `[rows padded]` times `scale`, rounded to the view's dtype as in every kernel."""
    tile = load(view, rows, width, padded)
    return (tile.to(exact) * scale).to(tile.dtype)


@triton.jit
@no_type_check
def product(left: tl.tensor, right: tl.tensor, exact: tl.constexpr) -> tl.tensor:
    """Return `left right`, accumulated in `exact`, with `left` rounded to the dtype of `right`.

    Float32 is multiplied as float32, never as TF32.
    """
    return tl.dot(left.to(right.dtype), right, input_precision="ieee", out_dtype=exact)


@triton.jit
@no_type_check
def hide(scores: tl.tensor, own: tl.tensor, keys: tl.tensor, mask: View | None) -> tl.tensor:
    """Return the scores, minus infinity where the query at `own` must not attend.

    Source: `hidden_keys` of `scratch_gpt/causal_mask.py`.
    """
    visible = keys <= own
    if mask is not None:
        real = tl.load(row_addresses(mask, keys), mask=keys < mask.rows, other=0)
        visible = (visible & (real != 0)) | (keys == own)
    return tl.where(visible, scores, float("-inf"))


@triton.jit
@no_type_check
def kept(inputs: Inputs, own: tl.tensor, keys: tl.tensor, dropout: tl.constexpr) -> tl.tensor:
    """Return the dropout mask: True where a weight is kept.

    The random number depends on the weight's coordinates, so every kernel gets the same mask.
    """
    stream = tl.load(inputs.seed.pointer) + tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    return tl.rand(stream, own * inputs.key.rows + keys) >= dropout


@triton.jit
@no_type_check
def drop(x: tl.tensor, keep: tl.tensor, dropout: tl.constexpr) -> tl.tensor:
    """Return `x / (1 - dropout)` where it is kept, and 0 elsewhere."""
    return tl.where(keep, x, 0.0) * (1.0 / (1.0 - dropout))


@triton.jit
@no_type_check
def _accumulate(  # noqa: PLR0913 - the running sums and a range of keys
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
    """Return the running sums after keys `first` to `last`: context, largest score, total."""
    context, largest, total = sums
    for start in range(first, last, block):
        keys = start + tl.arange(0, block)
        key = load(inputs.key, keys, width, query.shape[1])
        scores = product(query, tl.trans(key), total.dtype)
        if causal or inputs.mask is not None:
            scores = hide(scores, own[:, None], keys[None, :], inputs.mask)
        highest = tl.maximum(largest, tl.max(scores, 1))
        # If nothing is visible yet any finite level works; minus infinity would give NaN.
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
def forward(  # noqa: PLR0913 - the arguments of a kernel
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
    """Write a tile of the context, and L of its rows."""
    # The last tile has the most keys, so it starts first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_q
    rows = start + tl.arange(0, block_q)
    past = inputs.key.rows - inputs.query.rows
    own = past + rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    query = load_scaled(inputs.query, rows, scale, width, padded, exact)
    context = tl.full([block_q, padded], 0.0, exact)
    largest = tl.full([block_q], float("-inf"), exact)
    total = tl.full([block_q], 0.0, exact)
    # Keys before `near` are in every row's past; from there on the causal mask can hide some.
    near = (past + start) // block_k * block_k
    end = tl.minimum(past + start + block_q, inputs.key.rows)
    sums = (context, largest, total)
    sums = _accumulate(sums, query, inputs, own, 0, near, False, dropout, width, block_k)
    context, largest, total = _accumulate(
        sums, query, inputs, own, near, end, True, dropout, width, block_k
    )
    store(context / total[:, None], out, rows, width)
    tl.store(row_addresses(log_sum, rows), largest + tl.log(total), mask=rows < log_sum.rows)


@triton.jit
@no_type_check
def _add_keys(  # noqa: PLR0913 - a tile of queries and a range of keys
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
    """Return dQ / scale after adding the share of keys `first` to `last`.

    `tile` holds scale Q, dO, L and D of the queries.
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
def query_gradient(  # noqa: PLR0913 - the arguments of a kernel
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
    # The last tile has the most keys, so it starts first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_q
    rows = start + tl.arange(0, block_q)
    past = inputs.key.rows - inputs.query.rows
    own = past + rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    query = load_scaled(inputs.query, rows, scale, width, padded, exact)
    received = load(upstream, rows, width, padded)
    deltas = tl.sum(received.to(exact) * load(out, rows, width, padded).to(exact), 1)
    tl.store(row_addresses(delta, rows), deltas, mask=rows < delta.rows)
    log_sums = tl.load(row_addresses(log_sum, rows), mask=rows < log_sum.rows, other=0.0)
    tile = (query, received, log_sums, deltas)
    gradient = tl.full([block_q, padded], 0.0, exact)
    # Keys before `near` are in every row's past; from there on the causal mask can hide some.
    near = (past + start) // block_k * block_k
    end = tl.minimum(past + start + block_q, inputs.key.rows)
    gradient = _add_keys(gradient, tile, inputs, own, 0, near, False, dropout, width, block_k)
    gradient = _add_keys(gradient, tile, inputs, own, near, end, True, dropout, width, block_k)
    store(gradient * scale, to_query, rows, width)


@triton.jit
@no_type_check
def _add_queries(  # noqa: PLR0913 - a tile of keys and a range of queries
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
    """Return dK and dV after adding the share of queries `first` to `last`.

    `tile` holds K and V; `of_rows` are the views of the queries' dO, L and D. Scores and weights
    have keys as rows, so that none has to be transposed later.
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
        log_sums = tl.load(row_addresses(log_sum, rows), mask=inside, other=0.0)
        weights = tl.exp(scores - log_sums[None, :])
        received = load(upstream, rows, width, padded)
        to_weights = product(value, tl.trans(received), exact)
        dropped = weights
        if dropout > 0.0:
            keep = kept(inputs, own, keys[:, None], dropout)
            dropped, to_weights = drop(weights, keep, dropout), drop(to_weights, keep, dropout)
        to_value += product(dropped, received, exact)
        deltas = tl.load(row_addresses(delta, rows), mask=inside, other=0.0)
        to_key += product(weights * (to_weights - deltas[None, :]), query, exact)
    return to_key, to_value


@triton.jit
@no_type_check
def key_gradient(  # noqa: PLR0913 - the arguments of a kernel
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
    # The most queries attend to the first tile, so it starts first.
    start = tl.program_id(0) * block_k
    keys = start + tl.arange(0, block_k)
    past = inputs.key.rows - inputs.query.rows
    exact: tl.constexpr = log_sum.pointer.dtype.element_ty
    tile = (load(inputs.key, keys, width, padded), load(inputs.value, keys, width, padded))
    zeros = tl.full([block_k, padded], 0.0, exact)
    gradients, of_rows = (zeros, zeros), (upstream, log_sum, delta)
    # Queries before `near` attend to none of these keys; from `far` on, to all of them.
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
