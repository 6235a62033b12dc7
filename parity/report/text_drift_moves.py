"""What moved between two rows, in lines: what differs, and for each side where it moved first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.changes import larger
from parity.drift.findings import Drift, Move, Pair
from parity.report.text_drift_numbers import BY_PATH, SIDES, arrow, side, told
from parity.results import Mode
from parity.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS


class _Line(NamedTuple):
    """A line of a pair's table."""

    check: str = ""
    side: str = ""
    run: str = ""
    first: str = ""
    moved: str = ""
    most: str = ""


_HEADER = _Line("check", "side", "run", "moved first, by", "moved", "most")


def moved(drift: Drift) -> Iterator[RenderableType]:
    """Yield a heading and a table for each pair."""
    lines = [list(_lines(drift, pair)) for pair in range(len(drift.pairs))]
    every = [_HEADER, *(line for of_pair in lines for line in of_pair)]
    widths = [max(map(len, cells)) for cells in zip(*every, strict=True)]
    for place, (pair, of_pair) in enumerate(zip(drift.pairs, lines, strict=True)):
        yield Text.assemble("\n", (arrow(drift, pair), "bold"), f"  {_heading(pair)}")
        earlier = lines.index(of_pair)
        if earlier < place and len(of_pair) > 1:
            yield Text(f"the same lines as {arrow(drift, drift.pairs[earlier])}")
        else:
            yield _table(of_pair, widths)
        if not place:
            yield Text(_LEGEND, style="dim")


_LEGEND = (
    "moved: not the same to the bit, of so many tensors; by, most: the change's root mean square "
    "over the tensor's; isolated: every operation given the oracle's numbers, so that what moves "
    "moves by itself"
)


def _table(lines: Sequence[_Line], widths: Sequence[int]) -> Table:
    """Return a pair's table, as wide in every column as the other pairs' are."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, title, width in zip(_Line._fields, _HEADER, widths, strict=True):
        wraps = name == "first"
        table.add_column(
            title,
            min_width=len(title) if wraps else width,
            width=None if not wraps else min(width, _WIDEST),
            no_wrap=not wraps,
            overflow="fold",
            justify="right" if name in ("moved", "most") else "left",
        )
    for line in lines:
        table.add_row(*map(Text, line))
    return table


_WIDEST = 44
"""Columns that the longest name of a parameter's place in training takes."""

_FIRST_NAMED = ("torch", "transformers", "python", "numpy", "cpu_capability", "threads")


def _heading(pair: Pair) -> str:
    """Return what differs between a pair's environments, torch first."""
    order = {name: place for place, name in enumerate(_FIRST_NAMED)}
    names = sorted(pair.differs, key=lambda name: order.get(name, len(order)))
    changed = [f"{name} {' → '.join(pair.differs[name])}" for name in names if name != "code"]
    return ", ".join(changed + ["other code"] * ("code" in names)) or "nothing else differs"


def _lines(drift: Drift, pair: int) -> Iterator[_Line]:
    """Yield a pair's lines; the name of a check on its first alone."""
    of_pair = [move for move in drift.moves if move.pair == pair]
    unknown = {entry.check: entry.why for entry in drift.unknown if entry.pair == pair}
    if of_pair and not unknown and not any(move.moved for move in of_pair):
        yield _still(of_pair)._replace(check=_ALL)
        return
    for check in dict.fromkeys([*(move.check for move in of_pair), *unknown]):
        lines = (
            [_Line(first=f"not known: {unknown[check]}")]
            if check in unknown
            else list(_of_check([move for move in of_pair if move.check == check]))
        )
        yield lines[0]._replace(check=check)
        yield from lines[1:]


def _of_check(moves: Sequence[Move]) -> Iterator[_Line]:
    """Yield a check's lines: its numbers side by side, then the ids of all sides."""
    ids = [move for move in moves if move.mode == Mode.EXACT]
    numbers = [move for move in moves if move.mode != Mode.EXACT]
    if numbers and not any(move.moved for move in numbers):
        yield _still(numbers)
    else:
        for name in dict.fromkeys([*SIDES, *(move.side for move in numbers)]):
            yield from _of_side([move for move in numbers if move.side == name])
    of_ids = [move for move in ids if move.moved]
    yield from map(_line, of_ids)
    if ids and not of_ids:
        yield _Line(run="ids", first="the same ids", moved=_count(ids))


def _of_side(moves: Sequence[Move]) -> Iterator[_Line]:
    """Yield a side's lines: one if nothing of it moved, or none; else one a run, or one a path."""
    if not any(move.moved for move in moves):
        if moves and moves[0].side in SIDES:
            yield _still(moves)._replace(side=side(moves[0].side))
        return
    for dtype, mode in sorted(dict.fromkeys((m.dtype, m.mode) for m in moves), key=_order):
        run = _told([move for move in moves if (move.dtype, move.mode) == (dtype, mode)])
        if len({_said(move) for move in run}) > 1:
            yield from map(_line, run)
        else:
            name = side(run[0].subject if len(run) == 1 else run[0].side)
            yield _line(max(run, key=_rank))._replace(side=name)


def _told(moves: Sequence[Move]) -> Sequence[Move]:
    """Return each of our paths, and what they are given; of a witness beside them its finest walk.

    Beside a path that does not form scores a witness's are not looked at, and what comes behind
    them is all of it in one.
    """
    if moves[0].side in BY_PATH:
        return moves
    return [max(moves, key=lambda move: move.compared)]


def _said(move: Move) -> str:
    """Return what paths have to agree in to be told of in one line."""
    return _alone(move) if move.mode == Mode.ISOLATED else move.first


_SAME = "nothing moved"
_ALL = "all"


def _still(moves: Sequence[Move]) -> _Line:
    return _Line(first=_SAME, moved=_count(moves))


def _order(run: tuple[str, str]) -> bool:
    """Return what runs are sorted by: the dtype judged first, then float64."""
    return run[0] == "float64"


def _rank(move: Move) -> tuple[float, int]:
    """Return what decides which of the paths that agree is told of: the one that moved furthest."""
    return larger(move.largest_change), move.moved


def _line(move: Move) -> _Line:
    """Return the line of one run."""
    line = _Line(side=side(move.subject), run=_word(move), first=_SAME, moved=_count([move]))
    if move.mode == Mode.ISOLATED and move.side != "oracle":
        return line._replace(first=_alone(move))
    if not move.moved:
        return line
    sizes = ("", "") if move.mode == Mode.EXACT else (move.first_change, move.largest_change)
    by, most = (size if isinstance(size, str) else told(size) for size in sizes)
    return line._replace(first=f"{move.first} {by}".strip(), most=most)


_WORDS = {Mode.EXACT: "ids", Mode.ISOLATED: "isolated"}


def _word(move: Move) -> str:
    return _WORDS.get(Mode(move.mode), move.dtype)


def _count(moves: Sequence[Move]) -> str:
    return f"{sum(move.moved for move in moves):,}/{sum(move.compared for move in moves):,}"


_KINDS = [kind.name for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)]


def _alone(move: Move) -> str:
    """Return what moved though it was given the same input."""
    if not move.moved:
        return "no operation by itself"
    if not move.alone:
        return "not known: their input may have moved"
    named = sorted(
        move.kinds, key=lambda kind: _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    )
    return f"by themselves: {', '.join(named)}"
