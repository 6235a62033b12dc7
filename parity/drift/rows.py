"""A row of a drift's report: one row's report of one check."""

import dataclasses

from parity.compare import Status
from parity.drift.evidence import EvidenceRow, Worst
from parity.results import Mode, Row, Verdict
from parity.tolerances import Bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftRow(Row):
    """One report; `tap` is its check, `attention` the row's label, `error_ours` the worst identity.

    Attributes:
        verdict: The report's own; None where there is no report.
        identity_tap: Where the worst identity error is.
        ratio_tap: Where the worst ratio is.
        fingerprints: How many it has.
    """

    verdict: Verdict | None
    identity_tap: str
    ratio_tap: str
    fingerprints: int


_STATUSES = {
    Verdict.PASS: Status.PASS,
    Verdict.FAIL: Status.FAIL,
    Verdict.ERROR: Status.FAIL,
    Verdict.INCONCLUSIVE: Status.NOT_RUN,
    None: Status.NOT_RUN,
}


def row_of(row: EvidenceRow, check: str) -> DriftRow:
    """Return the row of a check."""
    report = row.reports.get(check)
    identity = report.identity if report else Worst()
    ratio = report.ratio if report else Worst()
    verdict = report.verdict if report else None
    return DriftRow(
        tap=check,
        attention=row.label,
        dtype="",
        mode=Mode.EXACT,
        witness="report",
        status=_STATUSES[verdict],
        error_ours=identity.value,
        ratio=ratio.value,
        bound=Bounds().identity,
        minimum_tolerance=identity.value,
        detail=report.why if report else "not run",
        verdict=verdict,
        identity_tap=identity.tap,
        ratio_tap=ratio.tap,
        fingerprints=len(report.fingerprints) if report else 0,
    )
