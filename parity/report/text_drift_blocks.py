"""The largest change of each block, a column a pair: ours beside Hugging Face's."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.changes import Change
from parity.drift.findings import Drift, Largest
from parity.report.text_drift_columns import tables
from parity.report.text_drift_numbers import SIDES, arrow, told
from parity.results import Mode

_CHECKS = ("layerwise", "gradients")
"""Checks whose taps are the network's; what moved of the others stands in a line a side."""


def blocks(drift: Drift) -> Iterator[RenderableType]:
    """Yield the tables of each check that has taps of a network, where anything moved."""
    for check in _CHECKS:
        of_check = [entry for entry in drift.largest if entry.check == check]
        mode = _mode(of_check)
        sides = {entry.side: entry for entry in of_check if entry.mode == mode}
        unknown = {entry.pair for entry in drift.unknown if entry.check == check}
        pairs = [
            pair
            for pair, _ in enumerate(drift.pairs)
            if pair not in unknown and _moved(sides.values(), pair)
        ]
        if pairs:
            yield Text.assemble(
                "\n",
                (f"{check}, {next(iter(sides.values())).dtype}: largest change", "bold"),
                "  ours / Hugging Face's; = is the same to the bit",
            )
            yield from _tables(sides, drift, pairs)


def _mode(entries: Sequence[Largest]) -> str:
    """Return the mode that a user's run has: the dtype judged, each side with its own numbers."""
    judged = any(entry.mode == Mode.PROPAGATED for entry in entries)
    return Mode.PROPAGATED if judged else Mode.IDENTITY


def _moved(entries: Iterable[Largest], pair: int) -> bool:
    return any(changes[pair] != 0.0 for entry in entries for changes in entry.blocks.values())


def _tables(sides: dict[str, Largest], drift: Drift, pairs: Sequence[int]) -> Iterator[Table]:
    """Yield the tables of some pairs; the slashes of a column stand below each other."""
    names = list(dict.fromkeys(name for entry in sides.values() for name in entry.blocks))
    cells = [
        [[_cell(sides.get(side), name, pair) for side in SIDES] for name in names] for pair in pairs
    ]
    widths = [[max(map(len, side)) for side in zip(*of_pair, strict=True)] for of_pair in cells]

    def cell(line: int, column: int) -> Text:
        (ours, theirs), (left, right) = cells[column][line], widths[column]
        return Text(f"{ours:>{left}}/{theirs:<{right}}")

    titles = [arrow(drift, drift.pairs[pair]) for pair in pairs]
    yield from tables(names, titles, cell, justify="right")


def _cell(entry: Largest | None, name: str, pair: int) -> str:
    """Return a change; `-` where there is no such side or block."""
    changes: Sequence[Change] = entry.blocks.get(name, ()) if entry is not None else ()
    return told(changes[pair]) if changes else "-"
