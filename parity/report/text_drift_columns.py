"""Tables that are cut into several, side by side no wider than a page, so that no cell is cut."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

PAGE = 92
"""Columns that a text gets at least, however narrow the terminal."""

_APART = 2
"""Blanks between columns."""

_NAME = 32
"""Columns that the name of a line gets at most; what is left of it goes on in the next line."""

Cell = Callable[[int, int], Text]
"""From the numbers of a line and of a column to what stands there."""


def tables(
    names: Sequence[str], titles: Sequence[str], cell: Cell, *, justify: str = "left"
) -> Iterator[Table]:
    """Yield tables of all lines, each with as many of the columns as a page has room for.

    Args:
        names: One for each line.
        titles: One for each column.
        cell: Gives what stands in them.
        justify: `left` or `right`, of the cells.
    """
    cells = [[cell(line, column) for line in range(len(names))] for column in range(len(titles))]
    margin = min(max(map(len, names), default=0), _NAME)
    widths = [max([len(title), *map(len, of)]) for title, of in zip(titles, cells, strict=True)]
    for group in _groups(widths, PAGE - margin):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _APART, 0, 0))
        table.add_column("", overflow="fold", width=margin)
        for column in group:
            table.add_column(Text(titles[column]), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for line, name in enumerate(names):
            table.add_row(Text(name), *(cells[column][line] for column in group))
        yield table


def _groups(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield numbers of columns that fit beside each other; one that is too wide stands alone."""
    group: list[int] = []
    for column, _ in enumerate(widths):
        if group and sum(_APART + widths[entry] for entry in (*group, column)) > room - _APART:
            yield group
            group = []
        group.append(column)
    if group:
        yield group
