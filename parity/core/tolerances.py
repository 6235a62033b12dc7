"""Every bound, with its measurement; only the published numbers have theirs in `reference/goldens`.

Two rules are checked whenever bounds are made, and bounds that break them are rejected:

1. The smallest injected fault that is no rounding is at least `FAULT_MARGIN` times the float64
   bound. A rounding to float32 inside a float64 pass is at least 10 times the bound.
2. Right code stays under two thirds of the quality bound.
"""

import dataclasses
import difflib
import math

import torch

from parity.errors import InconclusiveError, UsageError
from scratch_gpt.errors import quote


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """A dtype's rounding, and how much worse than the reference's error ours may be.

    Attributes:
        unit: Its unit roundoff, half the gap between 1 and the next number.
        quality: Our RMS error may be this many times the reference's own.
        measured: Largest ratio of right code at the released size; see `docs/tolerances.md`.
        margin: How far below the bound that must be.
    """

    dtype: torch.dtype
    unit: float
    quality: float
    measured: float
    margin: float


PRECISIONS = {
    "float32": Precision(
        dtype=torch.float32, unit=2.0**-24, quality=4.0, measured=2.14, margin=1.5
    ),
    "bfloat16": Precision(
        dtype=torch.bfloat16, unit=2.0**-8, quality=3.0, measured=1.39, margin=1.5
    ),
    "float16": Precision(
        dtype=torch.float16, unit=2.0**-11, quality=3.0, measured=1.96, margin=1.5
    ),
}
"""The dtypes whose rounding is judged, by name."""

MEASURED_FLOAT64_NOISE = 2.8e-11
"""Largest float64 difference of right code over the reference's RMS, full size: 6e-12 at a tap at
time 512, 2.8e-11 in the gradient of the token embedding, the sum of two paths, at time 64, and
2.1e-11 in a second moment after steps of two rows of 64."""

MEASURED_FLOAT64_OPERATION_NOISE = 4.5e-14
"""The same of one operation on equal inputs: 1.5e-14 at the small size (three seeds, batches 1 to
3, times 1 to 129) and 4.5e-14 at the released width (two seeds, to 1 x 512 and 3 x 129), both at
the attention weights."""

MEASURED_SMALLEST_FAULT = 1e-6
"""No injected fault but a rounding makes a smaller float64 difference at its own tap."""

FAULT_MARGIN = 100.0
"""How many times the float64 bound the smallest injected fault must be."""

PEAK_GUARD = 10.0
"""Our largest error may be this many times the reference's: one bad element among a million
moves no mean."""

SMALL_TENSOR = 20_000
"""Tensors of fewer elements have the reference's error taken from the worst tensor of the same
kind, in any block and, in training, at any step: rounding reaches all elements of one tensor from a
few places, so that even thousands of elements are a small sample of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of one run.

    Attributes:
        float64: In float64, the largest difference at a tap over the reference's RMS.
        float64_per_op: The same of one operation, both sides on equal inputs. The constant
            sqrt(2/pi) with 8 digits makes 2e-10.
        quality: In the dtype judged, our RMS error over the reference's own.
        peak: The same for the largest error.

    Raises:
        InconclusiveError: A bound that right code would break, or that a fault would pass.
    """

    float64: float = 1e-9
    float64_per_op: float = 2e-13
    quality: float = 4.0
    peak: float = PEAK_GUARD

    def check(self, precision: Precision | None) -> None:
        """Reject bounds that decide nothing."""
        ceiling = MEASURED_SMALLEST_FAULT / FAULT_MARGIN
        _within("float64", self.float64, MEASURED_FLOAT64_NOISE, ceiling)
        noise = MEASURED_FLOAT64_OPERATION_NOISE
        _within("float64 per-op", self.float64_per_op, noise, self.float64 / FAULT_MARGIN)
        if precision is not None:
            floor = precision.measured * precision.margin
            _within("quality", self.quality, floor, precision.quality)
            _within("peak", self.peak, floor, PEAK_GUARD)


def _within(name: str, bound: float, low: float, high: float) -> None:
    # Written so that NaN is refused.
    if not (math.isfinite(bound) and low <= bound <= high):
        raise InconclusiveError(
            f"the {name} bound {bound!r} cannot tell right from wrong",
            where=f"it must lie in [{low:g}, {high:g}]",
            fix="use the bounds of parity.core.tolerances, or measure again and change them there",
        )


def precision_of(dtype: str) -> Precision | None:
    """Return how the rounding of a dtype is judged; None for `float64`, whose rounding is not.

    Raises:
        UsageError: There is no such dtype. Else a misspelt one would pass without its check.
    """
    known = (*PRECISIONS, "float64")
    if dtype not in known:
        near = difflib.get_close_matches(str(dtype), known, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no dtype {quote(dtype)} whose rounding can be checked",
            where="dtype",
            fix=f"{guess}use {', '.join(known)}",
        )
    return PRECISIONS.get(dtype)


def bounds_for(dtype: str) -> Bounds:
    """Return the bounds under which models of this dtype are judged."""
    precision = precision_of(dtype)
    return Bounds() if precision is None else Bounds(quality=precision.quality)


DEGENERATE_COSINE = 0.98
"""Mean cosine between a block's output rows above which all positions are alike: the
surrogate stays below 0.75, independent draws at the released scale reach 1.00 at block 6."""

DEGENERATE_ATTENTION = 2.0
"""Mean largest attention weight, over the uniform one, below which attention is uniform: uniform
attention has 1, the surrogate more than 50 at time 512."""


FEWEST_PREDICTIONS = 32
"""Predicted tokens below which the rounding of gradients is not judged, only float64.

All gradients of one token's loss carry the rounding of that token's probability: few tokens are few
numbers, however large the tensors, and Hugging Face's may by luck hardly be off. Largest ratio of
right code in float32 at the small size, with 1, 2, 4, 16, 72 and 127 predictions: 6.4, 9.0, 3.9,
3.7, 2.5 and 1.6."""

SLOPE_BOUND = 1e-6
"""How far the slope of the oracle's loss may be from our gradient's inner product with the
direction, over what that inner product usually is.

The step is 3e-7 of each tensor's RMS, so that both errors of the slope stay well below: what the
third derivative adds was 1.0e-6 at a step of 1e-6 in the worst of 18 small inputs, so 9e-8 here,
and 3e-8 at a step of 1e-5 at full size, so 3e-11; rounding was 3e-8 in the smallest direction at a
step of 5e-7, and 5e-9 at this one at full size and time 512. The smallest backward fault, the
derivative of the erf GELU in one block, moves the slope in all parameters by 1.1e-5."""
