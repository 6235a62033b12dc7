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

import torch

from parity.compare import Difference, Status
from parity.lockstep import Observations
from parity.results import Mode, Row
from parity.taps import Tap
from parity.tolerances import SMALL_TENSOR, Bounds, Precision

WITNESSES = ("oracle", "huggingface")
EXACT_KINDS = frozenset({"embeddings.tokens", "embeddings.positions"})
"""Looked up and not computed: equal to the bit, or wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """The names, in the observations, of the subject judged and of Hugging Face's run."""

    ours: str
    huggingface: str


def names_of(attention: str, dtype: torch.dtype) -> Names:
    """Return what the observations call our run on a path, and Hugging Face's, in `dtype`."""
    short = str(dtype).removeprefix("torch.")
    return Names(ours=f"ours/{attention}/{short}", huggingface=f"huggingface/{short}")


def judging(compared: Sequence[Tap], plan: Sequence[Tap]) -> list[Tap]:
    """Return the taps of a plan whose errors have a part in the verdict on some of them.

    Those of the same kinds, and beside the loss the logits.
    """
    kinds = {tap.kind.name for tap in compared}
    if "loss" in kinds:
        kinds.add("logits")
    return [tap for tap in plan if tap.kind.name in kinds]


def identity_rows(
    found: Observations, names: Names, plan: Sequence[Tap], attention: str, bounds: Bounds
) -> list[Row]:
    """Return one row for each tap and witness of the float64 pass."""
    rows = []
    for tap in plan:
        for witness in WITNESSES:
            seen = _seen(found, names.ours, tap.name, witness)
            error = seen.relative_largest
            reference = found.differences.get((names.huggingface, tap.name, "oracle"))
            bound = 0.0 if tap.kind.name in EXACT_KINDS else bounds.identity
            row = Row(
                tap=tap.name,
                attention=attention,
                dtype="float64",
                mode=Mode.IDENTITY,
                witness=witness,
                shape=seen.shape,
                status=_status(seen, holds=error <= bound),
                error_ours=_finite(error),
                error_reference=(
                    _finite(reference.relative_largest)
                    if reference is not None and witness == "oracle"
                    else None
                ),
                bound=bound,
                amplification=_amplification(found, names.ours, tap),
                worst_index=seen.worst_index,
                value_ours=_finite(seen.ours),
                value_witness=_finite(seen.reference),
                minimum_tolerance=_finite(error),
                detail=_detail(seen),
            )
            rows.append(row)
    return rows


def quality_rows(  # noqa: PLR0913 - what is judged, and under which rules
    found: Observations,
    names: Names,
    plan: Sequence[Tap],
    peers: Sequence[Tap],
    attention: str,
    mode: Mode,
    precision: Precision,
    bounds: Bounds,
) -> list[Row]:
    """Return one row for each tap of a pass in the dtype judged; the oracle is the witness.

    What Hugging Face's error counts as is taken from `peers`, all taps that were measured: a
    tap's verdict must not depend on which others were asked for.
    """
    noise = _reference_noise(found, names.huggingface, peers)
    if mode is Mode.PROPAGATED:
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
            attention=attention,
            dtype=str(precision.dtype).removeprefix("torch."),
            mode=mode,
            witness="oracle",
            shape=seen.shape,
            status=_status(seen, holds=ratio <= bounds.quality and not guard_broken),
            error_ours=_finite(seen.relative_rms),
            error_reference=_finite(reference_rms),
            ratio=_finite(peak if guard_broken else ratio),
            bound=bounds.peak if guard_broken else bounds.quality,
            amplification=_amplification(found, names.ours, tap) if mode != Mode.ISOLATED else None,
            worst_index=seen.worst_index,
            value_ours=_finite(seen.ours),
            value_witness=_finite(seen.reference),
            minimum_tolerance=_finite(peak if guard_broken else ratio),
            detail=_detail(seen),
        )
        rows.append(row)
    return rows


def extra_rows(
    found: Observations, names: Names, attention: str, dtype: str, mode: Mode
) -> list[Row]:
    """Return one row for each tap that our side showed and nobody planned."""
    return [
        Row(
            tap=tap,
            attention=attention,
            dtype=dtype,
            mode=mode,
            witness="oracle",
            status=Status.EXTRA,
            bound=0.0,
            detail="shown, but not in the plan, or shown twice",
        )
        for tap in dict.fromkeys(found.extras.get(names.ours, ()))
    ]


def _seen(found: Observations, subject: str, tap: str, witness: str) -> Difference:
    """Return the difference observed; one that was not run where there is none."""
    seen = found.differences.get((subject, tap, witness))
    if seen is None:
        # What kept it from the oracle kept it from the second witness too.
        seen = found.differences.get((subject, tap, "oracle"))
        if seen is None or seen.status is Status.PASS:
            return Difference(status=Status.NOT_RUN, detail=f"no {witness} to compare with")
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
