"""The text report."""

import pytest

from bench.baseline import Change, Comparison
from bench.report import format_quantity, format_spread, render, render_changes, summary
from bench.results import Outcome, Spread, Status
from scratch_gpt.cli import render_rich

QUIET, WIDE = Spread(0.5, 0.49, 0.51, 5), Spread(1.2, 1.0, 1.5, 5)
ROWS = [
    Outcome(name="a/met", work="w", against="p", status=Status.MET, bound=0.6, ratio=QUIET,
            ours=QUIET, theirs=Spread(1.0, 1.0, 1.0, 5)),
    Outcome(name="b/missed", work="w", against="p", status=Status.MISSED, bound=0.6, ratio=WIDE),
    Outcome(name="c/large", work="w", against="p", status=Status.OOM, why="took [3 GB]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(2.5, "s", "2.5 s"), (0.25, "s", "250 ms"), (2.5e-6, "s", "2.5 µs"), (1e-9, "s", "0.001 µs"),
     (3e9, "byte", "3 GB"), (5e6, "byte", "5 MB"), (12.0, "byte", "0.012 kB")],
)  # fmt: skip
def test_a_figure_has_its_unit(value: float, unit: str, expected: str) -> None:
    assert expected == format_quantity(value, unit)


def test_a_spread_shows_median_and_quartiles() -> None:
    assert format_spread(QUIET) == "0.50 (0.49–0.51)"
    assert not format_spread(None)


def test_every_row_shows_its_outcome() -> None:
    """Misses are capitalized, noisy rows marked, and reasons are not read as markup."""
    text = render_rich(lambda console: render(ROWS, {"cores": "2"}, ["a note"], console), None)
    lines = {line.split()[0]: line for line in text.splitlines() if "/" in line[:10]}
    assert "met" in lines["a/met"]
    assert "≤ 0.60" in lines["a/met"]
    assert "500 ms" in lines["a/met"]
    assert "MISSED, noisy" in lines["b/missed"]
    assert "OOM: c/large: took [3 GB]" in text
    assert "cores 2" in text
    assert "a note" in text
    assert "1 met, 1 missed, 1 OOM, 1 noisy" in text


def test_an_empty_report_says_so() -> None:
    assert summary([]) == "no rows"


def test_changes_show_both_ratios() -> None:
    changes = [
        Comparison("a", Change.WORSE, QUIET, WIDE),
        Comparison("b", Change.GONE, QUIET, None),
    ]
    text = render_rich(lambda console: render_changes(changes, console), None)
    worse, gone = (next(x for x in text.splitlines() if x.startswith(name)) for name in "ab")
    assert worse.split() == ["a", "0.50", "(0.49–0.51)", "1.20", "(1.00–1.50)", "worse"]
    assert gone.split() == ["b", "0.50", "(0.49–0.51)", "gone"]
