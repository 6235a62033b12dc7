"""Reports as text, at 80 and 120 columns, as they were last looked at.

`python tests/parity/report/test_snapshots.py` writes the snapshots again.
"""

import io
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from parity.core.results import Plan, Section, finish
from parity.report import rendered, text
from parity.report.json import read_report
from scratch_gpt.cli import print_stdout

pytestmark = pytest.mark.once

HERE = Path(__file__).parent / "snapshots"
REPORTS = Path(__file__).parents[3] / "docs" / "reports"
NAMES = ("failure", "pass")


def snapshot(name: str, columns: int) -> str:
    os.environ["COLUMNS"] = str(columns)
    try:
        return rendered(read_report(REPORTS / f"{name}.json"), "text")
    finally:
        del os.environ["COLUMNS"]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_as_it_was(name: str, columns: int) -> None:
    expected = (HERE / f"{name}-{columns}.txt").read_text(encoding="utf-8")
    assert snapshot(name, columns) == expected
    assert max(map(len, expected.splitlines())) <= columns


@pytest.mark.parametrize("name", NAMES)
def test_an_ascii_output_loses_no_word(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii"))
    print_stdout(snapshot(name, 80))
    shown = kept.getvalue().decode("ascii")
    assert shown == re.sub(r"[^\x00-\x7f]", "?", snapshot(name, 80))
    assert shown.count("?") < 5


def test_no_color_is_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = rendered(read_report(REPORTS / "failure.json"), "text", sys.stdout)
    assert not re.search(r"\x1b\[(\d+;)*[349][0-7]m", shown)


WORD = st.text("abcdefgh.0123456789", min_size=1, max_size=30)
CELL = st.lists(WORD, min_size=1, max_size=4).map(" ".join)


@st.composite
def section(draw: st.DrawFn) -> Section:
    count = draw(st.integers(2, 8))
    folds = draw(st.sets(st.integers(0, count - 1)))
    columns = [draw(CELL if index in folds else WORD) for index in range(count)]
    rows = [
        [draw(CELL if index in folds else WORD) for index in range(count)]
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Section(columns=columns, rows=rows, folds=sorted(folds), splits=draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(section(), st.sampled_from([80, 100, 120]))
def test_no_table_loses_a_word_or_leaves_the_page(made: Section, columns: int) -> None:
    report = finish("x", rows=[], plan=Plan.of({"plain": (1, 1)}), sections=[made])
    stream = io.StringIO()
    text.render(report, Console(file=stream, width=columns))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    found = set(" ".join(lines).split())
    assert {
        word for row in (made.columns, *made.rows) for cell in row for word in cell.split()
    } <= found


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for each in NAMES:
        for width in (80, 120):
            (HERE / f"{each}-{width}.txt").write_text(snapshot(each, width), encoding="utf-8")
