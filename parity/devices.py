"""Where models run: what `--device` stands for, and whether it can hold a verdict."""

import torch

from parity.errors import EnvironmentUnfitError


def resolve(name: str) -> torch.device:
    """Return the device that `cpu`, `cuda` or `auto` stands for.

    Raises:
        EnvironmentUnfitError: There is no such device, or it has no float64.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise EnvironmentUnfitError(
            "there is no CUDA device here",
            where="--device cuda",
            fix="use --device cpu, or install a CUDA build of torch on a machine with a GPU",
        )
    device = torch.device("cuda" if has_cuda and name in ("auto", "cuda") else "cpu")
    check_float64(device)
    return device


def check_float64(device: torch.device) -> None:
    """Require float64 on the device: identity is judged in it.

    Raises:
        EnvironmentUnfitError: A float64 tensor cannot be made there.
    """
    try:
        torch.ones(1, dtype=torch.float64, device=device).add_(1.0)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise EnvironmentUnfitError(
            f"{device} has no float64: {error}",
            where=f"device {device}",
            fix="use --device cpu",
        ) from error
