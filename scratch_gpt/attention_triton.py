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
# mypy: disable-error-code="import-untyped, import-not-found"

import importlib.util

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.attention_triton_launch import (
    PLANS,
    WIDEST,
    beside,
    inputs_of,
    launch,
    per_row,
    view,
)
from scratch_gpt.tap import Tap
from scratch_gpt.visibility import check_core_inputs

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
    check_core_inputs(query, key, value, mask)
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
    from scratch_gpt.attention_triton_forward import forward

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
        from scratch_gpt.attention_triton_forward import forward

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
        from scratch_gpt.attention_triton_backward import key_gradient, query_gradient

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
