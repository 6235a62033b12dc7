"""The drift check: compares the reports of several runs.

Changes are reported as numbers and never fail the check. It passes if every run has every report,
all about the same inputs, with fingerprints, and every report passes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from parity.checks.drift.changes import (
    Change,
    Changes,
    Drift,
    Incomparable,
    Note,
    Pair,
    RunInfo,
    all_changes,
    changes_between,
    largest_changes,
    reordered,
    unmatched,
)
from parity.checks.drift.reading import Evidence, Run, Worst
from parity.checks.drift.sections import sections
from parity.core.fingerprints import Fingerprint, distance
from parity.core.metrics import Status
from parity.core.results import Mode, Plan, Reason, Report, Row, Verdict, finish
from parity.core.tolerances import Bounds
from parity.errors import ExitCode

_STATUSES = {
    Verdict.PASS: Status.PASS,
    Verdict.FAIL: Status.FAIL,
    Verdict.ERROR: Status.FAIL,
    Verdict.INCONCLUSIVE: Status.NOT_RUN,
    None: Status.NOT_RUN,
}


def drift_row(row: Run, check: str) -> Row:
    """Return the row of one run's report of one check."""
    report = row.reports.get(check)
    exact = report.float64 if report else Worst()
    ratio = report.ratio if report else Worst()
    verdict = report.verdict if report else None
    return Row(
        tap=check,
        backend=row.label,
        dtype="",
        mode=Mode.EXACT,
        against="report",
        status=_STATUSES[verdict],
        error_ours=exact.value,
        ratio=ratio.value,
        bound=Bounds().float64,
        required_tolerance=exact.value,
        detail=report.why if report else "not run",
        details={
            "verdict": verdict,
            "float64_tap": exact.tap,
            "ratio_tap": ratio.tap,
            "fingerprints": len(report.fingerprints) if report else 0,
        },
    )


# Which runs are compared, and what differs between their environments.


Differences = Mapping[str, Mapping[str, Sequence[str]]]
"""By name and value, the labels of the runs with this value."""


def pair_runs(rows: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the pairs of neighbours among the runs with reports, and the first with the last."""
    ran = [row for row in rows if row.reports]
    found = list(pairwise(ran))
    return [*found, (ran[0], ran[-1])] if len(found) > 1 else found


def stated_differences(first: Run, second: Run) -> Pair:
    """Return a pair with the differences between the environments of its runs."""
    mine, other = first.environment, second.environment
    differs = {
        name: (mine.get(name, _ABSENT), other.get(name, _ABSENT))
        for name in {**mine, **other}
        if mine.get(name) != other.get(name)
    }
    return Pair(first=first.label, second=second.label, differs=differs)


_ABSENT = "not stated"


def differences(rows: Mapping[str, Mapping[str, str]]) -> Differences:
    """Return what is not the same for all labels, by name and value."""
    names = dict.fromkeys(name for stated in rows.values() for name in stated)
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        values: dict[str, list[str]] = {}
        for label, stated in rows.items():
            values.setdefault(stated.get(name, _ABSENT), []).append(label)
        if len(values) > 1:
            found[name] = values
    return found


_SUMS = {
    "threads": "threads",
    "cpu_capability": "vector instructions (cpu_capability)",
    "platform": "platforms",
}
"""Settings that change the order of sums in every version."""


def pairing_notes(
    pairs: Sequence[Pair], moves: Sequence[Change], orders: Sequence[bool]
) -> Iterator[Note]:
    """Yield causes of changes other than the version.

    `moves` are the changes between the pairs, `orders` whether their taps come in different orders.
    """
    sums = [words for name, words in _SUMS.items() if any(name in p.differs for p in pairs)]
    oracle = {move.pair for move in moves if move.side == "oracle" and move.moved}
    given = {
        move.pair
        for move in moves
        if move.moved and move.side == "oracle" and move.mode == Mode.PER_OP
    }
    if summed := [at for at, pair in enumerate(pairs) if pair.differs.keys() & _SUMS.keys()]:
        yield Note(
            pairs=summed,
            what=f"the rows have different {' and '.join(sums)}: sums are taken in another order, "
            "which may change numbers without a change of version",
        )
    found = {
        "the rows were made by different code, which may be the cause of a change": [
            at for at, pair in enumerate(pairs) if "code" in pair.differs
        ],
        "the oracle changed too, so NumPy's products did": sorted(oracle - given),
        "the oracle changed too, so NumPy's products did, and with them the per-op inputs: whether "
        "those operations changed by themselves is unknown": sorted(given),
        "some taps come in another order; the first change is that in the first row's order": [
            at for at, turned in enumerate(orders) if turned
        ],
    }
    yield from (Note(pairs=where, what=what) for what, where in found.items() if where)


_ROUNDING = 1e-12
"""Relative rounding of norms and sketches; on one machine those of one tensor are equal."""


def contradictions(reports: Sequence[Sequence[Fingerprint]]) -> Iterator[str]:
    """Yield every tap with equal digests but different norms, sketches or shapes in two reports."""
    first: dict[tuple[str, str, str, str, str], Fingerprint] = {}
    for report in reports:
        for found in report:
            run = (found.subject, found.dtype, found.mode, found.tap)
            known = first.setdefault((*run, found.digest), found)
            if not _alike(known, found):
                yield " ".join(run)


def _alike(one: Fingerprint, other: Fingerprint) -> bool:
    """Return whether two fingerprints can be of one tensor."""
    sizes = (one.shape, one.norm, one.sketch), (other.shape, other.norm, other.sketch)
    if sizes[0] == sizes[1]:
        return True
    if one.shape != other.shape or one.norm is None or other.norm is None:
        return False
    apart = distance(one.sketch, other.sketch)
    return math.isclose(one.norm, other.norm, rel_tol=_ROUNDING) and apart <= one.norm * _ROUNDING


_FEWEST = 2

HAVE_NONE = frozenset({"weights", "golden", "doctor", "invariants", "selftest", "all"})
"""Checks without `--fingerprints`: their references are fixed numbers, or they run other checks."""


def drift_reasons(
    rows: Sequence[Run], checks: Sequence[str], code: str | None = None
) -> Iterator[Reason]:
    """Yield every reason, of each run and then of each check.

    Args:
        rows: All runs, also those without reports.
        checks: Every check of any run.
        code: The code that must have made every report; None for any.
    """
    ran = [row for row in rows if row.reports]
    if len(ran) < _FEWEST:
        yield _reason(
            f"{len(ran)} row: at least two are needed",
            "the rows",
            "give two or more",
        )
    for row in rows:
        yield from _of_row(row, checks)
        others = [name for name, of in row.reports.items() if of.made_under.get("code") != code]
        if code is not None and others:
            yield _reason(
                f"{', '.join(others)}: made by other code than {code}",
                f"row {row.label}",
                "make its reports again with this code",
            )
    for check in checks:
        yield from _verdicts(check, rows)
        yield from _not_alike(check, rows)
        yield from _unmeasured(check, rows)


def judge_drift(rows: Sequence[Run], check: str) -> dict[str, Evidence]:
    """Return the reports of a check that have a verdict, by label."""
    found = {row.label: row.reports[check] for row in rows if check in row.reports}
    return {label: report for label, report in found.items() if report.verdict != Verdict.ERROR}


def _reason(what: str, where: str, fix: str, code: ExitCode = ExitCode.INCONCLUSIVE) -> Reason:
    return Reason(what=what, where=where, fix=fix, code=code)


def _of_row(row: Run, checks: Sequence[str]) -> Iterator[Reason]:
    missing = [check for check in checks if check not in row.reports]
    again = "run the check, then drift again; a missing row is not a pass"
    if not row.reports:
        yield _reason("not run: it has no report", f"row {row.label}", again)
    elif missing:
        yield _reason(f"no report of {', '.join(missing)}", f"row {row.label}", again)
    stated = {check: report.made_under for check, report in row.reports.items()}
    shared = set.intersection(*map(set, stated.values())) if stated else set()
    common = {check: {k: v for k, v in of.items() if k in shared} for check, of in stated.items()}
    for name, values in differences(common).items():
        found = "; ".join(f"{value} in {', '.join(of)}" for value, of in values.items())
        yield _reason(
            f"its reports were not made under one {name}: {found}",
            f"row {row.label}",
            "make all reports of a row again, in one environment",
        )


def _verdicts(check: str, rows: Sequence[Run]) -> Iterator[Reason]:
    """Yield a reason with the verdicts of a check, unless all of them pass."""
    found: dict[Verdict, list[str]] = {}
    for row in rows:
        if check in row.reports:
            found.setdefault(row.reports[check].verdict, []).append(row.label)
    if set(found) <= {Verdict.PASS}:
        return
    listed = "; ".join(f"{verdict} in {', '.join(labels)}" for verdict, labels in found.items())
    inconclusive = set(found) == {Verdict.INCONCLUSIVE}
    yield _reason(
        f"{check}: {listed}" if len(found) == 1 else f"{check}: the verdicts differ: {listed}",
        next(
            f"{row.label}: {row.reports[check].why}"
            for row in rows
            if check in row.reports and row.reports[check].verdict != Verdict.PASS
        ),
        f"run python -m parity.check {check} there, and read its report",
        ExitCode.INCONCLUSIVE if inconclusive else ExitCode.FAIL,
    )


_SHOWN = 4
"""Entries of a long list that a message has."""


def _not_alike(check: str, rows: Sequence[Run]) -> Iterator[Reason]:
    """Yield reasons if the reports of a check have different inputs or taps, or contradict."""
    reports = judge_drift(rows, check)
    different = differences({label: report.about for label, report in reports.items()})
    if different:
        listed = [
            f"{name} is " + ", ".join(f"{value} in {' '.join(of)}" for value, of in values.items())
            for name, values in different.items()
        ]
        yield _reason(
            f"{check}: the reports are not about the same thing: {_some(listed)}",
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
                "make both with the same code and the same --backend",
            )
    if wrong := list(dict.fromkeys(contradictions([fingerprints for _, fingerprints in taken]))):
        yield _reason(
            f"{check}: one digest has two norms, sketches or shapes: {_some(wrong)}",
            f"{check} of {', '.join(label for label, _ in taken)}",
            "a report was changed after it was written, or by other code: make them again",
        )


def _unmeasured(check: str, rows: Sequence[Run]) -> Iterator[Reason]:
    """Yield a reason if reports of a check lack fingerprints."""
    reports = judge_drift(rows, check)
    without = [label for label, report in reports.items() if not report.fingerprints]
    if without and check not in HAVE_NONE:
        yield _reason(
            f"{check}: no fingerprints, so changes cannot be computed",
            f"{check} of {', '.join(without)}",
            f"write it with --fingerprints: python -m parity.check {check} --fingerprints "
            "--output FILE.json",
        )


def _some(listed: Sequence[str]) -> str:
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more


def drift(
    rows: Sequence[Run],
    identity: Mapping[str, Any] | None = None,
    *,
    same_code: bool = False,
) -> Report:
    """Compare the reports of several runs.

    Args:
        rows: The runs, in the order in which neighbours are compared.
        identity: The code, for the report.
        same_code: Require every report to come from the code in `identity`.

    Returns:
        A report. It fails if one of the reports does. It is inconclusive if a run, a report, its
        fingerprints or a tap is missing, or if reports have different inputs.
    """
    checks = list(dict.fromkeys(check for row in rows for check in row.reports))
    code = str((identity or {}).get("code")) if same_code else None
    found = list(drift_reasons(rows, checks, code))
    results = [drift_row(row, check) for row in rows for check in checks]
    per_backend: dict[str, tuple[int, int]] = {}
    for row in results:
        planned, compared = per_backend.get(row.backend, (0, 0))
        per_backend[row.backend] = planned + 1, compared + (row.status is not Status.NOT_RUN)
    plan, found_drift = Plan.of(per_backend), _drift(rows, checks)
    known = sum(row.details["fingerprints"] > 0 for row in results)
    return finish(
        "drift",
        rows=results,
        plan=plan,
        identity=identity,
        reasons=found,
        sections=list(sections(results, found_drift)),
        details=vars(found_drift),
        summary=(
            f"{plan.compared} of {_counted(plan.planned, 'report')} compared, "
            f"in {_counted(len(rows), 'row')}; {known} with fingerprints"
        ),
    )


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + "s" * (number != 1)


def _drift(rows: Sequence[Run], checks: Sequence[str]) -> Drift:
    paired = pair_runs(rows)
    changed = {check: [_changed(check, *pair) for pair in paired] for check in checks}
    known = {
        check: [found if isinstance(found, Mapping) else None for found in of_pairs]
        for check, of_pairs in changed.items()
    }
    ran = {row.label: row.environment for row in rows if row.reports}
    stood = [stated_differences(*pair) for pair in paired]
    moved = [
        move
        for check, of_pairs in known.items()
        for pair, found in enumerate(of_pairs)
        for move in changes_between(pair, check, found or {})
    ]
    return Drift(
        rows=[RunInfo(label=row.label, environment=row.environment) for row in rows],
        pairs=stood,
        differences=differences(ran),
        notes=list(pairing_notes(stood, moved, _orders(paired, known))),
        moves=moved,
        unknown=[
            Incomparable(pair=pair, check=check, why=found)
            for check, of_pairs in changed.items()
            for pair, found in enumerate(of_pairs)
            if isinstance(found, str)
        ],
        largest=[
            entry for check, of_pairs in known.items() for entry in largest_changes(check, of_pairs)
        ],
    )


def _orders(
    paired: Sequence[tuple[Run, Run]], known: Mapping[str, Sequence[Changes | None]]
) -> list[bool]:
    """Return for each pair whether its taps come in different orders, as far as known."""
    return [
        any(
            reordered(first.reports[check].fingerprints, second.reports[check].fingerprints)
            for check, of_pairs in known.items()
            if of_pairs[place] is not None
        )
        for place, (first, second) in enumerate(paired)
    ]


def _changed(check: str, first: Run, second: Run) -> Changes | str:
    """Return the change of every tap between two runs, or the reason why it cannot be computed."""
    found = judge_drift([first, second], check)
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
    both = found[first.label].fingerprints, found[second.label].fingerprints
    if unmatched(*both):
        return "the taps are not the same"
    contradict = any(contradictions(both))
    return "one digest has two norms, sketches or shapes" if contradict else all_changes(*both)
