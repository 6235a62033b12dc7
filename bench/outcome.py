"""What became of each row: figures, statuses, and the exit code that follows. Pure."""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum

from bench.statistics import Spread
from parity.errors import ExitCode


class Status(StrEnum):
    """What became of one row."""

    MET = "met"
    MISSED = "missed"
    REPORTED = "reported"  # no bound was set
    WRONG = "wrong"  # a kernel that computes something else gets no time
    INCONCLUSIVE = "inconclusive"  # faster than the machine can be
    OOM = "OOM"
    NOT_PLANNED = "not planned"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row of the report.

    Attributes:
        name: The row's name.
        work: What is done.
        against: What it is held against.
        status: What became of it.
        bound: Largest ratio held to; None where none is.
        ratio: Our figure over theirs; None where there is none.
        ours: Our own figure, in `unit`.
        theirs: Theirs.
        unit: `s`, `byte`, or nothing where the ratio alone is measured.
        why: For any status but met, missed and reported, one phrase; for these, what else to know.
    """

    name: str
    work: str
    against: str
    status: Status
    bound: float | None = None
    ratio: Spread | None = None
    ours: Spread | None = None
    theirs: Spread | None = None
    unit: str = "s"
    why: str = ""

    @property
    def noisy(self) -> bool:
        """Whether the ratio's spread is too wide for its median to mean much."""
        return self.ratio is not None and self.ratio.noisy


def judged(ratio: Spread, bound: float | None) -> Status:
    """Return whether a figure keeps its bound. Written so that NaN misses it."""
    if bound is None:
        return Status.REPORTED
    return Status.MET if ratio.median <= bound else Status.MISSED


_CODES = {
    Status.WRONG: ExitCode.FAIL,
    Status.MISSED: ExitCode.FAIL,
    Status.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Status.OOM: ExitCode.INCONCLUSIVE,
}


def exit_code(outcomes: Sequence[Outcome]) -> ExitCode:
    """Return 1 where a bound was missed or a kernel was wrong, 3 where too little was measured.

    A row that this machine cannot run at all (no GPU, no bfloat16) is no failure; a report in
    which nothing was measured is no pass.
    """
    codes = {_CODES[outcome.status] for outcome in outcomes if outcome.status in _CODES}
    if ExitCode.FAIL in codes:
        return ExitCode.FAIL
    measured = any(outcome.status in {Status.MET, Status.REPORTED} for outcome in outcomes)
    return ExitCode.INCONCLUSIVE if codes or not measured else ExitCode.PASS
