"""The regression gate: what is worse, what is gone, and whose baseline is refused."""

import math

import pytest

from bench.baseline import MARGIN, SAME, Change, changed, compare, exit_code, gate
from bench.results import BenchRun, Outcome, Spread, Status
from parity.errors import InputRejectedError

MACHINE = dict.fromkeys(SAME, "this")


def row(name: str, ratio: float | None, *, around: float = 0.0) -> Outcome:
    """Return a row whose ratio has quartiles that far on either side; none at all where None."""
    found = None if ratio is None else Spread(ratio, ratio - around, ratio + around, 5)
    status = Status.OOM if found is None else Status.REPORTED
    return Outcome(name=name, work="w", against="p", status=status, ratio=found)


def run(*outcomes: Outcome, **machine: str) -> BenchRun:
    """Return a run on this machine, but for what is said otherwise."""
    return BenchRun(machine=MACHINE | machine, limits={}, outcomes=outcomes)


@pytest.mark.parametrize(
    ("now", "then", "around", "change"),
    [
        (1.0, 1.0, 0.0, Change.SAME),
        (1.0 + MARGIN / 2, 1.0, 0.0, Change.SAME),
        (1.0 + 2 * MARGIN, 1.0, 0.0, Change.WORSE),
        (1.0 + 2 * MARGIN, 1.0, MARGIN, Change.SAME),
        (1.0 - 2 * MARGIN, 1.0, 0.0, Change.BETTER),
        (1.0 - 2 * MARGIN, 1.0, MARGIN, Change.SAME),
        (math.nan, 1.0, 0.0, Change.WORSE),
        (None, 1.0, 0.0, Change.GONE),
    ],
)
def test_a_change_is_what_neither_spread_explains(
    now: float | None, then: float, around: float, change: Change
) -> None:
    """The margin lies beyond both spreads; no number, and no figure, are no luck."""
    before = row("a", then, around=around).ratio
    assert before is not None
    assert change is changed(row("a", now, around=around).ratio, before)


def test_a_worse_ratio_fails() -> None:
    """One row among those that held is enough."""
    now, then = [row("a", 1.0), row("b", 2.0)], [row("a", 1.0), row("b", 1.0)]
    found = gate(run(*now), run(*then), asked={"a", "b"}, force=False)
    expected = [("a", Change.SAME), ("b", Change.WORSE)]
    assert expected == [(each.name, each.change) for each in found]
    assert exit_code(found) == 1


def test_a_figure_that_is_gone_leaves_the_gate_open() -> None:
    """A row that runs out of memory now has not become better."""
    assert exit_code(compare([row("a", None)], [row("a", 1.0)], asked={"a"})) == 3
    assert exit_code(compare([], [row("a", 1.0)], asked={"a"})) == 3


def test_rows_not_asked_for_are_no_concern() -> None:
    """A run of some rows is compared by those, and by none is no pass."""
    then = [row("a", 1.0), row("b", 1.0), row("c", None)]
    assert exit_code(compare([row("a", 1.0)], then, asked={"a", "c"})) == 0
    assert exit_code(compare([row("a", 1.0)], then, asked={"c"})) == 3


@pytest.mark.parametrize("field", SAME)
def test_another_machines_baseline_is_refused(field: str) -> None:
    """Unless somebody insists."""
    other = run(row("a", 1.0), **{field: "that"})
    with pytest.raises(InputRejectedError, match=f"of another machine: {field}"):
        gate(run(row("a", 1.0)), other, asked={"a"}, force=False)
    assert exit_code(gate(run(row("a", 1.0)), other, asked={"a"}, force=True)) == 0


def test_seconds_alone_change_nothing() -> None:
    """Both sides a hundred times slower: the ratio is the same, and so is the verdict."""
    slow, fast = (
        Outcome(name="a", work="w", against="p", status=Status.REPORTED,
                ratio=Spread(0.5, 0.5, 0.5, 5), ours=Spread(s, s, s, 5))
        for s in (100.0, 1.0)
    )  # fmt: skip
    assert exit_code(compare([slow], [fast], asked={"a"})) == 0
