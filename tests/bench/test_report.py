"""The text report, and the picture: a panel for each work, a line for each kernel."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.baseline import Change, Comparison
from bench.report import (
    LIMIT,
    draw,
    figure,
    format_quantity,
    format_spread,
    render,
    render_changes,
    summary,
)
from bench.results import Outcome, Series, Spread, Status
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


def test_the_summary_of_no_rows() -> None:
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


needs_matplotlib = pytest.mark.skipif(
    not find_spec("matplotlib"), reason="not run: matplotlib is not installed (extra [plot])"
)


def points(work: str, subject: str, *seconds: float) -> list[Series]:
    made = [
        Series(work=work, subject=subject, time=2**index, seconds=Spread(s, s / 2, s * 2, 5),
               flops=1, bytes=1, ceiling=0.5, error=1e-7)
        for index, s in enumerate(seconds)
    ]  # fmt: skip
    return made[::-1]


SERIES = [
    *points("forward", "tiled", 0.001, 0.002, 0.004),
    *points("forward", "products", 0.001, 0.001, 0.003),
    *points("both", "tiled", 0.01, 0.02),
]


@needs_matplotlib
def test_every_kernel_is_a_line_by_length() -> None:
    forward, both = figure(SERIES).axes
    assert [panel.get_title() for panel in (forward, both)] == ["forward", "both"]
    tiled, other, _ = forward.get_lines()
    assert (list(tiled.get_xdata()), list(tiled.get_ydata())) == ([1, 2, 4], [1.0, 2.0, 4.0])
    assert (tiled.get_label(), other.get_label()) == ("tiled", "products")
    assert len(forward.collections) == 2
    assert len(both.get_lines()) == 2


@needs_matplotlib
def test_a_kernel_has_one_colour_in_every_panel() -> None:
    series = [*SERIES, *points("third", "products", 0.01, 0.02)]
    forward, both, third = figure(series).axes
    colours = [line.get_color() for line in forward.get_lines()[:2]]
    assert colours[0] != colours[1]
    assert colours == [panel.get_lines()[0].get_color() for panel in (both, third)]


@needs_matplotlib
def test_a_single_length_is_left_out() -> None:
    alone = points("alone", "tiled", 0.01)
    assert [panel.get_title() for panel in figure([*SERIES, *alone]).axes] == ["forward", "both"]
    assert [panel.get_title() for panel in figure(alone).axes] == ["alone"]


@needs_matplotlib
def test_the_limit_follows_from_the_matrix_rate() -> None:
    """A kernel at half the rate takes twice the time of the dashed line."""
    limit = figure(points("forward", "tiled", 0.001, 0.002)).axes[0].get_lines()[-1]
    assert (limit.get_label(), limit.get_linestyle()) == (LIMIT, "--")
    assert (list(limit.get_xdata()), list(limit.get_ydata())) == ([1, 2], [0.5, 1.0])


@needs_matplotlib
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_suffix_selects_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{suffix}"
    draw(SERIES, path)
    found = path.read_bytes()
    assert found.startswith({"svg": b"<?xml", "png": b"\x89PNG\r"}[suffix])
    assert b"<dc:date>" not in found
