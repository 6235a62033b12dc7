"""The kernels that are timed, by name: ours, and everyone else's attention.

`core(query, key, value)` takes three `[batch head time head_width]` and returns the context.
Each entry makes its kernel for one shape, so that what is prepared once is not timed; one that
this machine or this torch does not have says so when it is made or first called.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.shapes import HEAD_WIDTH, HEADS, Shape
from scratch_gpt.kernels.backends import KERNELS

Kernel = Callable[..., Tensor]
"""Is called with query, key and value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One kernel.

    Attributes:
        make: Returns it for a shape and a device.
        squares: How many whole matrices of scores it holds at once; backward as well.
        truth: What it computes: `attention`, or the two `products` of it alone.
        device: The only kind of device it runs on; None where it runs on any.
        ours: Whether a failure is this project's: others' kernels may lack a dtype or a device.
    """

    make: Callable[[Shape, torch.device], Kernel]
    squares: int = 0
    truth: str = "backend"
    device: str | None = None
    ours: bool = False


def ours(name: str) -> Subject:
    """Return a core of ours."""
    device = "cuda" if name == "triton" else None
    squares = _SQUARES.get(name, 0)
    return Subject(
        make=lambda _shape, _device: KERNELS[name], squares=squares, device=device, ours=True
    )


def compiled(name: str) -> Subject:
    """Return a core of ours, compiled for the shape."""
    return Subject(make=lambda _shape, _device: _compiled(KERNELS[name]), squares=4, ours=True)


def sdpa(backend: SDPBackend | None) -> Subject:
    """Return PyTorch's attention, by one backend or by its own choice."""

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if backend is None:
            return scaled_dot_product_attention(query, key, value, is_causal=True)
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(query, key, value, is_causal=True)

    squares = 4 if backend is SDPBackend.MATH else 0
    return Subject(make=lambda _shape, _device: kernel, squares=squares)


def huggingface(shape: Shape, device: torch.device) -> Kernel:
    """Return Hugging Face's eager core, which takes its keys transposed."""
    from transformers import OpenAIGPTConfig
    from transformers.models.openai.modeling_openai import Attention

    config = OpenAIGPTConfig(attn_pdrop=0.0, resid_pdrop=0.0)
    layer = Attention(HEADS * HEAD_WIDTH, shape.time, config, scale=True).eval()
    layer = layer.to(device, getattr(torch, shape.dtype))
    return lambda query, key, value: layer._attn(query, key.transpose(-2, -1), value)[0]  # noqa: SLF001


def flex(shape: Shape, device: torch.device) -> Kernel:
    """Return PyTorch's flex_attention, compiled, with the causal mask laid out beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    mask = create_block_mask(causal, None, None, shape.time, shape.time, device=str(device))
    kernel = _compiled(flex_attention)
    return lambda query, key, value: kernel(query, key, value, block_mask=mask)


def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the two matrix products of attention, over all pairs, and nothing else."""
    return query @ key.transpose(-2, -1) @ value


def _compiled(function: Kernel) -> Kernel:
    """Return a function compiled; torch keeps what it compiled with the function's code."""
    compiled: Kernel = torch.compile(function)
    return compiled


_SQUARES = {"plain": 4}

SUBJECTS: dict[str, Subject] = {
    **{name: ours(name) for name in KERNELS},
    **{f"compiled-{name}": compiled(name) for name in KERNELS if name != "triton"},
    "huggingface": Subject(make=huggingface, squares=6),
    "sdpa": sdpa(None),
    "sdpa-math": sdpa(SDPBackend.MATH),
    "sdpa-flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    "flex": Subject(make=flex),
    "products": Subject(make=lambda _shape, _device: products, squares=2, truth="products"),
}
"""Every kernel by name."""
