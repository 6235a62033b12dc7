"""Blocks run by `torch.compile`: their formulas, fused by a machine instead of by hand."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scratch_gpt.transformer_block import TransformerBlock

Block = Callable[
    [
        TransformerBlock,
        Float[Tensor, "batch time width"],
        Bool[Tensor, "batch time"] | None,
    ],
    Float[Tensor, "batch time width"],
]
"""Called as `block(layer, x, mask)`."""


@functools.cache
def compiled_block() -> Block:
    """Return `TransformerBlock.forward`, compiled at its first call for each dtype and mode.

    One compilation serves every block of every model, because weights are its inputs. Nothing
    inside it can be watched.
    """
    compiled: Block = torch.compile(TransformerBlock.forward)
    return compiled


def why_not_compiled(device: torch.device) -> str | None:
    """Return why blocks cannot be compiled for a device; None where they can."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    compiler = os.environ.get("CXX", "")
    found = shutil.which(compiler) if compiler else shutil.which("g++") or shutil.which("clang++")
    return None if found else "there is no C++ compiler"
