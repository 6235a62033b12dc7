"""Detects degenerate models, on which a comparison proves nothing.

Uniform attention, equal positions, biases of 0 and gains of 1 hide faults: both sides compute the
same wrong numbers. Such a run is inconclusive.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from parity.core.tolerances import DEGENERATE_ATTENTION, DEGENERATE_COSINE

SETTLED = 32
"""Rows before this one have too few keys to measure the sharpness of attention."""


@dataclasses.dataclass(frozen=True)
class BlockHealth:
    """Health of one block.

    Attributes:
        largest_weight: Mean largest attention weight of rows with enough keys; None without any.
        times_uniform: The same over the weight of uniform attention.
        cosine: Mean cosine between the output's rows; None for a single row.
    """

    block: str
    largest_weight: float | None
    times_uniform: float | None
    cosine: float | None

    @property
    def dead(self) -> str | None:
        """Why this block is degenerate; None if it is healthy."""
        if self.cosine is not None and not self.cosine <= DEGENERATE_COSINE:
            return f"{self.block}: all positions are alike (mean cosine {self.cosine:.4f})"
        if self.times_uniform is not None and not self.times_uniform >= DEGENERATE_ATTENTION:
            return f"{self.block}: attention is uniform ({self.times_uniform:.2f} times)"
        return None


class HealthMonitor:
    """Measures every block from the oracle's taps."""

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask
        self._weights: dict[str, tuple[float, float] | None] = {}
        self._cosines: dict[str, float | None] = {}

    def look(self, tap: str, truth: Tensor) -> None:
        """Measure `truth` if it is one of the two tensors that are needed."""
        block = ".".join(tap.split(".")[:2])
        if tap.endswith(".attn.weights"):
            self._weights[block] = sharpness(truth, self._mask)
        elif tap.startswith("h.") and tap.endswith(".ln_2"):
            self._cosines[block] = mean_cosine(truth, self._mask)

    def blocks(self) -> list[BlockHealth]:
        """Return the health of every block, in order."""
        return [
            BlockHealth(block, largest, times, cosine)
            for block, cosine in self._cosines.items()
            for largest, times in [self._weights.get(block) or (None, None)]
        ]


def sharpness(weights: Tensor, mask: Tensor | None) -> tuple[float, float] | None:
    """Return the mean largest weight over settled rows, and that over the uniform weight.

    `weights` is `[batch head time time]`; `mask` is `[batch time]`, bool, or None without padding.
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
    """Return the names of constant tensors (biases of 0, gains of 1) and of empty ones."""
    return [n for n, t in state.items() if t.numel() == 0 or bool((t == t.flatten()[0]).all())]
