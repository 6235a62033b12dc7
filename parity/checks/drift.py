"""What moved between rows of reports: two torch versions, two machines, two states of the code?

Right code may move: another version sums in another order. So movement is told, as a number, and
judged by nobody; what is judged is whether every row has every report, all about the same thing,
with what movement can be told from, and all of them pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.compare import Status
from parity.drift.changes import Changes, changes, reordered, unmatched
from parity.drift.contradictions import contradictions
from parity.drift.evidence import EvidenceRow
from parity.drift.findings import Drift, RowLooked, Unknown
from parity.drift.folds import largest
from parity.drift.judging import HAVE_NONE, judged, reasons
from parity.drift.moves import moves
from parity.drift.pairing import differences, notes, pairs, stated
from parity.drift.rows import DriftRow, row_of
from parity.fingerprints import Fingerprint
from parity.results import Plan, Report, verdict_for, worst


def drift(
    rows: Sequence[EvidenceRow],
    identity: Mapping[str, Any] | None = None,
    *,
    same_code: bool = False,
) -> Report:
    """Lay rows side by side.

    Args:
        rows: In the order in which neighbours are compared; one without reports was not run.
        identity: What the verdict says about the code.
        same_code: Give no verdict on reports that other code made than `identity` says.

    Returns:
        A report whose verdict is inconclusive where a row, a report, its fingerprints or a tap are
        missing, or where reports are about different things; it fails where one of them does.
    """
    checks = list(dict.fromkeys(check for row in rows for check in row.reports))
    code = str((identity or {}).get("code")) if same_code else None
    found = list(reasons(rows, checks, code))
    worst_code = worst([reason.code for reason in found])
    results = [row_of(row, check) for row in rows for check in checks]
    return Report(
        check="drift",
        verdict=verdict_for(worst_code),
        exit_code=worst_code,
        identity=identity or {},
        environment={},
        plan=_plan(results),
        results=results,
        reasons=found,
        drift=_drift(rows, checks),
    )


def _plan(results: Sequence[DriftRow]) -> Plan:
    """Return how many reports each row was to have, and how many have a verdict."""
    per_path: dict[str, tuple[int, int]] = {}
    for row in results:
        planned, compared = per_path.get(row.attention, (0, 0))
        per_path[row.attention] = planned + 1, compared + (row.status is not Status.NOT_RUN)
    return Plan(
        planned=len(results),
        compared=sum(compared for _, compared in per_path.values()),
        per_path=per_path,
        exempt=[],
    )


def _drift(rows: Sequence[EvidenceRow], checks: Sequence[str]) -> Drift:
    paired = pairs(rows)
    changed = {check: [_changed(check, *pair) for pair in paired] for check in checks}
    known = {
        check: [found if isinstance(found, Mapping) else None for found in of_pairs]
        for check, of_pairs in changed.items()
    }
    ran = {row.label: row.environment for row in rows if row.reports}
    stood = [stated(*pair) for pair in paired]
    moved = [
        move
        for check, of_pairs in known.items()
        for pair, found in enumerate(of_pairs)
        for move in moves(pair, check, found or {})
    ]
    return Drift(
        rows=[RowLooked(label=row.label, environment=row.environment) for row in rows],
        pairs=stood,
        differences=differences(ran),
        notes=list(notes(stood, moved, _orders(paired, known))),
        moves=moved,
        unknown=[
            Unknown(pair=pair, check=check, why=found)
            for check, of_pairs in changed.items()
            for pair, found in enumerate(of_pairs)
            if isinstance(found, str)
        ],
        largest=[entry for check, of_pairs in known.items() for entry in largest(check, of_pairs)],
    )


def _orders(
    paired: Sequence[tuple[EvidenceRow, EvidenceRow]], known: Mapping[str, Sequence[Changes | None]]
) -> list[bool]:
    """Return for each pair whether taps of it come in another order, where it is known."""
    return [
        any(
            reordered(first.reports[check].fingerprints, second.reports[check].fingerprints)
            for check, of_pairs in known.items()
            if of_pairs[place] is not None
        )
        for place, (first, second) in enumerate(paired)
    ]


def _changed(check: str, first: EvidenceRow, second: EvidenceRow) -> Changes | str:
    """Return how far every tap moved between two rows, or in words why nobody can say."""
    found = judged([first, second], check)
    for row in (first, second):
        if row.label not in found:
            return f"{row.label} has no report with a verdict"
    if found[first.label].about != found[second.label].about:
        return "the reports are not about the same thing"
    if check in HAVE_NONE:
        return "the check takes no fingerprints"
    for row in (first, second):
        if not found[row.label].fingerprints:
            return f"{row.label} was written without --fingerprints"
    return _measured(found[first.label].fingerprints, found[second.label].fingerprints)


def _measured(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Changes | str:
    """Return how far every tap moved; in words, where that would be of some of them alone."""
    if unmatched(first, second):
        return "the taps are not the same"
    if any(contradictions([first, second])):
        return "one digest has two norms, sketches or shapes"
    return changes(first, second)
