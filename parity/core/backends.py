"""The backends and devices of a check, and whether this machine has them."""

from collections.abc import Mapping

import torch

from parity.errors import EnvironmentUnfitError
from scratch_gpt.kernels.backends import BACKENDS, why_not_compiled

DEFAULT = ("plain", "fused")
"""The formulas, and the fast default of the model, which contains the tiled kernel."""

EAGER = tuple(name for name, one in BACKENDS.items() if name != "triton" and not one.compiled)
"""The backends that run on every machine."""


def why_unavailable(name: str, device: torch.device) -> str | None:
    """Return why a backend cannot run on a device; None where it can."""
    if name == "triton":
        from scratch_gpt.kernels.triton_attention import unavailable

        return unavailable(device)
    return why_not_compiled(device) if BACKENDS[name].compiled else None


def chosen_backends(backend: str, device: torch.device) -> tuple[list[str], Mapping[str, str]]:
    """Return the backends that `--backend` selects, and those left out, each with the reason.

    Raises:
        EnvironmentUnfitError: The requested backend cannot run here.
    """
    if backend == "default":
        return list(DEFAULT), {}
    wanted = list(BACKENDS) if backend == "all" else [backend]
    absent = {name: why for name in wanted if (why := why_unavailable(name, device)) is not None}
    if backend in absent:
        raise EnvironmentUnfitError(
            f"the backend {backend} cannot run here: {absent[backend]}",
            where=f"--backend {backend}",
            fix=f"use {' or '.join(DEFAULT)}, or a machine that has what is missing",
        )
    return [name for name in wanted if name not in absent], absent


def resolve_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda` or `auto`.

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
    """Require float64 on the device: mode float64 needs it.

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
