"""From figures to statuses and an exit code."""

import math

import pytest

from bench.results import Outcome, Spread, Status, exit_code, judge


def outcome(status: Status, ratio: Spread | None = None) -> Outcome:
    """Return a row of that status."""
    return Outcome(name="a", work="b", against="c", status=status, ratio=ratio)


@pytest.mark.parametrize(
    ("median", "bound", "expected"),
    [
        (0.9, 1.0, Status.MET),
        (1.0, 1.0, Status.MET),
        (1.1, 1.0, Status.MISSED),
        (math.nan, 1.0, Status.MISSED),
        (9.0, None, Status.REPORTED),
    ],
)
def test_a_figure_keeps_its_bound_or_not(
    median: float, bound: float | None, expected: Status
) -> None:
    """A bound is the largest figure allowed; no number keeps none."""
    assert expected is judge(Spread(median, median, median, 3), bound)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.MET, Status.REPORTED, Status.NOT_RUN, Status.NOT_PLANNED], 0),
        ([Status.MET, Status.MISSED, Status.OOM], 1),
        ([Status.MET, Status.WRONG], 1),
        ([Status.MET, Status.INCONCLUSIVE], 3),
        ([Status.MET, Status.OOM], 3),
        ([Status.NOT_RUN], 3),
        ([], 3),
    ],
)
def test_the_worst_status_decides(statuses: list[Status], code: int) -> None:
    """A miss counts more than what is open; nothing measured is no pass."""
    assert code == exit_code([outcome(status) for status in statuses])


def test_a_noisy_row_is_marked() -> None:
    """Its spread is half its median; a quiet row is not marked, nor one without a figure."""
    assert outcome(Status.MET, Spread(1.0, 0.75, 1.25, 5)).noisy
    assert not outcome(Status.MET, Spread(1.0, 1.0, 1.0, 5)).noisy
    assert not outcome(Status.OOM).noisy
