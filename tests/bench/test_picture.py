"""The picture: a panel for each work, a line for each kernel, and the limit dashed."""

from pathlib import Path

import pytest

from bench.report import LIMIT, draw, figure
from bench.results import Series, Spread

pytest.importorskip("matplotlib", reason="not run: matplotlib is not installed (extra [plot])")


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


def test_every_kernel_is_a_line_by_length() -> None:
    forward, both = figure(SERIES).axes
    assert [panel.get_title() for panel in (forward, both)] == ["forward", "both"]
    tiled, other, _ = forward.get_lines()
    assert (list(tiled.get_xdata()), list(tiled.get_ydata())) == ([1, 2, 4], [1.0, 2.0, 4.0])
    assert (tiled.get_label(), other.get_label()) == ("tiled", "products")
    assert len(forward.collections) == 2
    assert len(both.get_lines()) == 2


def test_a_kernel_has_one_colour_in_every_panel() -> None:
    series = [*SERIES, *points("third", "products", 0.01, 0.02)]
    forward, both, third = figure(series).axes
    colours = [line.get_color() for line in forward.get_lines()[:2]]
    assert colours[0] != colours[1]
    assert colours == [panel.get_lines()[0].get_color() for panel in (both, third)]


def test_a_single_length_is_left_out() -> None:
    alone = points("alone", "tiled", 0.01)
    assert [panel.get_title() for panel in figure([*SERIES, *alone]).axes] == ["forward", "both"]
    assert [panel.get_title() for panel in figure(alone).axes] == ["alone"]


def test_the_limit_follows_from_the_matrix_rate() -> None:
    """A kernel at half the rate takes twice the time of the dashed line."""
    limit = figure(points("forward", "tiled", 0.001, 0.002)).axes[0].get_lines()[-1]
    assert (limit.get_label(), limit.get_linestyle()) == (LIMIT, "--")
    assert (list(limit.get_xdata()), list(limit.get_ydata())) == ([1, 2], [0.5, 1.0])


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_suffix_selects_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{suffix}"
    draw(SERIES, path)
    found = path.read_bytes()
    assert found.startswith({"svg": b"<?xml", "png": b"\x89PNG\r"}[suffix])
    assert b"<dc:date>" not in found
