"""From figures to outcomes: rows that have one, judged, and rows that have none."""

import dataclasses
import math
from collections.abc import Sequence

from bench.contest import Contest
from bench.outcome import Outcome, Status, judged
from bench.statistics import Spread, ratios, spread
from bench.task import Row


def timed_outcome(row: Row, contest: Contest) -> Outcome:
    """Return one row of a contest."""
    for name in (row.ours, row.against):
        if name in contest.out:
            error = contest.out[name]
            return open_row(row, error.status, f"{name}: {error.why}")
    ours, theirs = contest.taken[row.ours], contest.taken[row.against]
    remarks = dict.fromkeys(contest.ready[name].remark for name in (row.ours, row.against))
    found = closed_row(row, spread(ratios(ours, theirs)), spread(ours), spread(theirs))
    return dataclasses.replace(found, why="; ".join(filter(None, remarks)))


def closed_row(
    row: Row, ratio: Spread, ours: Spread | None, theirs: Spread | None, unit: str = "s"
) -> Outcome:
    """Return a row that has a figure, judged."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=judged(ratio, row.bound), bound=row.bound, ratio=ratio, ours=ours,
                   theirs=theirs, unit=unit)  # fmt: skip


def open_row(row: Row, status: Status, why: str) -> Outcome:
    """Return a row that has none."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=status, bound=row.bound, why=why)  # fmt: skip


def somewhere_below(outcomes: Sequence[Outcome], against: str, bound: float) -> str:
    """Return, in words, the smallest ratio against a peer, and whether it is below a bound.

    Of the rows that are held to something; nothing where none of them was asked for.
    """
    found = [o for o in outcomes if o.against == against and o.ratio is not None]
    found = [o for o in found if o.bound is not None]
    least = min(found, key=lambda o: o.ratio.median if o.ratio else math.inf, default=None)
    if least is None or least.ratio is None:
        return ""
    kept = "met" if least.ratio.median < bound else "MISSED"
    return (f"below {bound:g} somewhere against {against}: {kept}, "
            f"{least.ratio.median:.2f} at {least.name}")  # fmt: skip
