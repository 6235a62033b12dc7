"""The attention kernels that are timed, by name: ours and other implementations.

A kernel takes query, key and value `[batch head time head_width]` and returns the context. Each
entry makes its kernel for one shape, so that preparation is not timed. A kernel that this machine
or this torch lacks raises when it is made or first called.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.shapes import HEAD_WIDTH, HEADS, Shape
from parity.core import backends
from scratch_gpt.kernels.backends import KERNELS

Kernel = Callable[..., Tensor]
"""Called with query, key and value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionKernel:
    """One kernel, made for a shape and a device."""

    make: Callable[[Shape, torch.device], Kernel]
    score_matrices: int = 0  # full ones held at once, backward included
    computes: str = "attention"  # or only its two "products"; selects the oracle
    device: str | None = None  # the only kind of device that it runs on; None for any
    ours: bool = False  # other libraries' kernels may lack a dtype or a device


def ours(name: str) -> AttentionKernel:
    """Return one of our kernels."""
    return AttentionKernel(
        make=lambda _shape, _device: KERNELS[name],
        score_matrices=4 if name == "plain" else 0,
        device="cuda" if name == "triton" else None,
        ours=True,
    )


def compiled(name: str) -> AttentionKernel:
    """Return one of our kernels, compiled for the shape."""
    return AttentionKernel(
        make=lambda _shape, _device: _compiled(KERNELS[name]), score_matrices=4, ours=True
    )


def sdpa(backend: SDPBackend | None) -> AttentionKernel:
    """Return `scaled_dot_product_attention` with one backend, or the one that torch selects."""

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if backend is None:
            return scaled_dot_product_attention(query, key, value, is_causal=True)
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(query, key, value, is_causal=True)

    matrices = 4 if backend is SDPBackend.MATH else 0
    return AttentionKernel(make=lambda _shape, _device: kernel, score_matrices=matrices)


def huggingface(shape: Shape, device: torch.device) -> Kernel:
    """Return Hugging Face's eager attention, which takes transposed keys."""
    from transformers import OpenAIGPTConfig
    from transformers.models.openai.modeling_openai import Attention

    config = OpenAIGPTConfig(attn_pdrop=0.0, resid_pdrop=0.0)
    layer = Attention(HEADS * HEAD_WIDTH, shape.time, config, scale=True).eval()
    layer = layer.to(device, getattr(torch, shape.dtype))
    return lambda query, key, value: layer._attn(query, key.transpose(-2, -1), value)[0]  # noqa: SLF001


def flex(shape: Shape, device: torch.device) -> Kernel:
    """Return a compiled `flex_attention` with a prepared causal mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    mask = create_block_mask(causal, None, None, shape.time, shape.time, device=str(device))
    kernel = _compiled(flex_attention)
    return lambda query, key, value: kernel(query, key, value, block_mask=mask)


def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the two matrix products of attention over all pairs, without mask and softmax."""
    return query @ key.transpose(-2, -1) @ value


def _compiled(function: Kernel) -> Kernel:
    compiled: Kernel = torch.compile(function)
    return compiled


ATTENTION_KERNELS: dict[str, AttentionKernel] = {
    **{name: ours(name) for name in KERNELS},
    **{f"compiled-{name}": compiled(name) for name in KERNELS if name != "triton"},
    "huggingface": AttentionKernel(make=huggingface, score_matrices=6),
    "sdpa": sdpa(None),
    "sdpa-math": sdpa(SDPBackend.MATH),
    "sdpa-flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    "flex": AttentionKernel(make=flex),
    "products": AttentionKernel(
        make=lambda _shape, _device: products, score_matrices=2, computes="products"
    ),
}
"""Every kernel by name."""


def add_own(name: str, device: torch.device) -> None:
    """Add the user's kernel `FILE.py:NAME` under the name `kernel`, after one small call of it.

    Raises:
        CommandError: There is no such kernel; or it raises, or returns another shape or dtype.
    """
    found = backends.load_kernel(name)
    backends.call_once(name, found, device, torch.float32)
    ATTENTION_KERNELS[backends.KERNEL] = AttentionKernel(
        make=lambda _shape, _device: (
            lambda query, key, value: found(query, key, value, None, None, 0.0)
        )
    )
