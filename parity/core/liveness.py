"""Is the model alive? A dead one agrees with anything.

A model whose attention looks everywhere alike, whose positions all say the same, or whose biases
are 0 and gains 1, hides the faults that sit there: both sides compute the same wrong thing. Such
a run has no verdict.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from parity.core.tolerances import DEAD_ATTENTION, DEAD_COSINE

SETTLED = 32
"""Rows before this one see too few keys to say whether attention is sharp."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockHealth:
    """How alive one block is.

    Attributes:
        block: Its name.
        largest_weight: Mean over settled rows of the largest attention weight; None without any.
        times_uniform: The same over what uniform attention would give.
        cosine: Mean cosine between the output's rows; None for a single row.
    """

    block: str
    largest_weight: float | None
    times_uniform: float | None
    cosine: float | None

    @property
    def dead(self) -> str | None:
        """Why this block counts as dead; None if it is alive."""
        if self.cosine is not None and not self.cosine <= DEAD_COSINE:
            return f"{self.block}: all positions are alike (mean cosine {self.cosine:.4f})"
        if self.times_uniform is not None and not self.times_uniform >= DEAD_ATTENTION:
            return f"{self.block}: attention is uniform ({self.times_uniform:.2f} times)"
        return None


class HealthMonitor:
    """Collects both signs from the oracle's taps as they go by."""

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask
        self._weights: dict[str, tuple[float, float] | None] = {}
        self._cosines: dict[str, float | None] = {}

    def look(self, tap: str, truth: Tensor) -> None:
        """Take note of `truth` if it is one of the two tensors that tell."""
        block = ".".join(tap.split(".")[:2])
        if tap.endswith(".attn.weights"):
            self._weights[block] = sharpness(truth, self._mask)
        elif tap.startswith("h.") and tap.endswith(".ln_2"):
            self._cosines[block] = mean_cosine(truth, self._mask)

    def blocks(self) -> list[BlockHealth]:
        """Return what was seen, a block each, in order."""
        return [
            BlockHealth(
                block=block,
                largest_weight=None if (seen := self._weights.get(block)) is None else seen[0],
                times_uniform=None if seen is None else seen[1],
                cosine=cosine,
            )
            for block, cosine in self._cosines.items()
        ]


def sharpness(weights: Tensor, mask: Tensor | None) -> tuple[float, float] | None:
    """Return the mean largest weight over settled rows, and that over the uniform weight.

    Args:
        weights: `[batch head time time]`.
        mask: `[batch time]`, bool; None without padding.
    """
    time = weights.shape[-1]
    if time <= SETTLED + 1:
        return None
    largest = weights[:, :, SETTLED:].amax(-1).mean(1)
    keys = torch.ones(weights.shape[0], time) if mask is None else mask.double()
    seen = keys.cumsum(-1)[:, SETTLED:]
    real = keys[:, SETTLED:].bool()
    if not bool(real.any()):
        return None
    return float(largest[real].mean()), float((largest * seen)[real].mean())


def mean_cosine(rows: Tensor, mask: Tensor | None) -> float | None:
    """Return the mean cosine between different rows of `[batch time width]`, padding left out."""
    flat = rows.flatten(0, 1) if mask is None else rows[mask]
    count = len(flat)
    if count <= 1:
        return None
    total = (flat / flat.norm(dim=-1, keepdim=True)).sum(0)
    return float((total @ total - count) / (count * (count - 1)))


def constant_tensors(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold one value throughout: biases of 0, gains of 1.

    An empty one counts: it tells no fault from another either.
    """
    return [n for n, t in state.items() if t.numel() == 0 or bool((t == t.flatten()[0]).all())]
