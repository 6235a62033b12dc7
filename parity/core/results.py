"""What a check has to say: rows, a verdict, and everything a reader needs to trust them."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from parity.checks.drift.findings import Drift
from parity.core.fingerprints import Fingerprint
from parity.core.liveness import BlockHealth
from parity.core.metrics import Status
from parity.core.taps import Tap, never_formed, undefined_taps
from parity.errors import ExitCode

SCHEMA_VERSION = 1
"""Raised whenever the JSON form changes its meaning."""


class Verdict(StrEnum):
    """The answer of a run."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Mode(StrEnum):
    """How a tap was met."""

    EXACT = "exact"
    """Bit for bit; no computation."""
    FLOAT64 = "float64"
    """float64, each side going on with its own numbers."""
    END_TO_END = "end-to-end"
    """The dtype judged, each side going on with its own numbers."""
    PER_OP = "per-op"
    """The dtype judged, every operation given the oracle's rounded input."""
    PUBLISHED = "published"
    """A number of known weights, held against what others published of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; `(tap, attention, dtype, mode, witness)` is its key.

    Attributes:
        tap: Name of the tap.
        backend: Our backend.
        dtype: Dtype of the run.
        mode: How the tap was met.
        against: What it was held against: `oracle` or `huggingface`.
        shape: Shape of our tensor.
        status: What became of the comparison.
        error_ours: Our error: in identity the largest difference, else the RMS of the
            differences, each over the witness's RMS.
        error_reference: Hugging Face's own, where the witness is the oracle.
        ratio: Ours over Hugging Face's, the latter never taken below the dtype's roundoff.
        bound: What had to hold: of `error_ours` in identity, else of `ratio`.
        amplification: Our error over the largest error among the taps that feed this one.
        worst_index: Index of the largest difference.
        value_ours: Our value there.
        value_against: The reference's value there.
        minimum_tolerance: The smallest bound that would have passed.
        detail: For a status other than pass, one phrase.
    """

    tap: str
    backend: str
    dtype: str
    mode: Mode
    against: str
    shape: tuple[int, ...] = ()
    status: Status
    error_ours: float | None = None
    error_reference: float | None = None
    ratio: float | None = None
    bound: float
    amplification: float | None = None
    worst_index: tuple[int, ...] = ()
    value_ours: float | None = None
    value_against: float | None = None
    required_tolerance: float | None = None
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstDivergence:
    """Where the two sides part: the first failing tap in network order.

    Attributes:
        tap: Its name.
        why: What was found there, with the numbers.
        suspects: What is usually wrong at such a tap.
        row: The row that failed.
    """

    tap: str
    why: str
    suspects: str
    row: Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was to be compared, and what was.

    Attributes:
        planned: Taps over all attention paths.
        compared: Those of them of which every planned row was compared.
        per_path: For each path, (planned, compared).
        exempt: Taps that were not planned, each with its path and the written reason.
    """

    planned: int
    compared: int
    per_backend: Mapping[str, tuple[int, int]]
    exempt: Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a run has no verdict: what, where, and what to do."""

    what: str
    where: str
    fix: str
    code: ExitCode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: what was found, and whether that is fit for a verdict.

    Attributes:
        name: What was looked at.
        found: What was found.
        fit: Whether a verdict can rest on it; None for what is only told.
        why: What it would mean for a verdict.
    """

    name: str
    found: str
    fit: bool | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A finished check.

    Attributes:
        check: The verb.
        verdict: The answer.
        exit_code: What the command line exits with.
        identity: Which weights, which config, which code.
        environment: Versions and settings.
        plan: What was to be compared.
        first_divergence: Where the sides part; None where they do not.
        results: All rows.
        reasons: Why there is no verdict, or whatever else keeps it from being a pass.
        consequences: What follows for loss, probabilities and rankings, by attention path.
        liveness: For each block, how sharp attention is and how alike the positions are.
        inputs: Batch, time, seed and padding of what was run.
        explanation: What `--explain` asked for.
        findings: What `doctor` looked at.
        fingerprints: Of every tensor that was compared, where they were asked for.
        drift: What `drift` found.
    """

    check: str
    verdict: Verdict
    exit_code: ExitCode
    identity: Mapping[str, Any]
    environment: Mapping[str, str]
    plan: Plan
    first_divergence: FirstDivergence | None = None
    results: Sequence[Row] = ()
    reasons: Sequence[Reason] = ()
    consequences: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    liveness: Sequence[BlockHealth] = ()
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    explanation: Mapping[str, Any] | None = None
    findings: Sequence[Finding] = ()
    fingerprints: Sequence[Fingerprint] = ()
    drift: Drift | None = None


_WORST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.REFUSED,
    ExitCode.ENVIRONMENT,
    *(ExitCode.USAGE, ExitCode.INTERRUPTED, ExitCode.CLOSED_PIPE),
    ExitCode.FAIL,
    ExitCode.INCONCLUSIVE,
    ExitCode.PASS,
)

_VERDICTS = {
    ExitCode.FAIL: Verdict.FAIL,
    ExitCode.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    ExitCode.PASS: Verdict.PASS,
}


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """Return the code that wins where several apply; PASS where none does."""
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.PASS)


def verdict_for(code: ExitCode) -> Verdict:
    """Return the answer that an exit code stands for."""
    return _VERDICTS.get(code, Verdict.ERROR)


# From rows to a verdict: what was planned, what was compared, and where the sides part first.


_NOT_COMPARED = (Status.MISSING, Status.NOT_RUN)
_DECIDING_ORDER = (Mode.FLOAT64, Mode.PER_OP, Mode.END_TO_END)
"""float64 says what is wrong; isolated points at the one bad operation; propagated comes last."""


def count(
    plan: Mapping[str, Sequence[Tap]], rows: Sequence[Row], *, n_layer: int, time: int
) -> Plan:
    """Return how many taps were planned on each path, and of how many every row was compared."""
    incomplete = {(row.backend, row.tap) for row in rows if row.status in _NOT_COMPARED}
    compared = {(row.backend, row.tap) for row in rows} - incomplete
    per_backend = {
        backend: (len(taps), sum((backend, tap.name) in compared for tap in taps))
        for backend, taps in plan.items()
    }
    left_out = [
        {"backend": backend, "tap": tap, "reason": why}
        for backend in plan
        for tap, why in (never_formed(backend, n_layer) | undefined_taps(time)).items()
    ]
    return Plan(
        planned=sum(planned for planned, _ in per_backend.values()),
        compared=sum(done for _, done in per_backend.values()),
        per_backend=per_backend,
        exempt=left_out,
    )


def first_divergence(
    plan: Mapping[str, Sequence[Tap]], rows: Sequence[Row]
) -> FirstDivergence | None:
    """Return the first failing tap in network order; None where every row passes.

    The modes are asked in the order in which they can be trusted to point.
    """
    # The path that forms the most knows where each tap stands.
    paths = sorted(plan.values(), key=len, reverse=True)
    suspects = {tap.name: tap.kind.suspects for taps in paths for tap in taps}
    place = {name: at for at, name in enumerate(suspects)}
    for mode in _DECIDING_ORDER:
        failing = [row for row in rows if row.mode is mode and row.status is not Status.PASS]
        if failing:
            row = min(failing, key=lambda row: place.get(row.tap, len(place)))
            return FirstDivergence(
                tap=row.tap, why=_why(row), suspects=suspects.get(row.tap, ""), row=row
            )
    return None


def first_exact_difference(rows: Sequence[Row]) -> FirstDivergence | None:
    """Return the first tensor that is not the source's, in the order of the rows."""
    failing = next((row for row in rows if row.status is not Status.PASS), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=_why(failing),
        suspects="a transposed, swapped or cast tensor; a name that the mapping does not have",
        row=failing,
    )


def _why(row: Row) -> str:
    """Return what was found, in one phrase with its numbers."""
    if row.status is not Status.FAIL:
        return f"{row.status}: {row.detail}" if row.detail else row.status.value
    if row.required_tolerance is None:
        return f"its error to the {row.against} is no finite number"
    if row.mode is Mode.EXACT:
        return f"{row.error_ours:,.0f} of its elements differ from the {row.against}'s"
    if row.mode is Mode.FLOAT64:
        return (
            f"in float64 it differs from the {row.against} by {row.error_ours:.2g} of its RMS; "
            f"right code stays within {row.bound:g}"
        )
    return (
        f"in {row.dtype} ({row.mode}) its error to the oracle is {row.ratio:.3g} times "
        f"Hugging Face's; the bound is {row.bound:g}"
    )


def exit_code(
    counted: Plan, rows: Sequence[Row], reasons: Sequence[Reason], blocks: Sequence[BlockHealth]
) -> tuple[ExitCode, list[Reason]]:
    """Return the exit code, and every reason why there is no pass beside the rows' own."""
    found = [*reasons, *_dead(blocks)]
    codes = [reason.code for reason in found]
    if counted.compared == 0:
        found.append(_nothing_compared(counted))
        # Whatever is missing then is missing throughout: no difference was seen.
        return worst([*codes, ExitCode.INCONCLUSIVE]), found
    if any(row.status not in (Status.PASS, Status.NOT_RUN) for row in rows):
        codes.append(ExitCode.FAIL)
    if counted.compared != counted.planned:
        codes.append(ExitCode.INCONCLUSIVE)
    return worst(codes), found


def _nothing_compared(counted: Plan) -> Reason:
    return Reason(
        what="nothing was compared",
        where=f"{counted.planned} taps were planned",
        fix="check that the model shows its taps under the names of parity/core/taps.py",
        code=ExitCode.INCONCLUSIVE,
    )


def _dead(blocks: Sequence[BlockHealth]) -> list[Reason]:
    dead = [sign for block in blocks if (sign := block.dead) is not None]
    if not dead:
        return []
    return [
        Reason(
            what="the model is dead at depth: faults inside such a block do not show",
            where="; ".join(dead[:3]),
            fix="compare on trained or surrogate weights, and on ids that differ",
            code=ExitCode.INCONCLUSIVE,
        )
    ]
