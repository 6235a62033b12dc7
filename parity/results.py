"""What a check has to say: rows, a verdict, and everything a reader needs to trust them."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from parity.compare import Status
from parity.drift.findings import Drift
from parity.errors import ExitCode
from parity.fingerprints import Fingerprint
from parity.liveness import BlockLife

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
    IDENTITY = "identity"
    """float64, each side going on with its own numbers."""
    PROPAGATED = "propagated"
    """The dtype judged, each side going on with its own numbers."""
    ISOLATED = "isolated"
    """The dtype judged, every operation given the oracle's rounded input."""
    PUBLISHED = "published"
    """A number of known weights, held against what others published of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; `(tap, attention, dtype, mode, witness)` is its key.

    Attributes:
        tap: Name of the tap.
        attention: Our attention path.
        dtype: Dtype of the run.
        mode: How the tap was met.
        witness: What it was held against: `oracle` or `huggingface`.
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
        value_witness: The witness's value there.
        minimum_tolerance: The smallest bound that would have passed.
        detail: For a status other than pass, one phrase.
    """

    tap: str
    attention: str
    dtype: str
    mode: Mode
    witness: str
    shape: tuple[int, ...] = ()
    status: Status
    error_ours: float | None = None
    error_reference: float | None = None
    ratio: float | None = None
    bound: float
    amplification: float | None = None
    worst_index: tuple[int, ...] = ()
    value_ours: float | None = None
    value_witness: float | None = None
    minimum_tolerance: float | None = None
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
    per_path: Mapping[str, tuple[int, int]]
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
    liveness: Sequence[BlockLife] = ()
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
