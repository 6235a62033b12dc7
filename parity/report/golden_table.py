"""Goldens in a report for a person: a table to paste, its sources, and every row that fails.

Many rows of one group and kind with one status are folded into one line, the worst of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.checks.golden.rows import GoldenRow
from parity.core.metrics import Status
from reference.published import Measure, Tolerance

_FOLDED_FROM = 20
"""Rows of one group, kind and status from which on they are one line."""


def render_goldens(
    rows: Sequence[GoldenRow], exempt: Sequence[Mapping[str, str]]
) -> Iterator[RenderableType]:
    """Yield the table, its sources, what was not asked, and what differs.

    Of the rows of one group and kind that differ, the first is opened up.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    yield _table(rows, sources)
    yield Text("\n" + "\n".join(f"[{at}] {source}" for at, source in enumerate(sources, 1)))
    if exempt:
        yield Text("\n" + "\n".join(_left_out(exempt)))
    failing = [row for row in reversed(rows) if row.status in (Status.FAIL, Status.NONFINITE)]
    firsts = {(_group(row), row.kind): row for row in failing}
    yield from map(_failure, reversed(firsts.values()))


def _left_out(exempt: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a line a reason, with everything that was not asked for it."""
    by_reason: dict[str, list[str]] = {}
    for entry in exempt:
        by_reason.setdefault(entry["reason"], []).append(entry["tap"])
    for reason, keys in by_reason.items():
        yield f"not asked, {reason}: {', '.join(keys)}"


def _table(rows: Sequence[GoldenRow], sources: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("golden", overflow="fold")  # the one that gives way to narrowness
    for name in ("expected", "got", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tolerance", no_wrap=True)
    for _ in ("source", "status"):
        table.add_column("", no_wrap=True)
    for label, row in _lines(rows):
        expected, got = _pair(row)
        table.add_row(
            escape(label),
            expected,
            got,
            "" if row.difference is None else f"{row.difference:.1e}",
            _tolerance(row.tolerance),
            escape(f"[{sources.index(row.source) + 1}]"),
            _mark(row.status),
        )
    return table


def _lines(rows: Iterable[GoldenRow]) -> Iterator[tuple[str, GoldenRow]]:
    """Yield (label, row) a line; a folded line shows the worst row that it stands for."""
    groups: dict[tuple[str, str, Status], list[GoldenRow]] = {}
    for row in rows:
        groups.setdefault((_group(row), row.kind, row.status), []).append(row)
    for (group, _, _), members in groups.items():
        if len(members) < _FOLDED_FROM:
            yield from ((row.tap, row) for row in members)
        else:
            worst = max(members, key=lambda row: row.difference or 0.0)
            yield f"{group} ({len(members)}), worst", worst


def _group(row: GoldenRow) -> str:
    return row.tap.partition("/")[0]


def _pair(row: GoldenRow) -> tuple[str, str]:
    """Return what was expected and what was got, short enough for a column.

    Of several numbers the pair that is furthest apart is shown, of ids the first that differ.
    """
    if row.got is None:
        return _short(row.expected), "-"
    if not isinstance(row.expected, list) or len(row.got) != len(row.expected):
        return _short(row.expected), _short(row.got)
    pairs = list(zip(row.expected, row.got, strict=True))
    if row.tolerance.measure is not Measure.EXACT:
        expected, got = max(pairs, key=lambda pair: _apart(*pair))
        return _short(expected), _short(got)
    first = next((at for at, (wanted, here) in enumerate(pairs) if wanted != here), None)
    if first is None:
        return f"{len(pairs)} ids", "the same"
    return f"{pairs[first][0]} at {first}", str(pairs[first][1])


def _apart(expected: float, got: float) -> float:
    return abs(got - expected) / abs(expected) if expected else abs(got)


def _short(value: Any) -> str:  # noqa: ANN401 - what a golden may be
    if isinstance(value, list):
        return f"{len(value)} values"
    if isinstance(value, str):
        return escape(value if len(value) <= _LETTERS else f"{value[:_LETTERS]}…")
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"


_LETTERS = 10


def _tolerance(tolerance: Tolerance) -> str:
    if tolerance.measure is Measure.EXACT:
        return "exact"
    return f"{tolerance.bound:.0e} {_MEASURES[tolerance.measure]}"


_MEASURES = {Measure.ABSOLUTE: "abs", Measure.RELATIVE: "rel", Measure.LOG: "log"}


def _mark(status: Status) -> str:
    return "[green]ok[/]" if status is Status.PASS else f"[bold red]{_MARKS[status]}[/]"


_MARKS = {
    Status.FAIL: "DIFFERS",
    Status.NONFINITE: "NONFINITE",
    Status.NOT_RUN: "NOT RUN",
}


def _failure(row: GoldenRow) -> RenderableType:
    """Return everything known about a row that does not pass."""
    difference = "none" if row.difference is None else f"{row.difference:.6g}"
    facts = [
        ("expected", str(row.expected)),
        ("got", "nothing" if row.got is None else str(row.got)),
        ("difference", f"{difference} (tolerance {_tolerance(row.tolerance)})"),
        ("source", f"{row.source} (grade {row.grade})"),
        ("found", row.detail),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        if fact:
            grid.add_row(name, escape(fact))
    return Group(Text(f"\n{row.tap}: {row.status}", style="bold red"), grid)
