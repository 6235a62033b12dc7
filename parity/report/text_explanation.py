"""One tap of a report for a person, closely: histogram, worst elements, and what fed it."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from parity.report.text_divergence import number
from parity.results import Row


def render_explanation(explanation: Mapping[str, object], rows: Sequence[Row]) -> RenderableType:
    """Return the histogram of errors, the worst elements, and what fed the tap."""
    tap = str(explanation["tap"])
    parts: list[RenderableType] = [Text(), Text(f"a close look at {tap}", style="bold")]
    runs = explanation["runs"]
    assert isinstance(runs, Mapping)  # noqa: S101 - made by parity.explain
    for name, seen in runs.items():
        parts.append(Text(f"\n{name}: absolute differences from the oracle"))
        parts.append(_histogram(seen["histogram"]))
        parts += [
            Text(
                f"  {worst['index']}  ours {worst['ours']:.9g}  oracle {worst['oracle']:.9g}"
                f"  apart {worst['difference']:.3g}"
            )
            for worst in seen["worst"]
        ]
    parts.append(_fed(tap, rows))
    return Group(*parts)


def _histogram(counts: Mapping[str, int]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    most = max([*counts.values(), 1])
    for decade, count in counts.items():
        grid.add_row(f"  {decade}", f"{count:,}", "#" * round(40 * count / most))
    return grid


def _fed(tap: str, rows: Sequence[Row]) -> RenderableType:
    """Return the rows of the tap itself, with how much each amplified its inputs' error."""
    lines = [
        f"  {row.attention}, {row.dtype} {row.mode} against {row.witness}: error "
        f"{number(row.error_ours)}, {number(row.amplification)} times that of its inputs"
        for row in rows
        if row.tap == tap
    ]
    return Text("\n" + "\n".join(lines))
