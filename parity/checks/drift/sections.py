"""The tables of a drift report: runs, verdicts, what differs, and what changed between them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from parity.checks.drift.changes import (
    Change,
    Drift,
    LargestChange,
    Pair,
    RunInfo,
    TapChange,
    larger,
)
from parity.core.fingerprints import ROUNDING
from parity.core.results import Mode, Row, Section, Verdict
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS
from parity.core.tolerances import Bounds

SIDES = {"ours": "ours", "huggingface": "Hugging Face"}
"""Sides that always have a line; others have one only if they changed."""

BY_BACKEND = ("ours", "oracle")
"""Sides whose numbers depend on the backend."""


def format_short(number: float) -> str:
    """Return one digit and the exponent, `3e-7`: estimates have no more."""
    if number == 0.0:
        return "0"
    digits, _, exponent = f"{number:.0e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def format_change(change: TapChange) -> str:
    """Return a change: `=` if there is none, `?` if unknown."""
    if change is None:
        return "?"
    if change == 0.0:
        return "="
    return f"<{format_short(ROUNDING)}" if change <= ROUNDING else format_short(change)


def side_name(subject: str) -> str:
    """Return `ours (plain)` for `ours/plain`, and `Hugging Face` for `huggingface/plain`."""
    name, _, path = subject.partition("/")
    return SIDES.get(name, name) + (f" ({path})" if path and name in BY_BACKEND else "")


def change_arrow(drift: Drift, pair: Pair) -> str:
    """Return `2→3`, with the numbers of the runs."""
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


def changed_rows(drift: Drift) -> Iterator[Section]:
    """Yield a table for each pair; pairs with the same lines share one."""
    lines = [list(_lines(drift, pair)) for pair in range(len(drift.pairs))]
    for place, (pair, of_pair) in enumerate(zip(drift.pairs, lines, strict=True)):
        title, note = f"{change_arrow(drift, pair)}  {_heading(pair)}", "" if place else _LEGEND
        earlier = lines.index(of_pair)
        if earlier < place and len(of_pair) > 1:
            same = f"the same lines as {change_arrow(drift, drift.pairs[earlier])}"
            yield Section(title=title, lines=[same], note=note)
        else:
            yield Section(
                title=title,
                columns=tuple(_HEADER),
                rows=list(map(list, of_pair)),
                right=(4, 5),
                folds=(3,),
                group="changes",
                note=note,
            )


_LEGEND = (
    "changed: tensors that are not equal to the bit, of all compared; first change, largest: the "
    "change's root mean square over the tensor's; per-op: every operation is given the oracle's "
    "numbers, so that a change there is its own"
)


_FIRST_NAMED = ("torch", "transformers", "python", "numpy", "cpu_capability", "threads")


def _heading(pair: Pair) -> str:
    """Return what differs between a pair's environments, torch first."""
    order = {name: place for place, name in enumerate(_FIRST_NAMED)}
    names = sorted(pair.differs, key=lambda name: order.get(name, len(order)))
    changed = [f"{name} {' → '.join(pair.differs[name])}" for name in names if name != "code"]
    return ", ".join(changed + ["other code"] * ("code" in names)) or "nothing else differs"


def _lines(drift: Drift, pair: int) -> Iterator[_Line]:
    """Yield a pair's lines; only the first of a check has its name."""
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
    """Yield a check's lines: the numbers of each side, then the ids of all sides."""
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
    """Yield a side's lines: at most one without changes, else one for each mode or backend."""
    if not any(move.moved for move in moves):
        if moves and moves[0].side in SIDES:
            yield _still(moves)._replace(side=side_name(moves[0].side))
        return
    # The checked dtype comes before float64.
    runs = dict.fromkeys((move.dtype, move.mode) for move in moves)
    for dtype, mode in sorted(runs, key=lambda run: run[0] == "float64"):
        run = [move for move in moves if (move.dtype, move.mode) == (dtype, mode)]
        if run[0].side not in BY_BACKEND:
            # Beside a backend that forms fewer taps a reference has fewer too: the most count.
            run = [max(run, key=lambda move: move.compared)]
        if len({_alone(move) if move.mode == Mode.PER_OP else move.first for move in run}) > 1:
            yield from map(_line, run)
        else:
            name = side_name(run[0].subject if len(run) == 1 else run[0].side)
            largest = max(run, key=lambda move: (larger(move.largest_change), move.moved))
            yield _line(largest)._replace(side=name)


_SAME = "no change"
_ALL = "all"


def _still(moves: Sequence[Change]) -> _Line:
    return _Line(first=_SAME, changed=_count(moves))


def _line(move: Change) -> _Line:
    run = _WORDS.get(Mode(move.mode), move.dtype)
    line = _Line(side=side_name(move.subject), run=run, first=_SAME, changed=_count([move]))
    if move.mode == Mode.PER_OP and move.side != "oracle":
        return line._replace(first=_alone(move))
    if not move.moved:
        return line
    sizes = ("", "") if move.mode == Mode.EXACT else (move.first_change, move.largest_change)
    by, largest = (size if isinstance(size, str) else format_change(size) for size in sizes)
    return line._replace(first=f"{move.first} {by}".strip(), largest=largest)


_WORDS = {Mode.EXACT: "ids", Mode.PER_OP: "per-op"}


def _count(moves: Sequence[Change]) -> str:
    return f"{sum(move.moved for move in moves):,}/{sum(move.compared for move in moves):,}"


_KINDS = [kind.name for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)]


def _alone(move: Change) -> str:
    """Return the operations that changed although their inputs did not."""
    if not move.moved:
        return "no operation by itself"
    if not move.alone:
        return "unknown: their input may have changed"
    named = sorted(
        move.kinds, key=lambda kind: _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    )
    return f"by themselves: {', '.join(named)}"


_CHECKS = ("layerwise", "gradients")
"""Checks whose taps are the network's, with a table of blocks."""


def drift_blocks(drift: Drift) -> Iterator[Section]:
    """Yield a table of the largest changes by block for each check with changes."""
    for check in _CHECKS:
        of_check = [entry for entry in drift.largest if entry.check == check]
        # The mode of a user's run, if the check has it.
        modes = {entry.mode for entry in of_check}
        mode = Mode.END_TO_END if Mode.END_TO_END in modes else Mode.FLOAT64
        sides = {entry.side: entry for entry in of_check if entry.mode == mode}
        unknown = {entry.pair for entry in drift.unknown if entry.check == check}
        pairs = [
            pair
            for pair, _ in enumerate(drift.pairs)
            if pair not in unknown
            and any(of[pair] != 0.0 for entry in sides.values() for of in entry.blocks.values())
        ]
        if pairs:
            dtype = next(iter(sides.values())).dtype
            yield Section(
                title=f"{check}, {dtype}: largest change, ours / Hugging Face's; = is equal",
                columns=("", *(change_arrow(drift, drift.pairs[pair]) for pair in pairs)),
                rows=_block_rows(sides, pairs),
                right=range(1, len(pairs) + 1),
                folds=(0,),
                splits=True,
            )


def _block_rows(sides: dict[str, LargestChange], pairs: Sequence[int]) -> list[list[str]]:
    """Return a line for each block, with the slashes of a column aligned."""
    names = list(dict.fromkeys(name for entry in sides.values() for name in entry.blocks))
    columns = []
    for pair in pairs:
        cells = [[_cell(sides.get(side), name, pair) for side in SIDES] for name in names]
        left, right = (max(map(len, side)) for side in zip(*cells, strict=True))
        columns.append([f"{ours:>{left}}/{theirs:<{right}}" for ours, theirs in cells])
    return [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]


def _cell(entry: LargestChange | None, name: str, pair: int) -> str:
    """Return a change; `-` if there is no such side or block."""
    changes: Sequence[TapChange] = entry.blocks.get(name, ()) if entry is not None else ()
    return format_change(changes[pair]) if changes else "-"


_VERSIONS = ("python", "torch", "transformers")

_WORD = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "FAIL",
    Verdict.ERROR: "ERROR",
    Verdict.INCONCLUSIVE: "inconclusive",
    None: "not run",
}

_NUMBERS = (
    f"float64: largest difference over RMS, at most {format_short(Bounds().float64)}; "
    "ratio: error vs HF's"
)


def sections(rows: Sequence[Row], drift: Drift) -> Iterator[Section]:
    """Yield the runs, their verdicts, what differs between them, and what changed."""
    yield Section(
        columns=("", "row", *_VERSIONS),
        rows=[_run(str(number), row) for number, row in enumerate(drift.rows, 1)],
        right=(0,),
        folds=(1,),
    )
    checks = list(dict.fromkeys(row.tap for row in rows))
    found = {(row.backend, row.tap): row for row in rows}
    yield Section(
        columns=("", *checks),
        rows=[
            [str(number), *(_verdict(found[row.label, check]) for check in checks)]
            for number, row in enumerate(drift.rows, 1)
        ],
        folds=range(len(checks) + 1),
        splits=True,
        note=_NUMBERS,
    )
    if different := list(_different(drift)):
        yield Section(title="other differences", rows=different, folds=(0, 1, 2))
    yield from changed_rows(drift)
    yield from drift_blocks(drift)
    for note in drift.notes:
        pairs = ", ".join(change_arrow(drift, drift.pairs[pair]) for pair in note.pairs)
        yield Section(lines=[f"note on {pairs}: {note.what}"])


def _run(number: str, row: RunInfo) -> list[str]:
    versions = [row.environment.get(name, "") for name in _VERSIONS]
    if not row.environment:
        versions[0] = "not run"
    return [number, row.label, *versions]


def _verdict(row: Row) -> str:
    """Return the verdict, the worst float64 error and the worst ratio."""
    error = "" if row.error_ours is None else f" {format_short(row.error_ours)}"
    ratio = "" if row.ratio is None else f" {row.ratio:.2f}"
    return f"{_WORD[row.details['verdict']]}{error}{ratio}"


def _different(drift: Drift) -> Iterator[list[str]]:
    """Yield what differs between the runs, except the versions of the first table."""
    numbers = {row.label: str(number) for number, row in enumerate(drift.rows, 1)}
    for name in (name for name in drift.differences if name not in _VERSIONS):
        values = drift.differences[name]
        for place, (value, bare) in enumerate(zip(values, _bare(list(values)), strict=True)):
            rows = " ".join(numbers[label] for label in values[value])
            yield ["" if place else f"  {name}", bare, f"in {rows}"]


_DIGEST = "sha256 "


def _bare(values: Sequence[str]) -> list[str]:
    """Return the values; for codes of one version, only their digests."""
    parts = [value.partition(_DIGEST) for value in values]
    alike = len({(version, found) for version, found, _ in parts}) == 1
    return [
        digest if alike and found else value
        for value, (_, found, digest) in zip(values, parts, strict=True)
    ]
