"""The device that a command line asks for."""

import torch

from scratch_gpt.command.errors import EnvironmentUnfitError


def device_named(name: str) -> str:
    """Return the kind of device meant: `"auto"` is a GPU where there is one.

    Raises:
        EnvironmentUnfitError: It is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnfitError(
            "there is no CUDA device", where="--device cuda", fix="use --device cpu"
        )
    return name
