"""What moved between two rows, in lines: what differs, and for each side where it moved first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.checks.drift.check import DriftRow
from parity.checks.drift.findings import Change, Drift, LargestChange, Pair, TapChange, larger
from parity.core.fingerprints import ROUNDING
from parity.core.results import Mode, Report, Verdict
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS
from parity.core.tolerances import Bounds

# How a drift's numbers, sides and pairs are written.


SIDES = {"ours": "ours", "huggingface": "Hugging Face"}
"""Sides that are told of where nothing of them moved, too; the others where it did."""

BY_PATH = ("ours", "oracle")
"""Sides whose numbers are others on each path."""


def format_short(number: float) -> str:
    """Return one digit and the exponent, `3e-7`: an estimate has no more."""
    if number == 0.0:
        return "0"
    digits, _, exponent = f"{number:.0e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def format_change(change: TapChange) -> str:
    """Return a change: `=` where there is none, `?` where nobody knows how much."""
    if change is None:
        return "?"
    if change == 0.0:
        return "="
    return f"<{format_short(ROUNDING)}" if change <= ROUNDING else format_short(change)


def side_name(subject: str) -> str:
    """Return `ours (plain)` for `ours/plain`, and `Hugging Face` for `huggingface/plain`."""
    name, _, path = subject.partition("/")
    return SIDES.get(name, name) + (f" ({path})" if path and name in BY_PATH else "")


def change_arrow(drift: Drift, pair: Pair) -> str:
    """Return `2→3`, by the numbers of the rows."""
    numbers = {row.label: number for number, row in enumerate(drift.rows, 1)}
    return f"{numbers[pair.first]}→{numbers[pair.second]}"


class _Line(NamedTuple):
    """A line of a pair's table."""

    check: str = ""
    side: str = ""
    run: str = ""
    first: str = ""
    changed: str = ""
    largest: str = ""


_HEADER = _Line("check", "side", "run", "first change", "changed", "largest")


def changed_rows(drift: Drift) -> Iterator[RenderableType]:
    """Yield a heading and a table for each pair."""
    lines = [list(_lines(drift, pair)) for pair in range(len(drift.pairs))]
    every = [_HEADER, *(line for of_pair in lines for line in of_pair)]
    widths = [max(map(len, cells)) for cells in zip(*every, strict=True)]
    for place, (pair, of_pair) in enumerate(zip(drift.pairs, lines, strict=True)):
        yield Text.assemble("\n", (change_arrow(drift, pair), "bold"), f"  {_heading(pair)}")
        earlier = lines.index(of_pair)
        if earlier < place and len(of_pair) > 1:
            yield Text(f"the same lines as {change_arrow(drift, drift.pairs[earlier])}")
        else:
            yield _table(of_pair, widths)
        if not place:
            yield Text(_LEGEND, style="dim")


_LEGEND = (
    "changed: tensors that are not equal to the bit, of all compared; first change, largest: the "
    "change's root mean square over the tensor's; per-op: every operation is given the oracle's "
    "numbers, so that a change there is its own"
)


def _table(lines: Sequence[_Line], widths: Sequence[int]) -> Table:
    """Return a pair's table, as wide in every column as the other pairs' are."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, title, width in zip(_Line._fields, _HEADER, widths, strict=True):
        wraps = name == "first"
        table.add_column(
            title.ljust(min(width, _WIDEST)) if wraps else title,  # as wide, but may be narrowed
            min_width=None if wraps else width,
            no_wrap=not wraps,
            overflow="fold",
            justify="right" if name in ("changed", "largest") else "left",
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
            [_Line(first=f"unknown: {unknown[check]}")]
            if check in unknown
            else list(_of_check([move for move in of_pair if move.check == check]))
        )
        yield lines[0]._replace(check=check)
        yield from lines[1:]


def _of_check(moves: Sequence[Change]) -> Iterator[_Line]:
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
        yield _Line(run="ids", first="the same ids", changed=_count(ids))


def _of_side(moves: Sequence[Change]) -> Iterator[_Line]:
    """Yield a side's lines: one if nothing of it moved, or none; else one a run, or one a path."""
    if not any(move.moved for move in moves):
        if moves and moves[0].side in SIDES:
            yield _still(moves)._replace(side=side_name(moves[0].side))
        return
    for dtype, mode in sorted(dict.fromkeys((m.dtype, m.mode) for m in moves), key=_order):
        run = _told([move for move in moves if (move.dtype, move.mode) == (dtype, mode)])
        if len({_said(move) for move in run}) > 1:
            yield from map(_line, run)
        else:
            name = side_name(run[0].subject if len(run) == 1 else run[0].side)
            yield _line(max(run, key=_rank))._replace(side=name)


def _told(moves: Sequence[Change]) -> Sequence[Change]:
    """Return each of our paths, and what they are given; of a witness beside them its finest walk.

    Beside a path that does not form scores a witness's are not looked at, and what comes behind
    them is all of it in one.
    """
    if moves[0].side in BY_PATH:
        return moves
    return [max(moves, key=lambda move: move.compared)]


def _said(move: Change) -> str:
    """Return what paths have to agree in to be told of in one line."""
    return _alone(move) if move.mode == Mode.PER_OP else move.first


_SAME = "no change"
_ALL = "all"


def _still(moves: Sequence[Change]) -> _Line:
    return _Line(first=_SAME, changed=_count(moves))


def _order(run: tuple[str, str]) -> bool:
    """Return what runs are sorted by: the dtype judged first, then float64."""
    return run[0] == "float64"


def _rank(move: Change) -> tuple[float, int]:
    """Return what decides which of the paths that agree is told of: the one that moved furthest."""
    return larger(move.largest_change), move.moved


def _line(move: Change) -> _Line:
    """Return the line of one run."""
    line = _Line(side=side_name(move.subject), run=_word(move), first=_SAME, changed=_count([move]))
    if move.mode == Mode.PER_OP and move.side != "oracle":
        return line._replace(first=_alone(move))
    if not move.moved:
        return line
    sizes = ("", "") if move.mode == Mode.EXACT else (move.first_change, move.largest_change)
    by, largest = (size if isinstance(size, str) else format_change(size) for size in sizes)
    return line._replace(first=f"{move.first} {by}".strip(), largest=largest)


_WORDS = {Mode.EXACT: "ids", Mode.PER_OP: "per-op"}


def _word(move: Change) -> str:
    return _WORDS.get(Mode(move.mode), move.dtype)


def _count(moves: Sequence[Change]) -> str:
    return f"{sum(move.moved for move in moves):,}/{sum(move.compared for move in moves):,}"


_KINDS = [kind.name for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)]


def _alone(move: Change) -> str:
    """Return what moved though it was given the same input."""
    if not move.moved:
        return "no operation by itself"
    if not move.alone:
        return "unknown: their input may have changed"
    named = sorted(
        move.kinds, key=lambda kind: _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    )
    return f"by themselves: {', '.join(named)}"


# Tables that are cut into several, side by side no wider than a page, so that no cell is cut.


PAGE = 92
"""Columns that a text gets at least, however narrow the terminal."""

_APART = 2
"""Blanks between columns."""

_NAME = 32
"""Columns that the name of a line gets at most; what is left of it goes on in the next line."""

Cell = Callable[[int, int], Text]
"""From the numbers of a line and of a column to what stands there."""


def drift_tables(
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


# The largest change of each block, a column a pair: ours beside Hugging Face's.


_CHECKS = ("layerwise", "gradients")
"""Checks whose taps are the network's; what moved of the others stands in a line a side."""


def drift_blocks(drift: Drift) -> Iterator[RenderableType]:
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
                "  ours / Hugging Face's; = is equal to the bit",
            )
            yield from _tables(sides, drift, pairs)


def _mode(entries: Sequence[LargestChange]) -> str:
    """Return the mode that a user's run has: the dtype judged, each side with its own numbers."""
    judged = any(entry.mode == Mode.END_TO_END for entry in entries)
    return Mode.END_TO_END if judged else Mode.FLOAT64


def _moved(entries: Iterable[LargestChange], pair: int) -> bool:
    return any(changes[pair] != 0.0 for entry in entries for changes in entry.blocks.values())


def _tables(sides: dict[str, LargestChange], drift: Drift, pairs: Sequence[int]) -> Iterator[Table]:
    """Yield the tables of some pairs; the slashes of a column stand below each other."""
    names = list(dict.fromkeys(name for entry in sides.values() for name in entry.blocks))
    cells = [
        [[_cell(sides.get(side), name, pair) for side in SIDES] for name in names] for pair in pairs
    ]
    widths = [[max(map(len, side)) for side in zip(*of_pair, strict=True)] for of_pair in cells]

    def cell(line: int, column: int) -> Text:
        (ours, theirs), (left, right) = cells[column][line], widths[column]
        return Text(f"{ours:>{left}}/{theirs:<{right}}")

    titles = [change_arrow(drift, drift.pairs[pair]) for pair in pairs]
    yield from drift_tables(names, titles, cell, justify="right")


def _cell(entry: LargestChange | None, name: str, pair: int) -> str:
    """Return a change; `-` where there is no such side or block."""
    changes: Sequence[TapChange] = entry.blocks.get(name, ()) if entry is not None else ()
    return format_change(changes[pair]) if changes else "-"


# Rows of reports side by side for a person: verdicts, what differs, what moved and how far.


_VERSIONS = ("python", "torch", "transformers")

_TEXT_DRIFT_WORDS = {
    Verdict.PASS: ("pass", "green"),
    Verdict.FAIL: ("FAIL", "bold red"),
    Verdict.ERROR: ("ERROR", "bold red"),
    Verdict.INCONCLUSIVE: ("inconclusive", "bold yellow"),
    None: ("not run", "bold yellow"),
}

_NUMBERS = (
    f"float64: largest difference over RMS, at most {format_short(Bounds().float64)}; "
    "ratio: error vs HF's"
)


def render_drift(report: Report, drift: Drift) -> Iterator[RenderableType]:
    """Yield the rows, their verdicts, what differs between them, and what moved."""
    rows = [row for row in report.results if isinstance(row, DriftRow)]
    checks = list(dict.fromkeys(row.tap for row in rows))
    yield _rows(drift)
    for table in _verdicts(rows, checks, drift):
        yield Text()
        yield table
    yield Text(_NUMBERS, style="dim")
    yield from _differences(drift)
    yield from changed_rows(drift)
    yield from drift_blocks(drift)
    yield from _notes(drift)


def _notes(drift: Drift) -> Iterator[Text]:
    for note in drift.notes:
        pairs = ", ".join(change_arrow(drift, drift.pairs[pair]) for pair in note.pairs)
        yield Text(f"\nnote on {pairs}: {note.what}")


def closing(report: Report, drift: Drift) -> Text:
    """Return the last line: the verdict, of how many reports, and of how many what moved."""
    plan, rows = report.plan, len(drift.rows)
    colour = {Verdict.PASS: "green", Verdict.FAIL: "red"}.get(report.verdict, "yellow")
    known = sum(isinstance(row, DriftRow) and row.fingerprints > 0 for row in report.results)
    return Text.assemble(
        "\n",
        (report.verdict.value.upper(), f"bold {colour}"),
        f"  {plan.compared} of {_counted(plan.planned, 'report')} compared, "
        f"in {_counted(rows, 'row')}; {known} with fingerprints",
    )


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + "s" * (number != 1)


def _rows(drift: Drift) -> Table:
    """Return the table of what the rows are; a long name takes more lines, and is not cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("row", overflow="fold")
    for name in _VERSIONS:
        table.add_column(name, no_wrap=True)
    for number, row in enumerate(drift.rows, 1):
        versions = [row.environment.get(name, "") for name in _VERSIONS]
        if not row.environment:
            versions[0] = "not run"
        table.add_row(*map(Text, (str(number), row.label, *versions)))
    return table


def _verdicts(rows: Sequence[DriftRow], checks: Sequence[str], drift: Drift) -> Iterator[Table]:
    """Yield the tables of verdicts: each with the worst identity error and the worst ratio."""
    found = {(row.backend, row.tap): row for row in rows}
    numbers = [str(number) for number, _ in enumerate(drift.rows, 1)]

    def cell(line: int, column: int) -> Text:
        return _text_drift_cell(found[drift.rows[line].label, checks[column]])

    yield from drift_tables(numbers, checks, cell)


def _text_drift_cell(row: DriftRow) -> Text:
    word, style = _TEXT_DRIFT_WORDS[row.verdict]
    identity = "" if row.error_ours is None else f" {format_short(row.error_ours)}"
    ratio = "" if row.ratio is None else f" {row.ratio:.2f}"
    return Text.assemble((word, style), f"{identity}{ratio}")


def _differences(drift: Drift) -> Iterator[RenderableType]:
    """Yield what differs between the rows, but for the versions that stand in the first table."""
    numbers = {row.label: str(number) for number, row in enumerate(drift.rows, 1)}
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for name in (name for name in drift.differences if name not in _VERSIONS):
        values = drift.differences[name]
        for place, (value, bare) in enumerate(zip(values, _bare(list(values)), strict=True)):
            rows = " ".join(numbers[label] for label in values[value])
            table.add_row(*map(Text, ("" if place else f"  {name}", bare, f"in {rows}")))
    if table.row_count:
        yield Text("\nother differences", style="bold")
        yield table


_DIGEST = "sha256 "


def _bare(values: Sequence[str]) -> list[str]:
    """Return values as they are; of the code's the digests alone, where the versions are one."""
    parts = [value.partition(_DIGEST) for value in values]
    alike = len({(version, found) for version, found, _ in parts}) == 1
    return [
        digest if alike and found else value
        for value, (_, found, digest) in zip(values, parts, strict=True)
    ]
