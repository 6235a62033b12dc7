"""What the Triton core's kernels share: where a tensor lies, tiles in and out, who sees whom.

Every kernel runs on the grid `(tiles, heads, batch)`, and what is read and written here belongs
to the program's own head and batch.

`no_type_check` keeps the checker of shapes from wrapping what Triton has to read as source.
"""
# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator"

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor


@no_type_check
class View(NamedTuple):
    """A tensor `[batch head row column]` where it lies in memory.

    Attributes:
        pointer: The tensor; inside a kernel, the address of its first element.
        rows: How many rows it has.
        batch: Elements from one batch to the next; so `head`, `row` and `column`.
    """

    pointer: Tensor
    rows: int
    batch: int
    head: int
    row: int
    column: int


@no_type_check
class Inputs(NamedTuple):
    """What all three kernels read.

    Attributes:
        query: `[batch head time_q head_width]`; key and value with `time_k`.
        mask: `[batch 1 time_k 1]`, zero at padding; None where nothing is padded.
        seed: `[1 1 1 1]`, the int64 that decides what is dropped; None without dropout.
    """

    query: View
    key: View
    value: View
    mask: View | None
    seed: View | None


@triton.jit
@no_type_check
def places(view: View, rows: tl.tensor) -> tl.tensor:
    """Return the address of the first column of each of the rows."""
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    return view.pointer + batch * view.batch + head * view.head + rows * view.row


@triton.jit
@no_type_check
def load(view: View, rows: tl.tensor, width: tl.constexpr, padded: tl.constexpr) -> tl.tensor:
    """Return `[rows padded]`, with zeros past the last row and past `width`."""
    columns = tl.arange(0, padded)[None, :]
    inside = (rows[:, None] < view.rows) & (columns < width)
    return tl.load(places(view, rows)[:, None] + columns * view.column, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store(value: tl.tensor, view: View, rows: tl.tensor, width: tl.constexpr) -> None:
    """Write `value` `[rows padded]` into these rows of `view`, in its type."""
    columns = tl.arange(0, value.shape[1])[None, :]
    inside = (rows[:, None] < view.rows) & (columns < width)
    rounded = value.to(view.pointer.dtype.element_ty)
    tl.store(places(view, rows)[:, None] + columns * view.column, rounded, mask=inside)


@triton.jit
@no_type_check
def load_scaled(  # noqa: PLR0913 - a tile, and what becomes of it
    view: View,
    rows: tl.tensor,
    scale: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    """Return `[rows padded]` times `scale`, rounded to the view's type as every core rounds it."""
    tile = load(view, rows, width, padded)
    return (tile.to(exact) * scale).to(tile.dtype)


@triton.jit
@no_type_check
def product(left: tl.tensor, right: tl.tensor, exact: tl.constexpr) -> tl.tensor:
    """Return `left right`, summed in `exact`, with `left` rounded to the type of `right`.

    Float32 is multiplied as float32, never as TF32.
    """
    return tl.dot(left.to(right.dtype), right, input_precision="ieee", out_dtype=exact)


@triton.jit
@no_type_check
def hide(scores: tl.tensor, own: tl.tensor, keys: tl.tensor, mask: View | None) -> tl.tensor:
    """Return the scores with minus infinity where the query standing at `own` must not look.

    Source: `hidden_keys` of `scratch_gpt/visibility.py`.
    """
    visible = keys <= own
    if mask is not None:
        real = tl.load(places(mask, keys), mask=keys < mask.rows, other=0)
        visible = (visible & (real != 0)) | (keys == own)
    return tl.where(visible, scores, float("-inf"))


@triton.jit
@no_type_check
def kept(inputs: Inputs, own: tl.tensor, keys: tl.tensor, dropout: tl.constexpr) -> tl.tensor:
    """Return which weights are kept: each is dropped by chance, on its own.

    The draw belongs to the weight's coordinates, so that every kernel finds the same.
    """
    stream = tl.load(inputs.seed.pointer) + tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    return tl.rand(stream, own * inputs.key.rows + keys) >= dropout


@triton.jit
@no_type_check
def drop(x: tl.tensor, keep: tl.tensor, dropout: tl.constexpr) -> tl.tensor:
    """Return `x` where it is kept, scaled up, and 0 elsewhere."""
    return tl.where(keep, x, 0.0) * (1.0 / (1.0 - dropout))
