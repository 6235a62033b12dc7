"""The Triton attention core: causal attention in three kernels of our own, for a GPU.

The forward keeps a running softmax and the backward makes the weights again, so that neither
holds a matrix of scores in memory, and no tile wholly in the future is read. What is kept for the
way back is the context and one number a row. Inputs may lie in memory as they like; context and
gradients are laid out as `[batch time head head_width]`, so that merging heads is no copy.

An accelerator beside the model, for where Triton and a GPU are. It has been run in Triton's
interpreter and compiled for an H200, and has not been run on a GPU here. Triton is imported when
the core is called, never before.

Source: Dao 2023 (arXiv 2307.08691); the formulas stand beside the kernels.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.causal_mask import check_kernel_inputs
from scratch_gpt.tap import Tap

# How the Triton core's kernels are started: on which tiles, with how many hands.
#
# Triton is imported by the first launch.


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
    from scratch_gpt.kernels.triton_kernels import View

    return View(x, x.shape[2], *x.stride())


def inputs_of(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, seed: Tensor | None
) -> tuple[object, ...]:
    """Return the `Inputs` of all kernels; `mask` is `[batch time_k]`, the same for every head.

    It is widened to 32 bits: a byte beside float64 gives the matrix units a layout that Triton's
    compiler, 3.7.1, cannot lower.
    """
    from scratch_gpt.kernels.triton_kernels import Inputs

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


# mypy: disable-error-code="import-untyped, import-not-found"


OLDEST = (3, 6)
"""The first Triton that was seen to compile these kernels: 3.4 multiplies no float64."""

SEEDS = 2**62
"""How many seeds there are. Each head of each sequence adds a number of its own, within int64."""


def attend(  # noqa: PLR0913 - the signature of a core
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,  # noqa: ARG001 - neither scores nor weights are ever formed whole
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return causal attention's context, from a kernel.

    Shows no taps: `scores` and `weights` never exist as tensors. What dropout drops is decided by
    a seed drawn from the device's generator.

    Raises:
        RuntimeError: Triton or the GPU is missing; says which, and what to do.
        ValueError: The shapes, dtypes or devices do not fit each other, or the kernels.

    Source: Vaswani et al. 2017, section 3.2.1, by the algorithms of Dao 2023.
    """
    check_kernel_inputs(query, key, value, mask)
    _check_kinds(query, key, value)
    reason = unavailable(query.device)
    if reason is not None:
        raise RuntimeError(reason)
    seed = None
    if dropout_probability > 0.0:
        seed = torch.randint(SEEDS, (1,), device=query.device)
    result: Tensor = _Attend.apply(query, key, value, mask, seed, dropout_probability)  # type: ignore[no-untyped-call]
    return result


def available(device: torch.device) -> bool:
    """Return whether this core runs on tensors of `device`."""
    return unavailable(device) is None


def unavailable(device: torch.device) -> str | None:
    """Return why this core does not run on tensors of `device`; None where it does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'gpt1-parity[triton]', or pip install triton"
    import triton

    version = triton.__version__
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"the Triton core needs Triton {wanted} or newer, this is {version}"
    from scratch_gpt.kernels.triton_kernels import forward

    interpreted = not isinstance(forward, triton.JITFunction)
    if device.type != "cuda" and not interpreted:
        return (
            f"the Triton core runs on a GPU, and the tensors are on {device}: take the tiled core, "
            "or set TRITON_INTERPRET=1 before Python starts to try it slowly"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        return "the Triton core runs on a GPU, and torch finds none: take the tiled core"
    return None


def _check_kinds(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse what the kernels cannot multiply."""
    kinds = [(str(x.dtype), str(x.device)) for x in (query, key, value)]
    if len(set(kinds)) > 1:
        message = f"query, key and value must have one dtype on one device, got {kinds}"
        raise ValueError(message)
    if query.dtype not in PLANS:
        message = f"the Triton core multiplies {sorted(map(str, PLANS))}, got {query.dtype}"
        raise ValueError(message)
    if query.shape[-1] > WIDEST:
        message = (
            f"the Triton core takes heads up to {WIDEST} wide, got {query.shape[-1]}: "
            "take the tiled core"
        )
        raise ValueError(message)


class _Attend(Function):
    """The core with its derivative written out."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the core's arguments
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        seed: Tensor | None,
        dropout: float,
    ) -> Tensor:
        from scratch_gpt.kernels.triton_kernels import forward

        context, log_sum = beside(query), per_row(query)
        tiles = PLANS[query.dtype].forward
        arguments = (inputs_of(query, key, value, mask, seed), view(context), view(log_sum))
        launch(forward, arguments, tiles, query, tiles.block_q, dropout)
        ctx.save_for_backward(query, key, value, mask, seed, context, log_sum)  # type: ignore[arg-type]
        ctx.dropout = dropout  # type: ignore[attr-defined]
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from scratch_gpt.kernels.triton_kernels import key_gradient, query_gradient

        *tensors, context, log_sum = ctx.saved_tensors  # type: ignore[attr-defined]
        query, key, value = tensors[:3]
        dropout: float = ctx.dropout  # type: ignore[attr-defined]
        inputs, plan = inputs_of(*tensors), PLANS[query.dtype]
        of_rows = view(upstream), view(log_sum), view(per_row(query))
        gradients = beside(query), beside(key), beside(value)
        to_query, to_key, to_value = map(view, gradients)
        # The second kernel reads what the first leaves in the last of `of_rows`.
        tiles = plan.query_gradient
        arguments = (inputs, view(context), *of_rows, to_query)
        launch(query_gradient, arguments, tiles, query, tiles.block_q, dropout)
        tiles = plan.key_gradient
        arguments = (inputs, *of_rows, to_key, to_value)
        launch(key_gradient, arguments, tiles, key, tiles.block_k, dropout)
        return (*gradients, None, None, None)
