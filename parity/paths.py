"""Which ways of running our model a check is about, and which of them this machine has."""

from collections.abc import Mapping

import torch

from parity.errors import EnvironmentUnfitError
from scratch_gpt.compiled import why_not_compiled
from scratch_gpt.paths import PATHS

DEFAULT = ("plain", "tiled")
"""The formulas, and the derived forms in the same operations: what shows the most taps."""


EAGER = tuple(name for name, path in PATHS.items() if path.core != "triton" and not path.compiled)
"""The paths that run everywhere, as they stand."""


def why_not(name: str, device: torch.device) -> str | None:
    """Return why a path cannot run on a device; None where it can."""
    path = PATHS[name]
    if path.core == "triton":
        from scratch_gpt.attention_triton import unavailable

        return unavailable(device)
    return why_not_compiled(device) if path.compiled else None


def chosen(attention: str, device: torch.device) -> tuple[list[str], Mapping[str, str]]:
    """Return the paths that `--attention` stands for, and those left out, each with the reason.

    Raises:
        EnvironmentUnfitError: The one that was asked for cannot run here.
    """
    if attention == "default":
        return list(DEFAULT), {}
    wanted = list(PATHS) if attention == "all" else [attention]
    absent = {name: why for name in wanted if (why := why_not(name, device)) is not None}
    if attention in absent:
        raise EnvironmentUnfitError(
            f"the path {attention} cannot run here: {absent[attention]}",
            where=f"--attention {attention}",
            fix=f"use {' or '.join(DEFAULT)}, or a machine that has what is missing",
        )
    return [name for name in wanted if name not in absent], absent
