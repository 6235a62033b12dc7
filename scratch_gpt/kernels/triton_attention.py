"""Causal attention in three Triton kernels, for a GPU.

The forward keeps a running softmax and the backward recomputes the weights, so neither holds a
matrix of scores in memory, and no tile entirely in the future is read. The backward needs the
context and one number a row. Inputs may have any strides. Context and gradients are laid out as
`[batch time head head_width]`, so that merging heads copies nothing.

The kernels have been run in Triton's interpreter and compiled for an H200. They have not been run
on a GPU here. Triton is an optional package; the first call of `attend` imports it.

Source: Dao 2023 (arXiv 2307.08691); `triton_kernels` has the formulas.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

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
from scratch_gpt.numerics import accumulate_dtype, empty_merged
from scratch_gpt.tap import Tap


class Tiles(NamedTuple):
    """The launch configuration of one kernel."""

    block_q: int
    """Queries per tile."""
    block_k: int
    """Keys per tile."""
    num_warps: int
    """Groups of 32 threads per program."""
    num_stages: int
    """Depth of the software pipeline: how many tiles ahead loads run."""


class Plan(NamedTuple):
    """The launch configurations of the three kernels for one dtype."""

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
"""Tiles for an H200 at GPT-1's head width of 64, chosen from the compiler's reports, because no GPU
was available to time them: the largest tried that keep all accumulators in registers.

Half precision uses the matrix units of a Hopper GPU, which take 64 rows from 4 warps. With 128
rows from 8 warps, at 124 registers a thread, two programs fit on a multiprocessor, so that one
multiplies while the other exponentiates. The gradients of keys and values need two accumulators,
hence half as many rows. Float32 without TF32 is multiplied outside these units, and float64 takes
twice the space, so both use smaller tiles.
"""

WIDEST = 128
"""Largest head width: a wider tile does not fit."""


@runtime_checkable
class Kernel(Protocol):
    """A Triton kernel, launched as `kernel[grid](*arguments)`."""

    def __getitem__(self, grid: tuple[int, int, int], /) -> Callable[..., object]:
        """Return the launcher for a grid of programs."""
        ...


def launch(  # noqa: PLR0913 - a kernel and its arguments
    kernel: Kernel,
    arguments: Iterable[object],
    tiles: Tiles,
    owned: Tensor,
    block: int,
    dropout: float,
) -> None:
    """Start one program for each tile of `block` rows of `owned`, on the device of `owned`.

    `owned` is `[batch head time head_width]`; `block` is `tiles.block_q` or `tiles.block_k`.
    """
    batch, head, time, width = owned.shape
    with _LAUNCH_LOCK, torch.cuda.device_of(owned):  # type: ignore[no-untyped-call]
        kernel[-(-time // block), head, batch](
            *arguments,
            scale=width**-0.5,
            dropout=dropout,
            width=width,
            padded=max(_NARROWEST, 1 << (width - 1).bit_length()),
            **tiles._asdict(),
        )


_LAUNCH_LOCK = threading.Lock()
"""Triton's interpreter keeps the current program id in one place for all threads, so two models
that run at once would share it. On a GPU a launch returns at once, and the lock costs nothing."""

_NARROWEST = 16
"""Triton multiplies at least this many columns."""


def view(x: Tensor) -> tuple[object, ...]:
    """Return the kernels' `View` of `x` `[batch head row column]`, of any strides."""
    from scratch_gpt.kernels.triton_kernels import View

    return View(x, x.shape[2], *x.stride())


def inputs_of(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, seed: Tensor | None
) -> tuple[object, ...]:
    """Return the kernels' `Inputs`; `mask` is `[batch time_k]`, the same for every head.

    The mask becomes int32: bytes together with float64 give a layout that Triton 3.7.1 cannot
    lower for the matrix units.
    """
    from scratch_gpt.kernels.triton_kernels import Inputs

    for_heads = None
    if mask is not None:
        for_heads = view(mask.to(torch.int32)[:, None, :, None].expand(-1, query.shape[1], -1, 1))
    seed_view = None if seed is None else view(seed[:, None, None, None])
    return Inputs(view(query), view(key), view(value), for_heads, seed_view)  # type: ignore[arg-type]


def empty_per_row(query: Tensor) -> Tensor:
    """Return an uninitialised `[batch head time_q 1]`, in the accumulators' dtype."""
    exact = accumulate_dtype(query.dtype)
    return torch.empty((*query.shape[:-1], 1), dtype=exact, device=query.device)


OLDEST = (3, 6)
"""The oldest Triton known to compile these kernels; 3.4 does not multiply float64."""

SEEDS = 2**62
"""Number of seeds; each head of each sequence adds its own number, still within int64."""


def attend(  # noqa: PLR0913 - the signature of an attention kernel
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,  # noqa: ARG001 - neither scores nor weights exist as tensors
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return the context of causal attention; calls no taps.

    A seed from the device's generator determines the dropout mask.

    Raises:
        RuntimeError: Triton or the GPU is missing; the message names it and the fix.
        ValueError: The shapes, dtypes or devices do not fit each other or the kernels.

    Source: Vaswani et al. 2017, section 3.2.1, by the algorithms of Dao 2023.
    """
    check_kernel_inputs(query, key, value, mask)
    _check_kinds(query, key, value)
    reason = unavailable(query.device)
    if reason is not None:
        raise RuntimeError(reason)
    dropping = dropout_probability > 0.0
    seed = torch.randint(SEEDS, (1,), device=query.device) if dropping else None
    result: Tensor = _Attend.apply(query, key, value, mask, seed, dropout_probability)  # type: ignore[no-untyped-call]
    return result


def unavailable(device: torch.device) -> str | None:
    """Return why the kernels do not run on tensors of `device`; None if they do."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'gpt1-parity[triton]', or pip install triton"
    import triton

    version = triton.__version__
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"the Triton kernels need Triton {wanted} or newer, this is {version}"
    from scratch_gpt.kernels.triton_kernels import forward

    interpreted = not isinstance(forward, triton.JITFunction)
    if device.type != "cuda" and not interpreted:
        return (
            f"the Triton kernels run on a GPU, the tensors are on {device}: use the backend fused, "
            "or set TRITON_INTERPRET=1 before Python starts to interpret them, slowly"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        return "the Triton kernels run on a GPU, and torch finds none: use the backend fused"
    return None


def _check_kinds(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Reject dtypes, devices and head widths that the kernels cannot multiply."""
    kinds = [(str(x.dtype), str(x.device)) for x in (query, key, value)]
    if len(set(kinds)) > 1:
        raise ValueError(f"query, key and value must have one dtype on one device, got {kinds}")
    if query.dtype not in PLANS:
        raise ValueError(
            f"the Triton kernels multiply {sorted(map(str, PLANS))}, got {query.dtype}"
        )
    if query.shape[-1] > WIDEST:
        raise ValueError(
            f"the Triton kernels take heads up to {WIDEST} wide, got {query.shape[-1]}: "
            "use the backend fused"
        )


class _Attend(Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - the kernel's arguments
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        seed: Tensor | None,
        dropout: float,
    ) -> Tensor:
        from scratch_gpt.kernels.triton_kernels import forward

        context, log_sum = empty_merged(query), empty_per_row(query)
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
        of_rows = view(upstream), view(log_sum), view(empty_per_row(query))
        gradients = empty_merged(query), empty_merged(key), empty_merged(value)
        to_query, to_key, to_value = map(view, gradients)
        # The first kernel writes the last of `of_rows`, and the second reads it.
        tiles = plan.query_gradient
        arguments = (inputs, view(context), *of_rows, to_query)
        launch(query_gradient, arguments, tiles, query, tiles.block_q, dropout)
        tiles = plan.key_gradient
        arguments = (inputs, *of_rows, to_key, to_value)
        launch(key_gradient, arguments, tiles, key, tiles.block_k, dropout)
        return (*gradients, None, None, None)
