"""A comparison of tokenizers for a person: a line a source, and every difference with its cause."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.compare import Status
from parity.results import Report
from parity.tokens.rows import DifferenceRow, TokenRow

_SHOWN = 2
"""Differences of one source and step that are written out; the rest are in the JSON."""


def render_tokens(report: Report) -> Iterator[RenderableType]:
    """Yield the heading, the table, what was not compared, and the differences."""
    yield _heading(report)
    yield _table([row for row in report.results if isinstance(row, TokenRow)])
    for entry in report.plan.exempt:
        yield Text(f"not compared, {entry['tap']}: {entry['reason']}")
    differences = [row for row in report.results if isinstance(row, DifferenceRow)]
    for tap in dict.fromkeys(row.tap for row in differences):
        of_it = [row for row in differences if row.tap == tap]
        yield from map(_difference, of_it[:_SHOWN])
        if len(of_it) > _SHOWN:
            yield Text(f"and {len(of_it) - _SHOWN} more of {tap}; --format json has them all")


def _heading(report: Report) -> RenderableType:
    vocabulary: Mapping[str, Any] = report.identity.get("vocabulary", {})
    lines = [f"vocabulary  {vocabulary.get('source', 'not stated')}"]
    if vocabulary:
        standing = "as published" if vocabulary["released"] else "not the released one"
        lines.append(
            f"            {vocabulary['tokens']:,} tokens, {vocabulary['merges']:,} merges, digest "
            f"{vocabulary['digest'][:16]}…, {standing}"
        )
    said = (f"{key} {value}" for key, value in report.inputs.items())
    packages = report.identity.get("packages", {})
    versions = (f"{name} {number}" for name, number in packages.items())
    return Text("\n".join([*lines, f"strings     {', '.join(said)}", _on(", ".join(versions))]))


def _on(packages: str) -> str:
    return f"run on      {packages}\n"


def _table(rows: Sequence[TokenRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source", no_wrap=True)
    table.add_column("held against", no_wrap=True)
    for name in ("strings", "characters", "vanish", "ids", "unknown", "differ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row.tap),
            row.witness + ("" if row.places else " (ids)"),
            *(f"{number:,}" for number in (row.strings, row.characters)),
            "-" if row.dropped is None else f"{row.dropped:,}",
            f"{row.ids:,}",
            f"{row.unknown / row.ids:.2%}" if row.ids else "-",
            f"{row.error_ours or 0:,.0f}",
            "[green]ok[/]" if row.status is Status.PASS else "[bold red]DIFFERS[/]",
        )
    return table


def _difference(row: DifferenceRow) -> RenderableType:
    """Return a difference: the step, the shortest string, both sides' words and ids."""
    cause = row.cause
    facts = (
        ("why", cause.why),
        ("character", cause.character),
        ("shortest", cause.text),
        ("ours", f"{' '.join(cause.words_ours)}  {list(cause.ids_ours)}"),
        (row.witness, f"{' '.join(cause.words_theirs)}  {list(cause.ids_theirs)}"),
        ("strings", f"{row.strings} of those taken apart"),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        grid.add_row(name, escape(fact))
    return Group(Text(f"\n{row.tap}", style="bold red"), grid)
