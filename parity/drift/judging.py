"""What keeps rows laid side by side from being a pass, in words and codes."""

from collections.abc import Iterator, Sequence

from parity.drift.changes import unmatched
from parity.drift.contradictions import contradictions
from parity.drift.evidence import Evidence, EvidenceRow
from parity.drift.pairing import differences
from parity.errors import ExitCode
from parity.results import Reason, Verdict

_FEWEST = 2

HAVE_NONE = frozenset({"weights", "golden", "doctor"})
"""Checks without `--fingerprints`: what they look at is held against numbers that do not move."""


def reasons(
    rows: Sequence[EvidenceRow], checks: Sequence[str], code: str | None = None
) -> Iterator[Reason]:
    """Yield every reason, of each row and then of each check.

    Args:
        rows: All of them, those that were not run too.
        checks: Every check that any row has.
        code: What code has to have made every report; None where any may.
    """
    ran = [row for row in rows if row.reports]
    if len(ran) < _FEWEST:
        yield _reason(
            f"{len(ran)} row: there is nothing to lay beside it",
            "the rows",
            "give two or more",
        )
    for row in rows:
        yield from _of_row(row, checks)
        if code is not None:
            yield from _by_other_code(row, code)
    for check in checks:
        yield from _verdicts(check, rows)
        yield from _not_alike(check, rows)
        yield from _unmeasured(check, rows)


def judged(rows: Sequence[EvidenceRow], check: str) -> dict[str, Evidence]:
    """Return the reports of a check that got as far as a verdict, by label."""
    found = {row.label: row.reports[check] for row in rows if check in row.reports}
    return {label: report for label, report in found.items() if report.verdict != Verdict.ERROR}


def _reason(what: str, where: str, fix: str, code: ExitCode = ExitCode.INCONCLUSIVE) -> Reason:
    return Reason(what=what, where=where, fix=fix, code=code)


def _of_row(row: EvidenceRow, checks: Sequence[str]) -> Iterator[Reason]:
    missing = [check for check in checks if check not in row.reports]
    again = "run it, and drift again; a row that is missing does not count as passed"
    if not row.reports:
        yield _reason("not run: it has no report", f"row {row.label}", again)
    elif missing:
        yield _reason(f"no report of {', '.join(missing)}", f"row {row.label}", again)
    said = {check: report.made_under for check, report in row.reports.items()}
    shared = set.intersection(*map(set, said.values())) if said else set()
    alike = {check: {k: v for k, v in of.items() if k in shared} for check, of in said.items()}
    for name, values in differences(alike).items():
        found = "; ".join(f"{value} in {', '.join(of)}" for value, of in values.items())
        yield _reason(
            f"its reports were not made under one {name}: {found}",
            f"row {row.label}",
            "make all reports of a row again, in one environment",
        )


def _by_other_code(row: EvidenceRow, code: str) -> Iterator[Reason]:
    """Yield which of a row's reports were not made by the code that is asked for."""
    others = [name for name, report in row.reports.items() if report.made_under.get("code") != code]
    if others:
        yield _reason(
            f"{', '.join(others)}: made by other code than {code}",
            f"row {row.label}",
            "make its reports again; what older code gave is no verdict on this",
        )


def _verdicts(check: str, rows: Sequence[EvidenceRow]) -> Iterator[Reason]:
    """Yield what the rows answer, where not all of them pass."""
    found: dict[Verdict, list[str]] = {}
    for row in rows:
        if check in row.reports:
            found.setdefault(row.reports[check].verdict, []).append(row.label)
    if set(found) <= {Verdict.PASS}:
        return
    told = "; ".join(f"{verdict} in {', '.join(labels)}" for verdict, labels in found.items())
    alike = set(found) == {Verdict.INCONCLUSIVE}
    yield _reason(
        f"{check}: {told}" if len(found) == 1 else f"{check}: the verdicts differ: {told}",
        next(
            f"{row.label}: {row.reports[check].why}"
            for row in rows
            if check in row.reports and row.reports[check].verdict != Verdict.PASS
        ),
        f"run python -m parity.check {check} there, and read its report",
        ExitCode.INCONCLUSIVE if alike else ExitCode.FAIL,
    )


_SHOWN = 4
"""Entries of a long list that are written out."""


def _not_alike(check: str, rows: Sequence[EvidenceRow]) -> Iterator[Reason]:
    """Yield what the rows' reports of a check are about, where it is not the same."""
    reports = judged(rows, check)
    different = differences({label: report.about for label, report in reports.items()})
    if different:
        told = [
            f"{name} is " + ", ".join(f"{value} in {' '.join(of)}" for value, of in values.items())
            for name, values in different.items()
        ]
        yield _reason(
            f"{check}: the reports are not about the same thing: {_some(told)}",
            f"{check} of {', '.join(reports)}",
            "make them again with the same weights and inputs",
        )
        return
    taken = [(label, report.fingerprints) for label, report in reports.items()]
    taken = [(label, fingerprints) for label, fingerprints in taken if fingerprints]
    for label, fingerprints in taken[1:]:
        first, of_first = taken[0]
        if alone := unmatched(of_first, fingerprints):
            yield _reason(
                f"{check}: one has taps that the other has not: {_some(alone)}",
                f"{check} of {first} and {label}",
                "make both with the same code and the same --attention",
            )
    if lies := list(dict.fromkeys(contradictions([fingerprints for _, fingerprints in taken]))):
        yield _reason(
            f"{check}: one digest has two norms, sketches or shapes: {_some(lies)}",
            f"{check} of {', '.join(label for label, _ in taken)}",
            "a report was changed after it was written, or by other code: make them again",
        )


def _unmeasured(check: str, rows: Sequence[EvidenceRow]) -> Iterator[Reason]:
    """Yield which of a check's reports could tell what moved, and do not."""
    reports = judged(rows, check)
    without = [label for label, report in reports.items() if not report.fingerprints]
    if without and check not in HAVE_NONE:
        yield _reason(
            f"{check}: no fingerprints, so nobody knows what moved",
            f"{check} of {', '.join(without)}",
            f"write it with --fingerprints: python -m parity.check {check} --fingerprints "
            "--output FILE.json",
        )


def _some(told: Sequence[str]) -> str:
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return "; ".join(told[:_SHOWN]) + more
