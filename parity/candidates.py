"""Somebody's model, named on the command line.

`FILE.py` is run and its function `build` is used; `MODULE:NAME` is imported. Either is called as
`build(config, weights)` with a `GPTConfig` and a dictionary of our tensor names to float32
tensors of its own, and returns a module that is called as ours is.
"""

import contextlib
import importlib
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parity.errors import InputRefusedError, UsageError
from parity.weights import Weights
from scratch_gpt.config import GPTConfig


def build_candidate(name: str, weights: Weights) -> nn.Module:
    """Return the candidate, built from a copy of the weights, in evaluation mode.

    Args:
        name: `FILE.py` or `MODULE:NAME`.
        weights: What it is given.

    Raises:
        UsageError: There is no such function.
        InputRefusedError: The file or the function raised, or did not return a module.
    """
    state = {key: torch.from_numpy(array.copy()) for key, array in weights.tensors.items()}
    with _beside(name):
        build = _function(name)
        with _running(name, "it is called as build(config, weights)"):
            model = build(GPTConfig.from_huggingface(weights.config), state)
    if not isinstance(model, nn.Module):
        raise InputRefusedError(
            f"the candidate's function returned {type(model).__name__}, not a torch module",
            where=f"--candidate {name}",
            fix="return a torch.nn.Module called as model(ids, positions, mask, tap=tap)",
        )
    model.eval()  # somebody's own may forget to return the model
    return model


def _function(name: str) -> Callable[..., Any]:
    """Return the function that builds the candidate."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise _absent(name, "there is no such file")
        with _running(name, "run it alone to see what is wrong"):
            found = runpy.run_path(name).get("build")
    else:
        found = _named(name)
    if not callable(found):
        what = "build" if name.endswith(".py") else name.partition(":")[2]
        kind = "it has none" if found is None else f"it is of type {type(found).__name__}"
        raise _absent(name, f"{what} is no function: {kind}")
    return found  # type: ignore[no-any-return]


def _named(name: str) -> object:
    """Return what `MODULE:NAME` stands for; None where the module does not have it."""
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise _absent(name, "it is neither FILE.py nor MODULE:NAME")
    with _running(name, "import it alone to see what is wrong"):
        try:
            return getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # it exists, and lacks something itself
            raise _absent(name, f"there is no module {error.name}") from error


def _absent(name: str, why: str) -> UsageError:
    return UsageError(
        f"no candidate there: {why}",
        where=f"--candidate {name}",
        fix="name a FILE.py with a function build(config, weights), or MODULE:NAME",
    )


@contextlib.contextmanager
def _beside(name: str) -> Iterator[None]:
    """Let a file import what lies beside it, as it could if Python ran it."""
    before = list(sys.path)
    if name.endswith(".py"):
        sys.path.insert(0, str(Path(name).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _running(name: str, fix: str) -> Iterator[None]:
    """Turn whatever somebody's code raises, an exit too, into a refusal that says where."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == name]
        raise InputRefusedError(
            f"the candidate raised {type(error).__name__}: {error}",
            where=f"--candidate {name}" + (f", line {lines[-1]}" if lines else ""),
            fix=f"{fix}; --debug shows the traceback",
        ) from error
