"""A report as text, for people: its sections one below the other, the verdict in the last line."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from parity.core.results import Report, Section, Verdict
from parity.report.content import BEYOND, GUILTY, INHERITED, NOTE, sections, verdict_line

_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold red",
}

_WRONG = ("DIFFERS", "WRONG", "PROBLEM", "NONFINITE", "NOT RUN", "FAIL", "ERROR")
_WORDS = {
    "ok": "green",
    "pass": "green",
    "inconclusive": "bold yellow",
    "not run": "bold yellow",
    **dict.fromkeys(_WRONG, "bold red"),
}
"""Styles of cells that begin with one of these words."""

_WHOLE = ("ok", "DIFFERS")
"""Words that colour all of their cell."""

_MARKS = {GUILTY: "bold", INHERITED: "dim", NOTE: "dim"}

PAGE = 80
"""Columns that a text has at least, however narrow the terminal."""

_GAP, _NAME, _FOLDED = 2, 32, 44
"""Blanks between columns; the widest first column of a table that is split; the widest column of
several equally wide tables that may fold."""


def render(report: Report, console: Console) -> None:
    """Print the report."""
    every = list(sections(report))
    for place, section in enumerate(every):
        if place:
            console.print()
        for part in _parts(section, every):
            console.print(part, highlight=False)
    verdict = (report.verdict.value.upper(), _STYLES[report.verdict])
    console.print(Text.assemble("\n", verdict, f"  {verdict_line(report)}"), highlight=False)


def _parts(section: Section, every: Sequence[Section]) -> Iterator[RenderableType]:
    if section.title:
        yield Text(section.title, style="bold red" if section.failed else "bold")
    if section.splits:
        yield from _split(section)
    elif section.columns or section.rows:
        group = [of for of in every if section.group and of.group == section.group and of.rows]
        widths = [
            min(max(map(len, column)), _FOLDED)
            for column in zip(*(row for s in group for row in (s.columns, *s.rows)), strict=True)
        ]
        yield table(section, widths)
    if section.note:
        yield Text(section.note, style="dim")
    yield from map(Text, section.lines)


def table(section: Section, widths: Sequence[int] = ()) -> Table:
    """Return the table of a section, with status words in color.

    `widths` is the least width of each column.
    """
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        show_header=bool(section.columns),
        header_style="bold",
    )
    names = section.columns or [""] * max(map(len, section.rows), default=0)
    for index, name in enumerate(names):
        width, may_fold = widths[index] if widths else 0, index in section.folds
        made.add_column(
            Text(name.ljust(width) if may_fold else name),  # as wide, but it may be narrowed
            justify="right" if index in section.right else "left",
            min_width=None if may_fold else width,
            no_wrap=not may_fold,
            overflow="fold",
        )
    for row, mark in zip_longest(section.rows, section.marks, fillvalue=""):
        made.add_row(*map(_styled, row), style=_MARKS.get(mark, ""))
    return made


def _styled(cell: str) -> Text:
    text = Text(cell)
    for word, style in _WORDS.items():
        if cell == word or cell.startswith(f"{word} "):
            text.stylize(style, 0, len(cell if word in _WHOLE else word))
    if cell.endswith(BEYOND) and cell[:1].isdigit():
        text.stylize("bold red")
    return text


def _split(section: Section) -> Iterator[RenderableType]:
    """Yield tables of all rows, each with as many of the columns as a page has space for."""
    columns = list(zip(section.columns, *section.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    room = PAGE - min(widths[0], _NAME) - _GAP
    groups: list[list[int]] = [[]]
    for index in range(1, len(columns)):
        if groups[-1] and sum(_GAP + widths[i] for i in (*groups[-1], index)) > room:
            groups.append([])
        groups[-1].append(index)
    for place, group in enumerate(groups):
        if place:
            yield Text()
        kept = (0, *group)
        yield table(
            dataclasses.replace(
                section,
                columns=[section.columns[i] for i in kept],
                rows=[[row[i] for i in kept] for row in section.rows],
                right=[new for new, old in enumerate(kept) if old in section.right],
                folds=range(len(kept)),
            )
        )
