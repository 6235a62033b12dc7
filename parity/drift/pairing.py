"""Which rows are held against each other, and what differs in what they were made under."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from parity.drift.evidence import EvidenceRow
from parity.drift.findings import Move, Note, Pair
from parity.results import Mode

Differences = Mapping[str, Mapping[str, Sequence[str]]]
"""By name, and by value, the labels of the rows that have it."""


def pairs(rows: Sequence[EvidenceRow]) -> list[tuple[EvidenceRow, EvidenceRow]]:
    """Return neighbours among the rows that were run, and the first beside the last."""
    ran = [row for row in rows if row.reports]
    found = list(pairwise(ran))
    return [*found, (ran[0], ran[-1])] if len(found) > 1 else found


def stated(first: EvidenceRow, second: EvidenceRow) -> Pair:
    """Return a pair with what differs between the environments of its rows."""
    mine, other = first.environment, second.environment
    differs = {
        name: (mine.get(name, _ABSENT), other.get(name, _ABSENT))
        for name in {**mine, **other}
        if mine.get(name) != other.get(name)
    }
    return Pair(first=first.label, second=second.label, differs=differs)


_ABSENT = "not stated"


def differences(rows: Mapping[str, Mapping[str, str]]) -> Differences:
    """Return what is not the same for all labels, by name and value.

    Args:
        rows: By label, what it says of itself.
    """
    names = dict.fromkeys(name for said in rows.values() for name in said)
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        values: dict[str, list[str]] = {}
        for label, said in rows.items():
            values.setdefault(said.get(name, _ABSENT), []).append(label)
        if len(values) > 1:
            found[name] = values
    return found


_SUMS = {
    "threads": "threads",
    "cpu_capability": "vector instructions (cpu_capability)",
    "platform": "platforms",
}
"""What changes the order in which sums are taken, whatever the version."""


_SUMMED = (
    "the rows have different {}: sums are taken in another order, and numbers may move for that "
    "and not for a version"
)
_CODE = "the rows were made by different code: what moved may be its doing"
_ORACLE = "the oracle moved too, so NumPy's products did"
_GIVEN = (
    "the oracle moved too, so NumPy's products did, and with them what some operations are given "
    "that are run alone: whether these moved by themselves is not known"
)
_ORDER = "some taps come in another order; which moved first is told in that of the first row"


def notes(pairs: Sequence[Pair], moves: Sequence[Move], orders: Sequence[bool]) -> Iterator[Note]:
    """Yield what a reader has to know before reading a cause into a movement.

    Args:
        pairs: What differs between the rows of each.
        moves: What moved between them.
        orders: For each pair, whether taps of it come in another order.
    """
    changed = [words for name, words in _SUMS.items() if any(name in p.differs for p in pairs)]
    oracle = {move.pair for move in moves if move.side == "oracle" and move.moved}
    given = {move.pair for move in moves if move.moved and _given(move)}
    found = {
        _SUMMED.format(" and ".join(changed)): [
            place for place, pair in enumerate(pairs) if pair.differs.keys() & _SUMS.keys()
        ],
        _CODE: [place for place, pair in enumerate(pairs) if "code" in pair.differs],
        _ORACLE: sorted(oracle - given),
        _GIVEN: sorted(given),
        _ORDER: [place for place, turned in enumerate(orders) if turned],
    }
    for what, where in found.items():
        if where:
            yield Note(pairs=where, what=what)


def _given(move: Move) -> bool:
    """Return whether it is of numbers that operations are given when they are run alone."""
    return move.side == "oracle" and move.mode == Mode.ISOLATED
