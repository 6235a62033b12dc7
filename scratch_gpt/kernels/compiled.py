"""Blocks compiled by `torch.compile`, which fuses the plain formulas."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scratch_gpt.transformer_block import TransformerBlock

CompiledBlock = Callable[
    [TransformerBlock, Float[Tensor, "batch time width"], Bool[Tensor, "batch time"] | None],
    Float[Tensor, "batch time width"],
]
"""Called as `compiled(block, x, mask)`."""


@functools.cache
def compiled_block() -> CompiledBlock:
    """Return `TransformerBlock.forward`, compiled at its first call for each dtype and mode.

    Weights are inputs, so one compilation serves every block of every model. No tap reaches
    inside.
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
