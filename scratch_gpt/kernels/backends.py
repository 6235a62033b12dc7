"""The table of backends: ways to run the model that compute the same function.

`plain` evaluates each formula of the paper and leaves the backward to autograd. It is the model
to read. `tiled` never forms the matrix of scores and uses `fused_ops`, which have derived
gradients. `fused` also adds each residual within a matrix product. `triton` is `fused` with an
attention kernel for GPUs. `compiled` is `plain` with each block compiled by `torch.compile`.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scratch_gpt.attention import AttentionKernel, Backend, plain_attention
from scratch_gpt.embeddings import head
from scratch_gpt.kernels.fused_ops import fused_gelu, fused_head, fused_layer_norm
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
    attention=tiled_attention, gelu=fused_gelu, layer_norm=fused_layer_norm, head=fused_head
)

BACKENDS: dict[str, Backend] = {
    "plain": _PLAIN,
    "tiled": _TILED,
    "fused": replace(_TILED, fuse_residual=True),
    "compiled": replace(_PLAIN, head=fused_head, compiled=True),
    "triton": replace(_TILED, attention=triton_attention, fuse_residual=True),
}
"""Every backend by name."""


def backend_named(name: str) -> Backend:
    """Return a backend.

    Raises:
        ValueError: No backend has that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)}, got {name!r}")
    return BACKENDS[name]
