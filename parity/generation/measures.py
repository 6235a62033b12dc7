"""From what two sides made to a row of a report: logits by the gates, ids one by one."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parity.compare import Difference, Status, difference
from parity.results import Mode, Row
from parity.tolerances import SMALL_TENSOR, Bounds, Precision

PATH = "fused"
"""How a decoder runs our model, whatever the model's own path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """The reference's own error to the truth, over the truth's RMS.

    Attributes:
        rms: Of the root mean square.
        peak: Of the largest difference, over the truth's largest value.
    """

    rms: float = 0.0
    peak: float = 0.0

    def at_least(self, other: "Noise") -> "Noise":
        """Return the larger of both, each by itself."""
        return Noise(rms=max(self.rms, other.rms), peak=max(self.peak, other.peak))


def noise_of(tensor: Tensor, truth: Tensor) -> Noise:
    """Return a reference's error."""
    seen = difference(tensor, truth, dtype=tensor.dtype)
    return Noise(rms=_finite(seen.relative_rms) or 0.0, peak=_finite(seen.peak_ratio) or 0.0)


def identity_row(tap: str, ours: Tensor, other: Tensor, witness: str, bounds: Bounds) -> Row:
    """Return the row of two float64 tensors that must agree to rounding.

    Args:
        tap: Name of what is compared.
        ours: Two axes or more, float64.
        other: The witness's.
        witness: Its name.
        bounds: Of the run.
    """
    seen = difference(ours, other, dtype=torch.float64)
    error = seen.relative_largest
    holds = error <= bounds.identity
    return Row(
        **_common(tap, seen),
        dtype="float64",
        mode=Mode.IDENTITY,
        witness=witness,
        status=_status(seen, holds=holds),
        error_ours=_finite(error),
        bound=bounds.identity,
        minimum_tolerance=_finite(error),
        detail=seen.detail or ("" if holds else f"off by {error:.2g} of the {witness}'s RMS"),
    )


def quality_row(  # noqa: PLR0913 - ours, the truth, the reference's error and the gate
    tap: str, ours: Tensor, truth: Tensor, noise: Noise, precision: Precision, bounds: Bounds
) -> Row:
    """Return the row of a tensor whose rounding must be no worse than the reference's.

    Args:
        tap: Name of what is compared.
        ours: In the dtype judged.
        truth: The oracle's, float64.
        noise: The reference's own error, of many tensors where this one is small.
        precision: The dtype judged.
        bounds: Of the run.
    """
    seen = difference(ours, truth, dtype=ours.dtype)
    ratio = seen.relative_rms / max(noise.rms, precision.unit)
    peak = seen.peak_ratio / max(noise.peak, precision.unit)
    holds = ratio <= bounds.quality and peak <= bounds.peak
    worst = ratio if not ratio <= bounds.quality else max(ratio, peak / bounds.peak)
    return Row(
        **_common(tap, seen),
        dtype=str(precision.dtype).removeprefix("torch."),
        mode=Mode.PROPAGATED,
        witness="oracle",
        status=_status(seen, holds=holds),
        error_ours=_finite(seen.relative_rms),
        error_reference=_finite(noise.rms),
        ratio=_finite(ratio),
        bound=bounds.quality,
        minimum_tolerance=_finite(worst),
        detail=seen.detail or ("" if holds else f"its error is {worst:.3g} times the reference's"),
    )


def ids_row(  # noqa: PLR0913 - two sides, and what is said of them
    tap: str, ours: Sequence[int], other: Sequence[int], *, dtype: str, witness: str, excused: str
) -> Row:
    """Return the row of ids that must be the same.

    Args:
        tap: Name of what is compared.
        ours: Our ids.
        other: The witness's.
        dtype: Of the run that they were made in.
        witness: Its name.
        excused: Why they need not be, in words; empty where they must.
    """
    differing = sum(mine != its for mine, its in zip(ours, other, strict=False))
    differing += abs(len(ours) - len(other))
    counted = 0 if excused else differing
    at = next((i for i, pair in enumerate(zip(ours, other, strict=False)) if len({*pair}) > 1), 0)
    return Row(
        tap=tap,
        attention=PATH,
        dtype=dtype,
        mode=Mode.EXACT,
        witness=witness,
        shape=(len(ours),),
        status=Status.FAIL if counted or not ours else Status.PASS,
        error_ours=float(differing),
        bound=0.0,
        worst_index=(at,),
        value_ours=float(ours[at]) if ours else None,
        value_witness=float(other[at]) if other else None,
        minimum_tolerance=float(counted),
        detail=excused,
    )


def raised_row(tap: str, error: Exception, *, dtype: str) -> Row:
    """Return the row of something that ours did not get to: it raised an error."""
    return Row(
        tap=tap,
        attention=PATH,
        dtype=dtype,
        mode=Mode.EXACT,
        witness="huggingface",
        status=Status.FAIL,
        bound=0.0,
        detail=f"ours raised {type(error).__name__}: {error}",
    )


def pooled(own: Noise, all_of_kind: Noise, tensor: Tensor) -> Noise:
    """Return the error that counts for a tensor: a small one is too small a sample."""
    return own.at_least(all_of_kind) if tensor.numel() < SMALL_TENSOR else own


def _common(tap: str, seen: Difference) -> dict[str, Any]:
    return {
        "tap": tap,
        "attention": PATH,
        "shape": seen.shape,
        "worst_index": seen.worst_index,
        "value_ours": seen.ours,
        "value_witness": seen.reference,
    }


def _status(seen: Difference, *, holds: bool) -> Status:
    if seen.status is not Status.PASS:
        return seen.status
    return Status.PASS if holds else Status.FAIL


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
