"""From differences to rows with a status: the gates of each mode.

Identity (float64): the largest difference over the witness's RMS stays under one bound, at every
tap, against both witnesses; looked-up embedding rows are equal to the bit. Quality (the dtype
judged): our RMS error to the oracle is at most a few times Hugging Face's own, which makes the
reference's rounding the unit; a guard on the largest error catches the one bad element that
moves no mean.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parity.core.lockstep import Observations
from parity.core.metrics import Difference, Status, difference
from parity.core.results import Mode, Reason, Row
from parity.core.taps import Tap
from parity.core.tolerances import SMALL_TENSOR, Bounds, Precision
from parity.errors import ExitCode

REFERENCES = ("oracle", "huggingface")
EXACT_KINDS = frozenset({"embeddings.tokens", "embeddings.positions"})
"""Looked up and not computed: equal to the bit, or wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunNames:
    """The names, in the observations, of the subject judged and of Hugging Face's run."""

    ours: str
    huggingface: str


def run_names(backend: str, dtype: torch.dtype) -> RunNames:
    """Return what the observations call our run on a path, and Hugging Face's, in `dtype`."""
    short = str(dtype).removeprefix("torch.")
    return RunNames(ours=f"ours/{backend}/{short}", huggingface=f"huggingface/{short}")


def taps_with_a_part(compared: Sequence[Tap], plan: Sequence[Tap]) -> list[Tap]:
    """Return the taps of a plan whose errors have a part in the verdict on some of them.

    Those of the same kinds, and beside the loss the logits.
    """
    kinds = {tap.kind.name for tap in compared}
    if "loss" in kinds:
        kinds.add("logits")
    return [tap for tap in plan if tap.kind.name in kinds]


def float64_rows(
    found: Observations, names: RunNames, plan: Sequence[Tap], backend: str, bounds: Bounds
) -> list[Row]:
    """Return one row for each tap and witness of the float64 pass."""
    rows = []
    for tap in plan:
        for against in REFERENCES:
            seen = _seen(found, names.ours, tap.name, against)
            error = seen.relative_largest
            reference = found.differences.get((names.huggingface, tap.name, "oracle"))
            bound = 0.0 if tap.kind.name in EXACT_KINDS else bounds.float64
            row = Row(
                tap=tap.name,
                backend=backend,
                dtype="float64",
                mode=Mode.FLOAT64,
                against=against,
                shape=seen.shape,
                status=_status(seen, holds=error <= bound),
                error_ours=_finite(error),
                error_reference=(
                    _finite(reference.relative_largest)
                    if reference is not None and against == "oracle"
                    else None
                ),
                bound=bound,
                amplification=_amplification(found, names.ours, tap),
                worst_index=seen.worst_index,
                value_ours=_finite(seen.ours),
                value_against=_finite(seen.reference),
                required_tolerance=_finite(error),
                detail=_detail(seen),
            )
            rows.append(row)
    return rows


def rounding_rows(  # noqa: PLR0913 - what is judged, and under which rules
    found: Observations,
    names: RunNames,
    plan: Sequence[Tap],
    peers: Sequence[Tap],
    backend: str,
    mode: Mode,
    precision: Precision,
    bounds: Bounds,
) -> list[Row]:
    """Return one row for each tap of a pass in the dtype judged; the oracle is the witness.

    What Hugging Face's error counts as is taken from `peers`, all taps that were measured: a
    tap's verdict must not depend on which others were asked for.
    """
    noise = _reference_noise(found, names.huggingface, peers)
    if mode is Mode.END_TO_END:
        noise |= _loss_noise(found, names.huggingface, noise)
    rows = []
    for tap in plan:
        seen = _seen(found, names.ours, tap.name, "oracle")
        reference_rms, reference_peak = noise.get(tap.name, (math.nan, math.nan))
        ratio = seen.relative_rms / max(reference_rms, precision.unit)
        peak = seen.peak_ratio / max(reference_peak, precision.unit)
        guard_broken = not peak <= bounds.peak
        row = Row(
            tap=tap.name,
            backend=backend,
            dtype=str(precision.dtype).removeprefix("torch."),
            mode=mode,
            against="oracle",
            shape=seen.shape,
            status=_status(seen, holds=ratio <= bounds.quality and not guard_broken),
            error_ours=_finite(seen.relative_rms),
            error_reference=_finite(reference_rms),
            ratio=_finite(peak if guard_broken else ratio),
            bound=bounds.peak if guard_broken else bounds.quality,
            amplification=_amplification(found, names.ours, tap) if mode != Mode.PER_OP else None,
            worst_index=seen.worst_index,
            value_ours=_finite(seen.ours),
            value_against=_finite(seen.reference),
            required_tolerance=_finite(peak if guard_broken else ratio),
            detail=_detail(seen),
        )
        rows.append(row)
    return rows


def extra_rows(
    found: Observations, names: RunNames, backend: str, dtype: str, mode: Mode
) -> list[Row]:
    """Return one row for each tap that our side showed and nobody planned."""
    return [
        Row(
            tap=tap,
            backend=backend,
            dtype=dtype,
            mode=mode,
            against="oracle",
            status=Status.EXTRA,
            bound=0.0,
            detail="shown, but not in the plan, or shown twice",
        )
        for tap in dict.fromkeys(found.extras.get(names.ours, ()))
    ]


def _seen(found: Observations, subject: str, tap: str, against: str) -> Difference:
    """Return the difference observed; one that was not run where there is none."""
    seen = found.differences.get((subject, tap, against))
    if seen is None:
        # What kept it from the oracle kept it from the second witness too.
        seen = found.differences.get((subject, tap, "oracle"))
        if seen is None or seen.status is Status.PASS:
            return Difference(status=Status.NOT_RUN, detail=f"no {against} to compare with")
    return seen


def _status(seen: Difference, *, holds: bool) -> Status:
    if seen.status is not Status.PASS:
        return seen.status
    if _both_zero(seen):
        return Status.NOT_RUN
    return Status.PASS if holds else Status.FAIL


def _detail(seen: Difference) -> str:
    return "both sides are zero throughout" if _both_zero(seen) else seen.detail


def _both_zero(seen: Difference) -> bool:
    return seen.scale == 0.0 and seen.largest == 0.0


def _reference_noise(
    found: Observations, huggingface: str, plan: Sequence[Tap]
) -> dict[str, tuple[float, float]]:
    """Return Hugging Face's own (RMS, peak) error per tap.

    A small tensor's error is a small sample: what counts for it is the largest error among all
    tensors of its kind, those of other blocks and, of a gradient, of other steps. Ours is never
    pooled.
    """
    seen = {
        tap.name: found.differences[huggingface, tap.name, "oracle"]
        for tap in plan
        if (huggingface, tap.name, "oracle") in found.differences
    }
    alike: dict[str, list[Difference]] = {}
    for tap in plan:
        if tap.name in seen and seen[tap.name].status is Status.PASS:
            alike.setdefault(tap.kind.name, []).append(seen[tap.name])
    return {
        tap.name: (
            max(d.relative_rms for d in group),
            max(d.peak_ratio for d in group),
        )
        for tap in plan
        if tap.name in seen and seen[tap.name].status is Status.PASS
        for group in [
            alike[tap.kind.name] if seen[tap.name].count < SMALL_TENSOR else [seen[tap.name]]
        ]
    }


def _loss_noise(
    found: Observations, huggingface: str, noise: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return what Hugging Face's error of the loss counts as, where each side has its own logits.

    A loss is a difference of logits: it carries their error, of which so few numbers show a part
    that may by luck be none (at time 2 it is a single number). No block has another one to take
    it from, so the logits' own error counts where it is larger.
    """
    loss, logits = (
        found.differences.get((huggingface, tap, "oracle")) for tap in ("loss", "logits")
    )
    if loss is None or logits is None or "loss" not in noise or "logits" not in noise:
        return {}
    rms, peak = noise["loss"]
    return {
        "loss": (
            max(rms, logits.rms / loss.scale),
            max(peak, logits.largest / loss.scale_largest),
        )
    }


def _amplification(found: Observations, subject: str, tap: Tap) -> float | None:
    """Return the error of the tap over the largest error among its inputs; None without one."""
    fed = [found.differences.get((subject, name, "oracle")) for name in tap.inputs]
    largest = max((d.relative_rms for d in fed if d is not None and d.rms > 0.0), default=0.0)
    seen = found.differences.get((subject, tap.name, "oracle"))
    if seen is None or not largest > 0.0:
        return None
    return _finite(seen.relative_rms / largest)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# First choices that differ from the oracle's by more than rounding explains.


def top1_changes(found: Observations, names: RunNames, lead: float) -> list[Reason]:
    """Return the reason against a pass that such a choice is; none where there is none.

    Two rounding errors as large as the largest seen, ours or Hugging Face's, can turn two logits
    round; a wider lead than that cannot be lost honestly.

    Args:
        found: What was measured of the logits.
        names: What the observations call both runs.
        lead: The widest lead over our first choice that the oracle's own has; 0 where they agree.
    """
    errors = [
        found.differences[name, "logits", "oracle"].largest
        for name in (names.ours, names.huggingface)
        if (name, "logits", "oracle") in found.differences
    ]
    if not lead > 0.0 or all(lead <= 2 * error for error in errors):
        return []
    backend, _, dtype = names.ours.removeprefix("ours/").rpartition("/")
    return [
        Reason(
            what=f"the first choice of a token differs, against a lead of {lead:.2g}",
            where=f"logits, attention {backend}, torch.{dtype}",
            fix="look at logits with --explain logits",
            code=ExitCode.FAIL,
        )
    ]


# From what two sides made to a row of a report: logits by the gates, ids one by one.


BACKEND = "fused"
"""How a decoder runs our model, whatever the model's own path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundingError:
    """The reference's own error to the truth, over the truth's RMS.

    Attributes:
        rms: Of the root mean square.
        peak: Of the largest difference, over the truth's largest value.
    """

    rms: float = 0.0
    peak: float = 0.0

    def at_least(self, other: "RoundingError") -> "RoundingError":
        """Return the larger of both, each by itself."""
        return RoundingError(rms=max(self.rms, other.rms), peak=max(self.peak, other.peak))


def reference_error_of(tensor: Tensor, truth: Tensor) -> RoundingError:
    """Return a reference's error."""
    seen = difference(tensor, truth, dtype=tensor.dtype)
    return RoundingError(
        rms=_finite_or_none(seen.relative_rms) or 0.0, peak=_finite_or_none(seen.peak_ratio) or 0.0
    )


def float64_row(tap: str, ours: Tensor, other: Tensor, against: str, bounds: Bounds) -> Row:
    """Return the row of two float64 tensors that must agree to rounding.

    Args:
        tap: Name of what is compared.
        ours: Two axes or more, float64.
        other: The witness's.
        against: Its name.
        bounds: Of the run.
    """
    seen = difference(ours, other, dtype=torch.float64)
    error = seen.relative_largest
    holds = error <= bounds.float64
    return Row(
        **_common(tap, seen),
        dtype="float64",
        mode=Mode.FLOAT64,
        against=against,
        status=_generation_status(seen, holds=holds),
        error_ours=_finite_or_none(error),
        bound=bounds.float64,
        required_tolerance=_finite_or_none(error),
        detail=seen.detail or ("" if holds else f"off by {error:.2g} of the {against}'s RMS"),
    )


def rounding_row(  # noqa: PLR0913 - ours, the truth, the reference's error and the gate
    tap: str,
    ours: Tensor,
    truth: Tensor,
    noise: RoundingError,
    precision: Precision,
    bounds: Bounds,
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
        mode=Mode.END_TO_END,
        against="oracle",
        status=_generation_status(seen, holds=holds),
        error_ours=_finite_or_none(seen.relative_rms),
        error_reference=_finite_or_none(noise.rms),
        ratio=_finite_or_none(ratio),
        bound=bounds.quality,
        required_tolerance=_finite_or_none(worst),
        detail=seen.detail or ("" if holds else f"its error is {worst:.3g} times the reference's"),
    )


def ids_row(  # noqa: PLR0913 - two sides, and what is said of them
    tap: str, ours: Sequence[int], other: Sequence[int], *, dtype: str, against: str, excused: str
) -> Row:
    """Return the row of ids that must be the same.

    Args:
        tap: Name of what is compared.
        ours: Our ids.
        other: The witness's.
        dtype: Of the run that they were made in.
        against: Its name.
        excused: Why they need not be, in words; empty where they must.
    """
    differing = sum(mine != its for mine, its in zip(ours, other, strict=False))
    differing += abs(len(ours) - len(other))
    counted = 0 if excused else differing
    at = next((i for i, pair in enumerate(zip(ours, other, strict=False)) if len({*pair}) > 1), 0)
    return Row(
        tap=tap,
        backend=BACKEND,
        dtype=dtype,
        mode=Mode.EXACT,
        against=against,
        shape=(len(ours),),
        status=Status.FAIL if counted or not ours else Status.PASS,
        error_ours=float(differing),
        bound=0.0,
        worst_index=(at,),
        value_ours=float(ours[at]) if ours else None,
        value_against=float(other[at]) if other else None,
        required_tolerance=float(counted),
        detail=excused,
    )


def raised_row(tap: str, error: Exception, *, dtype: str) -> Row:
    """Return the row of something that ours did not get to: it raised an error."""
    return Row(
        tap=tap,
        backend=BACKEND,
        dtype=dtype,
        mode=Mode.EXACT,
        against="huggingface",
        status=Status.FAIL,
        bound=0.0,
        detail=f"ours raised {type(error).__name__}: {error}",
    )


def pooled(own: RoundingError, all_of_kind: RoundingError, tensor: Tensor) -> RoundingError:
    """Return the error that counts for a tensor: a small one is too small a sample."""
    return own.at_least(all_of_kind) if tensor.numel() < SMALL_TENSOR else own


def _common(tap: str, seen: Difference) -> dict[str, Any]:
    return {
        "tap": tap,
        "backend": BACKEND,
        "shape": seen.shape,
        "worst_index": seen.worst_index,
        "value_ours": seen.ours,
        "value_against": seen.reference,
    }


def _generation_status(seen: Difference, *, holds: bool) -> Status:
    if seen.status is not Status.PASS:
        return seen.status
    return Status.PASS if holds else Status.FAIL


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
