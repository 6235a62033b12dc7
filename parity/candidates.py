"""Somebody's model, named on the command line.

`FILE.py` is run and its function `build` is used; `MODULE:NAME` is imported. Either is called as
`build(config, weights)` with a `GPTConfig` and a dictionary of our tensor names to float32
tensors of its own, and returns a module that is called as ours is.
"""

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parity.errors import InputRefusedError, UsageError
from parity.sources import Weights
from scratch_gpt.config import GPTConfig


def build_candidate(name: str, weights: Weights) -> nn.Module:
    """Return the candidate, built from a copy of the weights, in evaluation mode.

    Args:
        name: `FILE.py` or `MODULE:NAME`.
        weights: What it is given.

    Raises:
        UsageError: There is no such function.
        InputRefusedError: The function raised, or did not return a module.
    """
    build = _function(name)
    state = {key: torch.from_numpy(array.copy()) for key, array in weights.tensors.items()}
    try:
        model = build(GPTConfig.from_huggingface(weights.config), state)
    except Exception as error:
        raise InputRefusedError(
            f"the candidate's function raised {type(error).__name__}: {error}",
            where=f"--candidate {name}",
            fix="it is called as build(config, weights); --debug shows the traceback",
        ) from error
    if not isinstance(model, nn.Module):
        raise InputRefusedError(
            f"the candidate's function returned {type(model).__name__}, not a torch module",
            where=f"--candidate {name}",
            fix="return a torch.nn.Module called as model(ids, positions, mask, tap=tap)",
        )
    return model.eval()


def _function(name: str) -> Callable[..., Any]:
    try:
        if name.endswith(".py"):
            found = runpy.run_path(str(Path(name)))["build"]
        else:
            module, _, attribute = name.partition(":")
            found = getattr(importlib.import_module(module), attribute)
    except (OSError, ImportError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(
            f"no candidate there: {type(error).__name__}: {error}",
            where=f"--candidate {name}",
            fix="name a FILE.py with a function build, or MODULE:NAME",
        ) from error
    if not callable(found):
        raise UsageError(
            f"{name} is a {type(found).__name__} and cannot be called",
            where=f"--candidate {name}",
            fix="name a function that is called as build(config, weights)",
        )
    return found  # type: ignore[no-any-return]
