"""From differences to rows: the criteria of each mode, one function per mode for every check.

Mode float64: the largest difference over the reference's RMS stays below one bound, with both
references; embedding rows that were only looked up are equal to the bit. Mode float64-per-op has a
finer bound, because no error of an input is in it. Modes end-to-end and
per-op: our RMS error to the oracle is at most a few times Hugging Face's own error, so the
reference's rounding is the unit. A second bound on the largest error catches a single bad element
that moves no mean.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from parity.core.lockstep import Observations
from parity.core.metrics import Difference, Status
from parity.core.results import Mode, Reason, Row, difference_found
from parity.core.taps import Tap
from parity.core.tolerances import PEAK_GUARD, SMALL_TENSOR, Bounds, Precision
from parity.errors import ExitCode

REFERENCES = ("oracle", "huggingface")
EXACT_KINDS = frozenset({"embeddings.tokens", "embeddings.positions"})
"""Taps that are looked up and not computed: they must be equal to the bit."""


MASKED_SCORE = -1e4
"""The score that Hugging Face gives a masked entry; a real one must be larger."""


class RunNames(NamedTuple):
    """The names of our run and of Hugging Face's in the observations."""

    ours: str
    huggingface: str


def run_names(backend: str, dtype: torch.dtype) -> RunNames:
    """Return the names of our run with a backend, and of Hugging Face's, in `dtype`."""
    short = str(dtype).removeprefix("torch.")
    return RunNames(ours=f"ours/{backend}/{short}", huggingface=f"huggingface/{short}")


def taps_with_a_part(compared: Sequence[Tap], plan: Sequence[Tap]) -> list[Tap]:
    """Return the taps whose errors the criteria of some taps need.

    They are those of the same kinds, and for the loss also the logits.
    """
    kinds = {tap.kind.name for tap in compared}
    if "loss" in kinds:
        kinds.add("logits")
    return [tap for tap in plan if tap.kind.name in kinds]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundingError:
    """A reference's own error to the truth.

    Attributes:
        rms: Root mean square of the error over that of the truth.
        peak: Largest error over the truth's largest value.
    """

    rms: float = 0.0
    peak: float = 0.0

    @classmethod
    def of(cls, seen: Difference) -> "RoundingError":
        """Return the error of a reference whose difference from the truth was measured."""
        return cls(rms=seen.relative_rms, peak=seen.peak_ratio)

    def at_least(self, other: "RoundingError") -> "RoundingError":
        """Return the larger of both, each number by itself."""
        return RoundingError(rms=max(self.rms, other.rms), peak=max(self.peak, other.peak))


def float64_row(  # noqa: PLR0913 - a row
    seen: Difference,
    *,
    tap: str,
    backend: str,
    against: str,
    bound: float,
    error_reference: float | None = None,
    amplification: float | None = None,
    mode: Mode = Mode.FLOAT64,
) -> Row:
    """Return the row of a float64 difference: its largest error over the reference's RMS."""
    error = seen.relative_largest
    return Row(
        **_observed(seen, tap, backend, holds=error <= bound),
        dtype="float64",
        mode=mode,
        against=against,
        error_ours=_finite(error),
        error_reference=error_reference,
        bound=bound,
        amplification=amplification,
        required_tolerance=_finite(error),
    )


def rounding_row(  # noqa: PLR0913 - a row
    seen: Difference,
    *,
    tap: str,
    backend: str,
    mode: Mode,
    reference: RoundingError,
    precision: Precision,
    bounds: Bounds,
    amplification: float | None = None,
) -> Row:
    """Return the row of a difference from the oracle in the checked dtype.

    Its error over the reference's own has a bound, and so has its largest error. The second number
    is reported only where it fails.
    """
    ratio = seen.relative_rms / max(reference.rms, precision.unit)
    peak = seen.peak_ratio / max(reference.peak, precision.unit)
    # Written so that NaN fails.
    peak_fails = not peak <= bounds.peak
    checked, bound = (peak, bounds.peak) if peak_fails else (ratio, bounds.quality)
    return Row(
        **_observed(seen, tap, backend, holds=ratio <= bounds.quality and not peak_fails),
        dtype=str(precision.dtype).removeprefix("torch."),
        mode=mode,
        against="oracle",
        error_ours=_finite(seen.relative_rms),
        error_reference=_finite(reference.rms),
        ratio=_finite(checked),
        bound=bound,
        amplification=amplification,
        required_tolerance=_finite(checked),
    )


def ids_row(  # noqa: PLR0913 - a row
    ours: Sequence[int],
    other: Sequence[int],
    *,
    tap: str,
    backend: str,
    dtype: str,
    against: str,
    excused: str = "",
) -> Row:
    """Return the row of ids that must be equal, or need not for the reason `excused`."""
    pairs = list(zip(ours, other, strict=False))
    mismatches = sum(mine != its for mine, its in pairs) + abs(len(ours) - len(other))
    counted = 0 if excused else mismatches
    at = next((i for i, (mine, its) in enumerate(pairs) if mine != its), 0)
    return Row(
        tap=tap,
        backend=backend,
        dtype=dtype,
        mode=Mode.EXACT,
        against=against,
        shape=(len(ours),),
        status=Status.FAIL if counted or not ours else Status.PASS,
        error_ours=float(mismatches),
        bound=0.0,
        worst_index=(at,),
        value_ours=float(ours[at]) if ours else None,
        value_against=float(other[at]) if other else None,
        required_tolerance=float(counted),
        detail=excused,
    )


def raised_row(error: Exception, *, tap: str, backend: str, dtype: str) -> Row:
    """Return the row of a result that our side did not give: it raised an error."""
    return Row(
        tap=tap,
        backend=backend,
        dtype=dtype,
        mode=Mode.EXACT,
        against="huggingface",
        status=Status.FAIL,
        bound=0.0,
        detail=f"ours raised {type(error).__name__}: {error}",
    )


def float64_rows(  # noqa: PLR0913 - one pass, and the rules for it
    found: Observations,
    names: RunNames,
    plan: Sequence[Tap],
    backend: str,
    bounds: Bounds,
    *,
    narrow: str = "",
) -> list[Row]:
    """Return one row for each tap and reference of the float64 pass.

    Where Hugging Face differs from the oracle and ours does not, ours is not compared with it.

    Args:
        found: The observations.
        names: Names of the runs.
        plan: The taps to compare.
        backend: Name of our side.
        bounds: The criteria.
        narrow: The dtype that enters our side's run, if it is narrower, and where. Then errors are
            allowed as if all of it ran in that dtype: some times those of Hugging Face.
    """
    rows = []
    allowed = _narrow_bounds(found, narrow, plan, bounds) if narrow else {}
    for tap in plan:
        reference = found.differences.get((names.huggingface, tap.name, "oracle"))
        own = None if reference is None else _finite(reference.relative_largest)
        of_tap = [
            float64_row(
                _seen(found, names.ours, tap.name, against),
                tap=tap.name,
                backend=backend,
                against=against,
                bound=0.0
                if tap.kind.name in EXACT_KINDS
                else allowed.get(tap.kind.name, bounds.float64),
                error_reference=own if against == "oracle" else None,
                amplification=_amplification(found, names.ours, tap),
            )
            for against in REFERENCES
        ]
        right, other = of_tap
        alone = own is None and reference is not None and reference.status is Status.NONFINITE
        alone = alone or (own is not None and own > bounds.float64)
        if right.status is Status.PASS and alone:
            of_tap[1] = dataclasses.replace(other, status=Status.NOT_RUN, detail=_ALONE)
        rows += of_tap
    return rows


def float64_per_op_rows(
    found: Observations, names: RunNames, plan: Sequence[Tap], backend: str, bounds: Bounds
) -> list[Row]:
    """Return one row for each tap of a float64 pass in which all operations had equal inputs.

    A tap behind several operations that are not shown carries the rounding of all of them, and so
    does Hugging Face's, which gets its inputs at the same taps: that error counts where it is more.
    """
    rows = []
    for tap in plan:
        theirs = found.differences.get((names.huggingface, tap.name, "oracle"))
        own = None if theirs is None else _finite(theirs.relative_largest)
        bound = min(bounds.float64, max(bounds.float64_per_op, bounds.quality * (own or 0.0)))
        rows.append(
            float64_row(
                _seen(found, names.ours, tap.name, "oracle"),
                tap=tap.name,
                backend=backend,
                against="oracle",
                bound=0.0 if tap.kind.name in EXACT_KINDS else bound,
                error_reference=own,
                mode=Mode.FLOAT64_PER_OP,
            )
        )
    return rows


_ALONE = "Hugging Face differs from the oracle here, ours does not"


def stands_alone(
    found: Observations, names: RunNames, rows: Sequence[Row], smallest_score: float
) -> list[Reason]:
    """Return a reason if Hugging Face alone differs from the two others at some tap."""
    first = next((row for row in rows if row.detail == _ALONE), None)
    if first is None:
        return []
    seen = found.differences[names.huggingface, first.tap, "oracle"]
    fix = "compare with other weights: here Hugging Face is no reference"
    if smallest_score < MASKED_SCORE:
        fix = (
            f"Hugging Face masks with {MASKED_SCORE:g}, and these weights make a score of "
            f"{smallest_score:.3g}: use other weights"
        )
    return [
        Reason(
            what=f"Hugging Face stands alone at {first.tap}: it differs from the oracle by "
            f"{seen.relative_largest:.2g} of its RMS, ours does not",
            where=f"{first.tap} and the taps after it",
            fix=fix,
            code=ExitCode.INCONCLUSIVE,
        )
    ]


def _narrow_bounds(
    found: Observations, narrow: str, plan: Sequence[Tap], bounds: Bounds
) -> dict[str, float]:
    """Return the float64 bound of each kind of tap for a side that computes in a narrower dtype."""
    unit = f"huggingface/{narrow.partition(' ')[0]}"
    allowed: dict[str, float] = {}
    for tap in plan:
        seen = found.differences.get((unit, tap.name, "oracle"))
        if seen is not None and math.isfinite(seen.relative_largest):
            least = allowed.get(tap.kind.name, bounds.float64)
            allowed[tap.kind.name] = max(least, bounds.quality * seen.relative_largest)
    if "loss" in allowed:  # one number, whose error may by luck be 0
        allowed["loss"] = max(allowed["loss"], allowed.get("logits", 0.0))
    return allowed


def narrow_reason(narrow: str, *, allowed: bool = True) -> Reason:
    """Return the note on a narrower dtype inside; if it is allowed, the comparison is less fine."""
    dtype = narrow.partition(" ")[0]
    limit = f": the float64 comparison is no finer than Hugging Face's error in {dtype}"
    return Reason(
        what=narrow + (limit if allowed else f": {dtype} is allowed only with --dtype {dtype}"),
        where="the candidate in float64",
        fix="compute in the input's dtype"
        + (", or accept that finer errors are not seen" if allowed else ""),
        code=ExitCode.PASS,
    )


def overflows(found: Observations, names: RunNames, plan: Sequence[Tap]) -> list[Reason]:
    """Return a reason if a tap of both sides overflows: the dtype cannot hold the model."""
    for tap in plan:
        both = (found.differences.get((name, tap.name, "oracle")) for name in names)
        if all(seen is not None and seen.status is Status.NONFINITE for seen in both):
            dtype = names.ours.rpartition("/")[2]
            return [
                Reason(
                    what=f"both sides overflow at {tap.name}: {dtype} cannot hold this model",
                    where=f"{tap.name} and the taps after it",
                    fix="use --dtype bfloat16 or float32",
                    code=ExitCode.INCONCLUSIVE,
                )
            ]
    return []


def rounding_rows(  # noqa: PLR0913 - one pass, and the rules for it
    found: Observations,
    names: RunNames,
    plan: Sequence[Tap],
    peers: Sequence[Tap],
    backend: str,
    mode: Mode,
    precision: Precision,
    bounds: Bounds,
    again: Sequence[Observations] = (),
) -> list[Row]:
    """Return one row for each tap of a pass in the checked dtype, compared with the oracle.

    Hugging Face's error is taken from `peers`, all taps that were measured: the verdict of a tap
    must not depend on which others are selected. Of the same pass and those of `again`, which have
    other rounding errors, the largest counts.
    """
    errors: dict[str, RoundingError] = {}
    for one in (found, *again):
        of_pass = _reference_errors(one, names.huggingface, peers)
        if mode is Mode.END_TO_END:
            of_pass |= _loss_error(one, names.huggingface, of_pass)
        errors |= {tap: own.at_least(errors.get(tap, own)) for tap, own in of_pass.items()}
    unknown = RoundingError(rms=math.nan, peak=math.nan)

    def seen(tap: Tap) -> Difference:
        ours = _seen(found, names.ours, tap.name, "oracle")
        theirs = found.differences.get((names.huggingface, tap.name, "oracle"))
        if theirs is None or {ours.status, theirs.status} != {Status.NONFINITE}:
            return ours
        return dataclasses.replace(ours, status=Status.NOT_RUN, detail="both sides overflow")

    return [
        rounding_row(
            seen(tap),
            tap=tap.name,
            backend=backend,
            mode=mode,
            reference=errors.get(tap.name, unknown),
            precision=precision,
            bounds=bounds,
            amplification=(None if mode is Mode.PER_OP else _amplification(found, names.ours, tap)),
        )
        for tap in plan
    ]


def fails(rows: Sequence[Row], backend: str, mode: Mode) -> bool:
    """Return whether a number of one backend is beyond its bound in a mode."""
    return any((row.backend, row.mode, row.status) == (backend, mode, Status.FAIL) for row in rows)


def extra_rows(  # noqa: PLR0913 - a pass, and what its rows have in common
    found: Observations,
    names: RunNames,
    plan: Sequence[Tap],
    backend: str,
    dtype: str,
    mode: Mode,
) -> list[Row]:
    """Return one row for each tap of ours that is not in the plan."""
    return [
        Row(
            tap=tap,
            backend=backend,
            dtype=dtype,
            mode=mode,
            against="oracle",
            status=Status.EXTRA,
            bound=0.0,
            detail=_extra(tap, [planned.name for planned in plan]),
        )
        for tap in dict.fromkeys(found.extras.get(names.ours, ()))
    ]


def _extra(tap: str, known: Sequence[str]) -> str:
    if tap in known:
        return "shown twice, or out of order"
    block = re.search(r"\d+", tap)
    of_block = [name for name in known if block is None or f".{block[0]}." in name]
    near = difflib.get_close_matches(tap, of_block or known, n=1, cutoff=0.3)
    return "no tap has this name" + (f"; did you mean {near[0]}?" if near else "")


def _seen(found: Observations, subject: str, tap: str, against: str) -> Difference:
    """Return the observed difference; one with status NOT_RUN if there is none."""
    seen = found.differences.get((subject, tap, against))
    if seen is None:
        # The reason for the oracle holds for the second reference too.
        seen = found.differences.get((subject, tap, "oracle"))
        if seen is None or seen.status is Status.PASS:
            return Difference(status=Status.NOT_RUN, detail=f"no {against} to compare with")
    return seen


def _observed(seen: Difference, tap: str, backend: str, *, holds: bool) -> dict[str, Any]:
    """Return the fields that rows of tensors share; two tensors of zeros compare nothing."""
    zero = seen.scale == 0.0 and seen.largest == 0.0
    status = seen.status
    if status is Status.PASS:
        status = Status.NOT_RUN if zero else Status.PASS if holds else Status.FAIL
    return {
        "tap": tap,
        "backend": backend,
        "shape": seen.shape,
        "status": status,
        "worst_index": seen.worst_index,
        "value_ours": _finite(seen.ours),
        "value_against": _finite(seen.reference),
        "detail": "both sides are zero throughout" if zero else seen.detail,
    }


def pooled(own: RoundingError, of_kind: RoundingError, count: int) -> RoundingError:
    """Return the error of a reference; for a tensor of few elements that of its kind.

    A small tensor's error is a small sample, and may by luck be 0. Our own is never pooled.
    """
    return of_kind.at_least(own) if count < SMALL_TENSOR else own


def _reference_errors(
    found: Observations, huggingface: str, plan: Sequence[Tap]
) -> dict[str, RoundingError]:
    """Return Hugging Face's own error at each tap.

    Tensors of one kind are those of other blocks and, of a gradient, of other steps.
    """
    seen = {
        tap: found.differences[huggingface, tap.name, "oracle"]
        for tap in plan
        if (huggingface, tap.name, "oracle") in found.differences
    }
    seen = {tap: one for tap, one in seen.items() if one.status is Status.PASS}
    kinds: dict[str, RoundingError] = {}
    for tap, one in seen.items():
        own = RoundingError.of(one)
        kinds[tap.kind.name] = kinds.get(tap.kind.name, own).at_least(own)
    return {
        tap.name: pooled(RoundingError.of(one), kinds[tap.kind.name], one.count)
        for tap, one in seen.items()
    }


def _loss_error(
    found: Observations, huggingface: str, errors: Mapping[str, RoundingError]
) -> dict[str, RoundingError]:
    """Return Hugging Face's error of the loss, where each side has its own logits.

    A loss is a difference of logits and carries their error. It has so few numbers that its own
    may by luck be 0 (at time 2 it is one number), and no other block has a loss: so the error of
    the logits counts where it is larger.
    """
    loss, logits = (
        found.differences.get((huggingface, tap, "oracle")) for tap in ("loss", "logits")
    )
    if loss is None or logits is None or not {"loss", "logits"} <= errors.keys():
        return {}
    carried = RoundingError(rms=logits.rms / loss.scale, peak=logits.largest / loss.scale_largest)
    return {"loss": errors["loss"].at_least(carried)}


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


def top1_changes(found: Observations, names: RunNames, lead: float) -> list[Reason]:
    """Return a reason if a top-1 token differs although the oracle's lead is too wide.

    `lead` is the largest lead of the oracle's token over ours, in logits; 0 if all tokens agree.
    Both logits are off on both sides; ours may be as far off as the bound allows. A wider lead
    cannot be lost by rounding. If both sides overflow there is no choice to compare.
    """
    logits = [found.differences.get((name, "logits", "oracle")) for name in names]
    seen = [one for one in logits if one is not None]
    overflow = all(one.status is Status.NONFINITE for one in seen)
    if not lead > 0.0 or overflow or len(seen) < len(names):
        return []
    ours, theirs = (one.largest for one in seen)
    if lead <= 2 * (min(ours, PEAK_GUARD * theirs) + theirs):
        return []
    backend, _, dtype = names.ours.removeprefix("ours/").rpartition("/")
    return [
        Reason(
            what=f"the first choice of a token differs, against a lead of {lead:.2g}",
            where=f"logits, attention {backend}, torch.{dtype}",
            fix="if no tap before the logits fails, look at them with --explain logits",
            code=ExitCode.FAIL,
        )
    ]


def explained(row: Row) -> Row:
    """Return the row; if it fails, its detail has the difference."""
    if row.status is not Status.FAIL or row.detail:
        return row
    return dataclasses.replace(row, detail=difference_found(row))
