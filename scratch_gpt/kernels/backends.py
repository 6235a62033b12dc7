"""The table of backends: ways to run the model that compute the same function.

`plain` evaluates each formula of the paper and leaves the backward to autograd. It is the model
to read. `tiled` never forms the matrix of scores and uses `fused_ops`, which have derived
gradients. Both multiply float32 matrices by oneDNN on a CPU with AVX-512. `fused` also adds each
residual in the memory of a product. `triton` is `fused` with an attention kernel for GPUs.
`compiled` is `plain` with each block compiled by `torch.compile`.
"""

import functools
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scratch_gpt.attention import AttentionKernel, Backend, plain_attention
from scratch_gpt.embeddings import head
from scratch_gpt.kernels.fused_ops import fused_gelu, fused_head, fused_layer_norm, fused_linear
from scratch_gpt.kernels.tiled_attention import tiled_attention
from scratch_gpt.layer_norm import layer_norm
from scratch_gpt.mlp import gelu
from scratch_gpt.tap import Tap
from scratch_gpt.transformer_block import TransformerBlock


def triton_attention(  # noqa: PLR0913 - the signature of an attention kernel
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return the context from the GPU kernel; Triton is an optional package, imported here."""
    from scratch_gpt.kernels.triton_attention import attend

    return attend(query, key, value, mask, tap, dropout_probability)


CompiledBlock = Callable[
    [TransformerBlock, Float[Tensor, "batch time width"], Bool[Tensor, "batch time"] | None],
    Float[Tensor, "batch time width"],
]
"""Called as `compiled(block, x, mask)`."""


@functools.cache
def compiled_block() -> CompiledBlock:
    """Return `TransformerBlock.forward`, compiled at its first call for each dtype and mode.

    Weights are inputs, so one compilation serves every block of every model. It calls no taps and
    takes no cache.
    """
    compiled: CompiledBlock = torch.compile(TransformerBlock.forward)
    return compiled


def why_not_compiled(device: torch.device) -> str | None:
    """Return why blocks cannot be compiled for a device; None if they can."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    compiler = os.environ.get("CXX", "")
    found = shutil.which(compiler) if compiler else shutil.which("g++") or shutil.which("clang++")
    return None if found else "there is no C++ compiler"


KERNELS: dict[str, AttentionKernel] = {
    "plain": plain_attention,
    "tiled": tiled_attention,
    "triton": triton_attention,
}
"""Every attention kernel by name."""

_PLAIN = Backend(attention=plain_attention, gelu=gelu, layer_norm=layer_norm, head=head)
_TILED = Backend(
    attention=tiled_attention,
    gelu=fused_gelu,
    layer_norm=fused_layer_norm,
    head=fused_head,
    linear=fused_linear,
)

BACKENDS: dict[str, Backend] = {
    "plain": _PLAIN,
    "tiled": _TILED,
    "fused": replace(_TILED, fuse_residual=True),
    "compiled": replace(_PLAIN, head=fused_head, compiled=True),
    "triton": replace(_TILED, attention=triton_attention, fuse_residual=True),
}
"""Every backend by name."""


BUILT_IN = tuple(BACKENDS)
KERNEL_TAPS = ("scores", "weights")
_RESERVED = ("default", "all", "candidate")  # they mean something else where a backend is named


def register_attention(
    name: str,
    kernel: AttentionKernel,
    *,
    never_forms: Collection[str] = (),
    replace_registered: bool = False,
) -> None:
    """Make a backend of an attention kernel; everything else is computed as in `plain`.

    Every model then takes its name: `GPT.from_pretrained(..., backend=name)`, `with_backend(name)`,
    `parity.load_pretrained`. A recipe of a training run takes built-in backends alone.

    A call raises a `KernelError` unless the context has the query's shape, dtype and device.
    `python -m parity.check layerwise --kernel` checks the numbers, and that no input is written to.

    Args:
        name: The backend's name.
        kernel: Called as `kernel(query, key, value, mask, tap, dropout_probability)`; see
            `scratch_gpt.attention.AttentionKernel`.
        never_forms: The taps that it does not call, because it has no such tensor: `scores`,
            `weights` or both.
        replace_registered: Whether the name may be that of a kernel registered before. Models made
            with that one keep it.

    Raises:
        SettingError: The name or `never_forms` is not possible.
        KernelError: The kernel has another signature.
    """
    from scratch_gpt.errors import SettingError

    if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
        raise SettingError({"name": name}, f"a name such as my_attention, not {_RESERVED}")
    if name in BUILT_IN:
        raise SettingError({"name": name}, f"no built-in backend's name: {', '.join(BUILT_IN)}")
    if name in BACKENDS and not replace_registered:
        allowed = "a name that is not registered yet; or pass replace_registered=True"
        raise SettingError({"name": name}, allowed)
    if isinstance(never_forms, str) or not set(never_forms) <= {*KERNEL_TAPS}:
        raise SettingError({"never_forms": never_forms}, f"a tuple of names from {KERNEL_TAPS}")
    check_signature(kernel)
    BACKENDS[name] = replace(
        _PLAIN,
        attention=_checked(name, kernel),
        never_forms=tuple(tap for tap in KERNEL_TAPS if tap in never_forms),
    )


_ARGUMENTS = ("query", "key", "value", "mask", "tap", "dropout_probability")
_SIGNATURE = (
    "write def kernel(query, key, value, mask=None, tap=None, dropout_probability=0.0), as "
    "scratch_gpt/attention.py says"
)


def check_signature(kernel: object) -> None:
    """Require that a kernel can be called as one.

    Raises:
        KernelError: It cannot; the message names the parameters.
    """
    from scratch_gpt.errors import KernelError

    if problem := _signature_problem(kernel):
        raise KernelError(problem, where=place_of(kernel), fix=_SIGNATURE)


def _signature_problem(kernel: object) -> str:
    """Return why a kernel cannot be called as one; "" if it can."""
    if not callable(kernel):
        return f"the kernel is of type {type(kernel).__name__}, and cannot be called"
    try:
        parameters = list(inspect.signature(kernel).parameters.values())
    except ValueError:  # built in, or compiled: only a call shows it
        return ""
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    absent = () if takes_any else _ARGUMENTS[len(given) :]
    if absent:
        return f"the kernel has no parameter {', '.join(absent)}"
    beyond = [p for p in parameters if p not in given[: len(_ARGUMENTS)] and p.default is p.empty]
    beyond = [p for p in beyond if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return f"no caller gives the kernel's parameter {beyond[0].name}" if beyond else ""


def place_of(kernel: object) -> str:
    """Return `FILE:LINE` of a kernel's definition, or its type where it has no code."""
    inner = kernel
    while isinstance(inner, functools.partial) or hasattr(inner, "__wrapped__"):
        inner = inner.func if isinstance(inner, functools.partial) else inner.__wrapped__
    for function in (inner, getattr(type(inner), "forward", None), type(inner).__call__):
        code = getattr(function, "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
    return f"a kernel of type {type(kernel).__name__}"


def _checked(name: str, kernel: AttentionKernel) -> AttentionKernel:
    """Return a registered kernel that checks what each call returns."""

    def attention(  # noqa: PLR0913 - the signature of an attention kernel
        query: Float[Tensor, "batch head time_q head_width"],
        key: Float[Tensor, "batch head time_k head_width"],
        value: Float[Tensor, "batch head time_k head_width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap | None = None,
        dropout_probability: float = 0.0,
    ) -> Float[Tensor, "batch head time_q head_width"]:
        """Return the kernel's context, of the query's shape, dtype and device."""
        context = kernel(query, key, value, mask, tap, dropout_probability)
        if problem := result_problem(context, query):
            from scratch_gpt.errors import KernelError

            raise KernelError(
                f"the kernel {name} {problem}",
                where=place_of(kernel),
                fix="return a new tensor like query",
            )
        return context

    return attention


def result_problem(context: object, query: Tensor) -> str:
    """Return in what a kernel's result differs from a tensor like `query`; "" if in nothing."""
    if not isinstance(context, Tensor):
        return f"returns {'None' if context is None else type(context).__name__}, not a tensor"
    if context.shape != query.shape:
        return (
            f"returns the shape {list(context.shape)}, expected that of query, {list(query.shape)}"
        )
    if (context.dtype, context.device) != (query.dtype, query.device):
        return (
            f"returns {context.dtype} on {context.device}, expected {query.dtype} on {query.device}"
        )
    return ""


def backend_named(name: str) -> Backend:
    """Return a backend.

    Raises:
        ValueError: No backend has that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)}, got {name!r}")
    return BACKENDS[name]
