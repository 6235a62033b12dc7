"""The first failing tap of a report for a person: everything that is known about it."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.results import FirstDivergence, Row


def render_divergence(first: FirstDivergence, rows: Sequence[Row]) -> RenderableType:
    """Return everything known about the first failing tap."""
    row = first.row
    facts = [
        ("path", f"attention {row.attention}, {row.dtype}, {row.mode}, against {row.witness}"),
        ("found", first.why),
        ("shape", str(list(row.shape))),
        ("worst at", _worst_element(row)),
        ("errors", f"ours {number(row.error_ours)}, Hugging Face's {_error_of_theirs(row, rows)}"),
        ("ratio", f"{number(row.ratio)} (bound {row.bound:g})"),
        ("amplified", f"{number(row.amplification)} times the error of its inputs"),
        ("would pass", f"at a tolerance of {number(row.minimum_tolerance)}"),
        ("look for", first.suspects),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        grid.add_row(name, escape(fact))
    title = Text(f"first divergence: {first.tap}", style="bold red")
    return Group(Text(), title, grid, Text())


def _worst_element(row: Row) -> str:
    """Return where the largest difference is, and both values there."""
    values = f"ours {number(row.value_ours)}, {row.witness} {number(row.value_witness)}"
    return f"{list(row.worst_index)}: {values}"


def _error_of_theirs(row: Row, rows: Sequence[Row]) -> str:
    """Return Hugging Face's own error at the tap, which only rows against the oracle hold."""
    same = [
        other.error_reference
        for other in rows
        if (other.tap, other.mode, other.attention) == (row.tap, row.mode, row.attention)
        and other.error_reference is not None
    ]
    return number(same[0] if same else None)


def number(value: float | None) -> str:
    """Return a number as it stands in prose; what is not there is said."""
    return "none" if value is None else f"{value:.6g}"
