"""Rows and reports.

A check makes rows. `finish` derives verdict and exit code from them, and returns the report that
`parity.report` renders. Tables that only one check has are sections: data, not layout.
"""

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from parity.core.environment import commit
from parity.core.fingerprints import Fingerprint
from parity.core.liveness import BlockHealth
from parity.core.metrics import Status
from parity.core.patterns import size_like
from parity.core.taps import Tap
from parity.errors import ExitCode, ParityError
from reference import compat
from scratch_gpt.errors import one_line

SCHEMA_VERSION = 2
"""Version of the JSON form; a change of a key's meaning raises it."""


class Verdict(StrEnum):
    """The answer of a run."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Mode(StrEnum):
    """How one comparison is made."""

    EXACT = "exact"
    """Bit for bit; no computation."""
    FLOAT64 = "float64"
    """float64; each side continues with its own numbers."""
    END_TO_END = "end-to-end"
    """The checked dtype; each side continues with its own numbers."""
    PER_OP = "per-op"
    """The checked dtype; every operation gets the oracle's rounded input."""
    FLOAT64_PER_OP = "float64-per-op"
    """float64; every operation gets the oracle's input."""
    PUBLISHED = "published"
    """A number computed from known weights, compared with the published one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; `(tap, backend, dtype, mode, against)` is its key.

    Attributes:
        tap: Name of what is compared: a tap, a tensor, a rule, a source of strings.
        backend: Subject of the comparison: our backend; in `weights` and `tokens` the side.
        against: Reference: `oracle`, `huggingface`, `uncached`, `published`, ...
        error_ours: Our error. In float64 the largest difference, else the RMS of the
            differences, each over the reference's RMS; in mode exact the number of mismatches.
        error_reference: Hugging Face's own error, where the reference is the oracle.
        ratio: Our error over Hugging Face's, the latter at least the dtype's unit roundoff.
        bound: Limit of `error_ours` in float64 and in mode exact, else of `ratio`.
        amplification: Our error over the largest error among the inputs of this tap.
        worst_index: Index of the largest difference.
        value_ours: Our value there; `value_against` is the reference's.
        required_tolerance: The smallest bound that would pass.
        detail: One phrase about a status other than pass.
        details: Facts that only rows of this check have.
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
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstDivergence:
    """The first failing row in network order, what was found there, and its likely cause."""

    tap: str
    why: str
    suspects: str
    row: Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrongOperation:
    """An operation of a watched candidate that makes something else than the reference's.

    Attributes:
        tap: The reference's tap that is not there, and in which blocks.
        place: Module, file and line, and operation.
        file: Path of the candidate's source; "" if it has none. `line` counts from 1.
        code: The line.
        fault: Name of the fault that reproduces the candidate's tensor; "" if none does.
        diagnosis: In words, with numbers.
        fix: As code, if it can be.
    """

    tap: str
    place: str
    code: str
    fault: str
    diagnosis: str
    fix: str
    file: str = ""
    line: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was planned and what was compared.

    Attributes:
        compared: Planned comparisons, over all backends, of which every row was compared.
        per_backend: For each backend (planned, compared).
        exempt: What was not planned: backend, tap and reason.
    """

    planned: int
    compared: int
    per_backend: Mapping[str, tuple[int, int]]
    exempt: Sequence[Mapping[str, str]] = ()

    @classmethod
    def of(
        cls, per_backend: Mapping[str, tuple[int, int]], exempt: Sequence[Mapping[str, str]] = ()
    ) -> "Plan":
        """Return the plan whose totals are the sums over its backends."""
        planned, compared = (
            map(sum, zip(*per_backend.values(), strict=True)) if per_backend else (0, 0)
        )
        return cls(planned=planned, compared=compared, per_backend=per_backend, exempt=exempt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a run is no pass beside its rows: what, where, and how to fix it."""

    what: str
    where: str
    fix: str
    code: ExitCode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of `doctor`: what was examined, and what was found.

    Attributes:
        fit: Whether results can be trusted; None for information only.
        why: The consequence if they cannot.
    """

    name: str
    found: str
    fit: bool | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report as data: a title, a table, and lines of text, each optional.

    Attributes:
        name: What it is; several sections of a report may have the same.
        columns: Column names; without any the table has no header.
        right: Indices of right-justified columns.
        folds: Indices of columns that may take several lines.
        splits: Whether no column folds before the table is split; one too wide for a page is split.
        group: Tables of one group have equal column widths.
        marks: For each row `guilty`, `inherited`, `note` or nothing; empty for a table without.
        note: Explanation below the table.
        lines: Text below everything else.
        failed: Whether the title is that of a failure.
    """

    name: str = ""
    title: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    right: Sequence[int] = ()
    folds: Sequence[int] = ()
    splits: bool = False
    group: str = ""
    marks: Sequence[str] = ()
    note: str = ""
    lines: Sequence[str] = ()
    failed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """A finished check.

    Attributes:
        check: The verb.
        identity: Weights, config and code.
        environment: Versions and settings.
        reasons: Why the run is no pass, beside its rows.
        consequences: Effect on loss, probabilities and rankings, by backend.
        liveness: For each block the sharpness of attention and the similarity of positions.
        explanation: Result of `--explain`.
        findings: Results of `doctor`.
        fingerprints: Of every compared tensor, with `--fingerprints`.
        sections: Tables and facts that only this check has; they replace the table of rows.
        wrong: The wrong operations of a watched candidate, in network order.
        appendix: Tables beside the table of rows.
        details: The same for programs.
        summary: Words of the last line; empty for the counts of the plan.
        command: The command line that made it; empty for a call from Python.
        version: Of this package.
        commit: Of the checkout that ran, with `-dirty` if it has changes; empty without one.
        seconds: Wall-clock time of the command; None for a call from Python.
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
    sections: Sequence[Section] = ()
    wrong: Sequence[WrongOperation] = ()
    appendix: Sequence[Section] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    summary: str = ""
    command: str = ""
    version: str = ""
    commit: str = ""
    seconds: float | None = None

    def __repr__(self) -> str:
        """Return check, verdict and counts; `str` returns the report as text."""
        counts = f"{self.plan.compared} of {self.plan.planned} compared"
        return f"<Report {self.check}: {self.verdict.value}, {counts}>"

    def __str__(self) -> str:
        """Return the report as text."""
        from parity.report import rendered

        return rendered(self, "text")

    def _repr_html_(self) -> str:
        """Return the page as a notebook shows it: in a frame of its own, with its own style."""
        from parity.report import rendered

        page = html.escape(rendered(self, "html"))
        return (
            f'<iframe sandbox srcdoc="{page}" title="report of {html.escape(self.check)}" '
            'style="width: 100%; height: 40em; border: 0"></iframe>'
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, whose suffix selects the form: .html, .md, .json, .xml, .txt.

        An older report there is replaced.

        Raises:
            UsageError: The suffix is another one, or the file there is no report.
            EnvironmentUnfitError: The file cannot be written.
        """
        from parity.report import save

        save(self, Path(path))

    def raise_for_verdict(self) -> None:
        """Raise an error with the report as its text, unless the verdict is a pass.

        Raises:
            ParityFailedError: The verdict is another one.
        """
        if self.verdict is not Verdict.PASS:
            raise ParityFailedError(self)


class ParityFailedError(AssertionError):
    """A report's verdict is no pass; `report` is that report, and its text the message."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        from parity.report.content import verdict_line

        line = verdict_line(self.report)
        return f"{self.report.verdict.value}: {one_line(line)}\n{self.report}"


_WORST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.REFUSED,
    ExitCode.ENVIRONMENT,
    *(ExitCode.USAGE, ExitCode.INTERRUPTED, ExitCode.CLOSED_PIPE),
    ExitCode.FAIL,
    ExitCode.INCONCLUSIVE,
    ExitCode.PASS,
)


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """Return the code that wins where several apply; PASS where none does."""
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.PASS)


def verdict_for(code: ExitCode) -> Verdict:
    """Return the verdict of an exit code."""
    answers = (ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE)
    return Verdict[code.name] if code in answers else Verdict.ERROR


_NOT_COMPARED = (Status.MISSING, Status.NOT_RUN)
_DECIDING_ORDER = (
    (Mode.FLOAT64, Mode.FLOAT64_PER_OP),
    (Mode.PER_OP,),
    (Mode.END_TO_END,),
)
"""float64 shows that something is wrong, and by operation where it starts, if that is earlier; in
the checked dtype per-op points at the operation; end-to-end comes last."""


def compared(names: Sequence[str], rows: Sequence[Row]) -> int:
    """Return of how many names there are rows, every one of them compared."""
    incomplete = {row.tap for row in rows if row.status in _NOT_COMPARED}
    there = {row.tap for row in rows} - incomplete
    return sum(name in there for name in names)


def count(
    plan: Mapping[str, Sequence[Tap]],
    rows: Sequence[Row],
    absent: Mapping[str, Mapping[str, str]],
) -> Plan:
    """Return how many taps were planned on each backend, and of how many every row was compared.

    Args:
        plan: The planned taps by backend.
        rows: The results.
        absent: For each backend the taps that were not planned, each with the reason.
    """
    per_backend = {
        backend: (
            len(taps),
            compared([tap.name for tap in taps], [row for row in rows if row.backend == backend]),
        )
        for backend, taps in plan.items()
    }
    exempt = [
        {"backend": backend, "tap": tap, "reason": why}
        for backend, taps in absent.items()
        for tap, why in taps.items()
    ]
    return Plan.of(per_backend, exempt)


def first_divergence(
    plan: Mapping[str, Sequence[Tap]], rows: Sequence[Row]
) -> FirstDivergence | None:
    """Return the first failing tap in network order; None where every row passes.

    The modes that locate a fault best come first.
    """
    # The backend that forms the most taps gives their order.
    longest_first = sorted(plan.values(), key=len, reverse=True)
    suspects = {tap.name: tap.kind.suspects for taps in longest_first for tap in taps}
    place = {name: at for at, name in enumerate(suspects)}
    for modes in _DECIDING_ORDER:
        failing = [row for row in rows if row.mode in modes and row.status is not Status.PASS]
        if failing:
            row = min(failing, key=lambda row: place.get(row.tap, len(place)))
            # A likely cause belongs to a number that is wrong, not to a shape or a missing tap.
            cause = suspects.get(row.tap, "") if row.status is Status.FAIL else ""
            if cause and (hidden := _hidden_before(row, plan)):
                # Numbers that went through more operations show no pattern of the wrong one.
                cause = f"any operation after {hidden}: the taps between are not shown"
            elif cause:
                cause = _shown_cause(row, rows, cause)
            return FirstDivergence(tap=row.tap, why=difference_found(row), suspects=cause, row=row)
    return None


def _shown_cause(row: Row, rows: Sequence[Row], usual: str) -> str:
    """Return the cause that the numbers of a wrong tensor show, else the usual one at its tap."""
    own = [one for one in rows if (one.backend, one.tap) == (row.backend, row.tap)]
    shown = next((one.details for one in own if "cause" in one.details), {})
    if shown:
        return "; ".join(part for part in (shown["note"], shown["cause"] or usual) if part)
    in_float64 = [one for one in own if one.mode is Mode.FLOAT64]
    if row.mode in (Mode.FLOAT64, Mode.FLOAT64_PER_OP) or not in_float64:
        return usual
    # Only the rounding differs: no other formula is to be looked for.
    narrow = size_like(row.error_ours or 0.0)
    finer = narrow if narrow not in ("", row.dtype) else f"a type narrower than {row.dtype}"
    return (
        f"the function is right in float64: an operation here computes in {finer}, or sums in it; "
        f"or it is right and loses digits (a difference of large numbers)"
    )


def _hidden_before(row: Row, plan: Mapping[str, Sequence[Tap]]) -> str:
    """Return the last tap before a row's, if none of those that feed it is in the plan."""
    taps = plan.get(row.backend, ())
    names = [tap.name for tap in taps]
    tap = next((tap for tap in taps if tap.name == row.tap), None)
    if tap is None or not tap.inputs or any(name in names for name in tap.inputs):
        return ""
    return ["the token ids", *names[: names.index(row.tap)]][-1]


def first_exact_difference(rows: Sequence[Row]) -> FirstDivergence | None:
    """Return the first tensor that is not the source's, in the order of the rows."""
    failing = next((row for row in rows if row.status is not Status.PASS), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=difference_found(failing),
        suspects="a transposed, swapped or cast tensor; a name that the mapping does not have",
        row=failing,
    )


def reference_of(row: Row) -> str:
    """Return what a row is compared with, in words."""
    return "Hugging Face" if row.against == "huggingface" else f"the {row.against}"


def difference_found(row: Row) -> str:
    """Return what was found, in one phrase with its numbers."""
    if row.status is not Status.FAIL:
        return f"{row.status}: {row.detail}" if row.detail else row.status.value
    if row.detail and row.mode is Mode.PUBLISHED:
        return row.detail
    against = reference_of(row)
    if row.required_tolerance is None:
        return f"its error to {against} is no finite number"
    if row.mode is Mode.EXACT:
        return f"{row.error_ours:,.0f} of its elements differ from {against}'s"
    if row.mode in (Mode.FLOAT64, Mode.FLOAT64_PER_OP):
        whose = " on equal inputs" if row.mode is Mode.FLOAT64_PER_OP else ""
        return (
            f"in float64{whose} it differs from {against} by {row.error_ours:.2g} of its RMS; "
            f"right code stays within {row.bound:.3g}"
        )
    found, to = row.ratio, "times Hugging Face's"
    if found is None:
        found, to = row.required_tolerance, "in all"
    return (
        f"in {row.dtype} ({row.mode}) its error to the oracle is {found:.3g} {to}; "
        f"the bound is {row.bound:g}"
    )


def error_report(error: ParityError, check: str) -> Report:
    """Return the report of a run that ended before it had one."""
    reason = Reason(what=error.what, where=error.where, fix=error.fix, code=error.exit_code)
    return Report(
        check=check,
        verdict=verdict_for(error.exit_code),
        exit_code=error.exit_code,
        identity={},
        environment={},
        plan=Plan(planned=0, compared=0, per_backend={}, exempt=[]),
        reasons=[reason],
        summary=error.what,
    )


def finish(  # noqa: PLR0913 - the parts of a report
    check: str,
    *,
    rows: Sequence[Row],
    plan: Plan,
    identity: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    reasons: Sequence[Reason] = (),
    liveness: Sequence[BlockHealth] = (),
    findings: Sequence[Finding] = (),
    **parts: Any,  # noqa: ANN401 - other fields of a report
) -> Report:
    """Return the report of a check, its verdict derived from rows, plan, reasons and findings."""
    code, found = exit_code(plan, rows, reasons, liveness, findings)
    return Report(
        check=check,
        verdict=verdict_for(code),
        exit_code=code,
        identity=identity or {},
        environment=environment or {},
        plan=plan,
        results=rows,
        reasons=found,
        liveness=liveness,
        findings=findings,
        version=compat.describe("gpt1-parity"),
        commit=commit(),
        **parts,
    )


def exit_code(
    plan: Plan,
    rows: Sequence[Row],
    reasons: Sequence[Reason],
    blocks: Sequence[BlockHealth] = (),
    findings: Sequence[Finding] = (),
) -> tuple[ExitCode, list[Reason]]:
    """Return the exit code, and every reason why the run is no pass beside its rows."""
    found = list(dict.fromkeys(reasons))  # two modes may have the same
    if dead := [why for block in blocks if (why := block.dead) is not None]:
        found.append(
            Reason(
                what="the model is dead at depth: faults inside such a block do not show",
                where="; ".join(dead[:3]),
                fix="compare on trained or surrogate weights, and on ids that differ",
                code=ExitCode.INCONCLUSIVE,
            )
        )
    codes = [reason.code for reason in found]
    if any(finding.fit is False for finding in findings):
        codes.append(ExitCode.INCONCLUSIVE)
    if plan.compared == 0:
        if ExitCode.INCONCLUSIVE not in codes:
            found.append(
                Reason(
                    what="nothing was compared",
                    where=f"{plan.planned} taps were planned",
                    fix="check that the model shows its taps under the names of "
                    "parity/core/taps.py",
                    code=ExitCode.INCONCLUSIVE,
                )
            )
        # All rows are missing then: no difference was seen.
        return worst([*codes, ExitCode.INCONCLUSIVE]), found
    if any(row.status not in (Status.PASS, Status.NOT_RUN) for row in rows):
        codes.append(ExitCode.FAIL)
    if plan.compared != plan.planned:
        codes.append(ExitCode.INCONCLUSIVE)
    return worst(codes), found
