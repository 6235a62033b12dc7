"""What moved between two rows, in lines: what differs, and for each side where it moved first."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.changes import larger
from parity.drift.findings import Drift, Move, Pair
from parity.report.text_drift_numbers import arrow, side, told
from parity.results import Mode

_Line = tuple[str, str, str, str, str, str]
"""Check, side, dtype, what moved first, how many, the largest."""

_SHOWN = ("ours", "huggingface")
"""Sides that are told of where nothing of them moved, too."""

_FIRST_NAMED = ("torch", "transformers", "python", "numpy", "cpu_capability", "threads")


def moved(drift: Drift) -> Iterator[RenderableType]:
    """Yield a heading and a table for each pair."""
    lines = [list(_lines(drift, pair)) for pair in range(len(drift.pairs))]
    widths = [max((len(line[i]) for of in lines for line in of), default=0) for i in range(6)]
    for pair, of_pair in zip(drift.pairs, lines, strict=True):
        yield Text.assemble("\n", (arrow(drift, pair), "bold"), f"  {_heading(pair)}")
        table = Table.grid(padding=(0, 2, 0, 0))
        for place, width in enumerate(widths):
            free = place == _WRAPS
            table.add_column(min_width=0 if free else width, no_wrap=not free, overflow="fold")
        for line in of_pair:
            table.add_row(*(Text(cell) for cell in line))
        yield table


_WRAPS = 3
"""The column whose words may take several lines."""


def _heading(pair: Pair) -> str:
    """Return what differs between a pair's environments, torch first."""
    order = {name: place for place, name in enumerate(_FIRST_NAMED)}
    names = sorted(pair.differs, key=lambda name: order.get(name, len(order)))
    changed = (f"{name} {' → '.join(pair.differs[name])}" for name in names)
    return ", ".join(changed) or "the same versions and settings"


def _lines(drift: Drift, pair: int) -> Iterator[_Line]:
    """Yield a pair's lines; the name of a check on its first alone."""
    of_pair = [move for move in drift.moves if move.pair == pair]
    unknown = {entry.check: entry.why for entry in drift.unknown if entry.pair == pair}
    for check in dict.fromkeys(row for row in [*(m.check for m in of_pair), *unknown]):
        named = f"  {check}"
        if check in unknown:
            yield named, "", "", f"not known: {unknown[check]}", "", ""
            continue
        for rest in _of_check([move for move in of_pair if move.check == check]):
            yield (named, *rest)
            named = ""


def _of_check(moves: Sequence[Move]) -> Iterator[tuple[str, str, str, str, str]]:
    if not any(move.moved for move in moves):
        same = "same ids" if all(m.dtype == "ids" for m in moves) else "nothing moved"
        yield "", "", same, f"0 of {sum(move.compared for move in moves):,}", ""
        return
    runs = dict.fromkeys((_name(move), move.dtype, move.mode) for move in moves)
    for name, dtype, mode in sorted(runs, key=lambda run: _order(run[0], run[1])):
        run = [m for m in moves if (_name(m), m.dtype, m.mode) == (name, dtype, mode)]
        if name in _SHOWN or any(move.moved for move in run):
            yield _alone(run) if mode == Mode.ISOLATED else _run(run)


def _name(move: Move) -> str:
    return move.subject.partition("/")[0]


def _order(name: str, dtype: str) -> tuple[bool, int]:
    """Return what lines are sorted by: the dtype judged first, then float64; ours first."""
    return dtype == "float64", _SHOWN.index(name) if name in _SHOWN else len(_SHOWN)


def _run(moves: Sequence[Move]) -> tuple[str, str, str, str, str]:
    """Return the line of a side: of the path that moved furthest."""
    worst = max(moves, key=lambda move: (larger(move.largest_change), move.moved))
    if not worst.moved:
        return side(_name(worst)), worst.dtype, "nothing moved", _count(worst), ""
    by = "" if worst.first_change is None else f" by {told(worst.first_change)}"
    most = "" if worst.largest_change is None else f"most {told(worst.largest_change)}"
    return side(worst.subject), worst.dtype, f"first {worst.first}{by}", _count(worst), most


def _count(move: Move) -> str:
    return f"{move.moved:,} of {move.compared:,}"


def _alone(moves: Sequence[Move]) -> tuple[str, str, str, str, str]:
    """Return the line of what moved though it was given the same input."""
    kinds = dict.fromkeys(kind for move in moves for kind in move.kinds)
    found = f"by themselves: {', '.join(kinds)}" if kinds else "no operation by itself"
    return side(_name(moves[0])), moves[0].dtype, found, "", ""
