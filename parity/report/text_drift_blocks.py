"""The largest change of each block, a column a pair: ours beside Hugging Face's."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.changes import Change
from parity.drift.findings import Drift, Largest
from parity.report.text_drift_numbers import arrow, told
from parity.results import Mode

_CHECKS = ("layerwise", "gradients")
"""Checks whose taps are the network's; what moved of the others stands in a line a side."""

_ACROSS = 7
"""Pairs that one table has room for."""


def blocks(drift: Drift) -> Iterator[RenderableType]:
    """Yield the tables of each check that has taps of a network, where anything moved."""
    for check in _CHECKS:
        of_check = [entry for entry in drift.largest if entry.check == check]
        mode = _mode(of_check)
        sides = {entry.side: entry for entry in of_check if entry.mode == mode}
        columns = [pair for pair in range(len(drift.pairs)) if _moved(sides.values(), pair)]
        for start in range(0, len(columns), _ACROSS):
            dtype = next(iter(sides.values())).dtype
            yield Text.assemble(
                "\n",
                (f"{check}, {dtype}: largest change", "bold"),
                "  ours / Hugging Face's; = is the same to the bit",
            )
            yield _table(sides, drift, columns[start : start + _ACROSS])


def _mode(entries: Sequence[Largest]) -> str:
    """Return the mode that a user's run has: the dtype judged, each side with its own numbers."""
    judged = any(entry.mode == Mode.PROPAGATED for entry in entries)
    return Mode.PROPAGATED if judged else Mode.IDENTITY


def _moved(entries: Iterable[Largest], pair: int) -> bool:
    return any(
        changes[pair] not in (0.0, None) for entry in entries for changes in entry.blocks.values()
    )


def _table(sides: dict[str, Largest], drift: Drift, columns: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for pair in columns:
        table.add_column(arrow(drift, drift.pairs[pair]), justify="right", no_wrap=True)
    ours, theirs = (sides.get(side) for side in _SIDES)
    names = dict.fromkeys(name for entry in sides.values() for name in entry.blocks)
    for name in names:
        cells = [f"{_cell(ours, name, pair):>4}/{_cell(theirs, name, pair):<4}" for pair in columns]
        table.add_row(Text(name), *cells)
    return table


_SIDES = ("ours", "huggingface")


def _cell(entry: Largest | None, name: str, pair: int) -> str:
    """Return a change; `-` where there is no such side or block."""
    changes: Sequence[Change] = entry.blocks.get(name, ()) if entry is not None else ()
    return told(changes[pair]) if changes else "-"
