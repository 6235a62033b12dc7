"""How the Triton core's kernels are started: on which tiles, with how many hands.

Triton is imported by the first launch.
"""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """How one kernel cuts the axes.

    Attributes:
        block_q: Queries of a tile.
        block_k: Keys of a tile.
        num_warps: Groups of 32 threads that work on it.
        num_stages: How many tiles ahead the loads run.
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


class Plan(NamedTuple):
    """The tiles of the three kernels for one dtype."""

    forward: Tiles
    query_gradient: Tiles
    key_gradient: Tiles


_HALF = Plan(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 2))

PLANS = {
    torch.bfloat16: _HALF,
    torch.float16: _HALF,
    torch.float32: Plan(Tiles(64, 32, 8, 2), Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 2)),
    torch.float64: Plan(Tiles(32, 16, 4, 1), Tiles(32, 16, 4, 1), Tiles(16, 32, 4, 1)),
}
"""Tiles for an H200 at GPT-1's head width of 64, chosen from what the compiler says, since no GPU
was at hand to time them: the largest of those tried that keep all their sums in registers.

Half precision goes through the matrix units of a Hopper chip, which take 64 rows from 4 warps:
128 rows for 8, at 124 registers a thread, leave room for two programs on a processor, so that one
multiplies while the other exponentiates. The gradients of keys and values need two sums, hence
half as many rows. Float32 without TF32 is multiplied outside these units and float64 takes twice
the space, so that both stop at smaller tiles.
"""

WIDEST = 128
"""Largest head width: beyond it a tile no longer fits."""


@runtime_checkable
class Kernel(Protocol):
    """What Triton makes of a kernel: something to be given a grid, and then arguments."""

    def __getitem__(self, grid: tuple[int, int, int], /) -> Callable[..., object]:
        """Return the launcher of so many programs."""
        ...


def launch(  # noqa: PLR0913 - a kernel, and all that it is told
    kernel: Kernel,
    arguments: Iterable[object],
    tiles: Tiles,
    owned: Tensor,
    block: int,
    dropout: float,
) -> None:
    """Start one program for each tile of `block` rows of `owned`, on the device of `owned`.

    Args:
        kernel: One of the three.
        arguments: Its inputs and outputs.
        tiles: How it cuts the axes.
        owned: `[batch head time head_width]`, what the programs share out.
        block: Which of the tile's sizes cuts `owned`.
        dropout: Chance of a weight's being dropped.
    """
    batch, head, time, width = owned.shape
    with _ONE_BY_ONE, torch.cuda.device_of(owned):  # type: ignore[no-untyped-call]
        kernel[-(-time // block), head, batch](
            *arguments,
            scale=width**-0.5,
            dropout=dropout,
            width=width,
            padded=max(_NARROWEST, 1 << (width - 1).bit_length()),
            **tiles._asdict(),
        )


_ONE_BY_ONE = threading.Lock()
"""Triton's interpreter keeps the program that it is at in one place for all threads; of two models
that run at once each would have the other's. On a GPU a launch is over before it is waited for."""

_NARROWEST = 16
"""Fewest columns that Triton multiplies."""


def view(x: Tensor) -> tuple[object, ...]:
    """Return the `View` of where `x` `[batch head row column]` lies, whatever its strides."""
    from scratch_gpt.attention_triton_tiles import View

    return View(x, x.shape[2], *x.stride())


def inputs_of(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, seed: Tensor | None
) -> tuple[object, ...]:
    """Return the `Inputs` of all kernels; `mask` is `[batch time_k]`, the same for every head.

    It is widened to 32 bits: a byte beside float64 gives the matrix units a layout that Triton's
    compiler, 3.7.1, cannot lower.
    """
    from scratch_gpt.attention_triton_tiles import Inputs

    for_heads = None
    if mask is not None:
        for_heads = view(mask.to(torch.int32)[:, None, :, None].expand(-1, query.shape[1], -1, 1))
    drawn = None if seed is None else view(seed[:, None, None, None])
    return Inputs(view(query), view(key), view(value), for_heads, drawn)  # type: ignore[arg-type]


def beside(x: Tensor) -> Tensor:
    """Return an uninitialised `[batch head time head_width]`, laid out with heads side by side."""
    batch, head, time, width = x.shape
    laid_out = (batch, time, head, width)
    return torch.empty(laid_out, dtype=x.dtype, device=x.device).transpose(1, 2)


def per_row(query: Tensor) -> Tensor:
    """Return an uninitialised number for each row, `[batch head time_q 1]`, in the sums' type."""
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty((*query.shape[:-1], 1), dtype=exact, device=query.device)
