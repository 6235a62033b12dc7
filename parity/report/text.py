"""A report as text, for people: its sections one below the other, the verdict in the last line."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from parity.core.results import Report, Section, Verdict
from parity.report.content import BAD, BEYOND, GUILTY, INHERITED, NOTE, sections, verdict_line

_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold red",
}

_WORDS = {
    "ok": "green",
    "pass": "green",
    "inconclusive": "bold yellow",
    "not run": "bold yellow",
    **dict.fromkeys(BAD, "bold red"),
}
"""Styles of cells that begin with one of these words."""

_WHOLE = ("ok", "DIFFERS", "WRONG", "follows")
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
        for part in _parts(section, every, console.width):
            console.print(part, highlight=False)
    verdict = (report.verdict.value.upper(), _STYLES[report.verdict])
    console.print(Text.assemble("\n", verdict, f"  {verdict_line(report)}"), highlight=False)


def _parts(section: Section, every: Sequence[Section], page: int) -> Iterator[RenderableType]:
    if section.title:
        yield Text(section.title, style="bold red" if section.failed else "bold")
    if section.columns and sum(_least(section)) > page:
        yield from _split(section, page)
    elif section.columns or section.rows:
        group = [of for of in every if section.group and of.group == section.group and of.rows]
        yield table(section, _widths(section, page, group))
    if section.note:
        yield Text(section.note, style="dim")
    yield from map(Text, section.lines)


def _columns(section: Section) -> list[tuple[str, ...]]:
    """Return the cells of each column, its name first."""
    rows = [section.columns, *section.rows] if section.columns else section.rows
    return list(zip_longest(*rows, fillvalue=""))


def _least(section: Section) -> list[int]:
    """Return the least width of each column, with the gap behind it.

    One that folds needs the space of its longest word, unless that is very long.
    """
    least = []
    for index, cells in enumerate(_columns(section)):
        width = max(map(len, cells))
        if index in section.folds and not section.splits:
            width = min(width, _NAME, max((len(w) for c in cells for w in c.split()), default=0))
        least.append(width + _GAP)
    return [*least[:-1], *(last - _GAP for last in least[-1:])]


def _widths(section: Section, page: int, group: Sequence[Section] = ()) -> list[int]:
    """Return the width of each column: as wide as its cells, if the page has space for that."""
    wanted = [max(map(len, cells)) for cells in _columns(section)]
    for of in group:
        widths = [min(_FOLDED, max(map(len, cells))) for cells in _columns(of)]
        wanted = [max(pair) for pair in zip(wanted, widths, strict=True)]
    least = [width - _GAP for width in _least(section)[:-1]] + _least(section)[-1:]
    room = page - _GAP * (len(wanted) - 1)
    if sum(wanted) <= room or wanted == least:
        return wanted
    needs = [want - low for want, low in zip(wanted, least, strict=True)]
    spare = max(0, room - sum(least))
    return [low + spare * need // sum(needs) for low, need in zip(least, needs, strict=True)]


def table(section: Section, widths: Sequence[int] = ()) -> Table:
    """Return the table of a section, with status words in color; `widths` are of the columns."""
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        show_header=bool(section.columns),
        header_style="bold",
    )
    for index, cells in enumerate(_columns(section)):
        made.add_column(
            Text(cells[0]) if section.columns else "",
            justify="right" if index in section.right else "left",
            width=widths[index] if widths else None,
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


def _split(section: Section, page: int) -> Iterator[RenderableType]:
    """Yield tables of all rows, each with as many of the columns as a page has space for."""
    columns = _columns(section)
    widths = [max(map(len, column)) for column in columns]
    room = page - min(widths[0], _NAME) - _GAP
    groups: list[list[int]] = [[]]
    for index in range(1, len(columns)):
        if groups[-1] and sum(_GAP + widths[i] for i in (*groups[-1], index)) > room:
            groups.append([])
        groups[-1].append(index)
    for place, group in enumerate(groups):
        if place:
            yield Text()
        kept = (0, *group)
        part = dataclasses.replace(
            section,
            columns=[columns[i][0] for i in kept],
            rows=list(zip(*(columns[i][1:] for i in kept), strict=True)),
            right=[new for new, old in enumerate(kept) if old in section.right],
            folds=range(len(kept)),
            splits=False,
        )
        yield table(part, _widths(part, page))
