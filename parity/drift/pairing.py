"""Which rows are held against each other, and what differs in what they were made under."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from parity.drift.evidence import EvidenceRow
from parity.drift.findings import Move, Pair

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


def notes(found: Differences, moves: Sequence[Move]) -> Iterator[str]:
    """Yield what a reader has to know before reading a cause into a movement.

    Args:
        found: What differs between the rows.
        moves: What moved between them.
    """
    changed = [words for name, words in _SUMS.items() if name in found]
    if changed:
        yield (
            f"the rows have different {' and '.join(changed)}: sums are taken in another order, "
            "and numbers may move for that and not for a version"
        )
    if "code" in found:
        yield "the rows were made by different code: what moved may be its doing"
    if any(move.subject == "oracle" and move.moved for move in moves):
        yield (
            "the oracle moved too, so NumPy's products did: operations that are run alone get its "
            "numbers, rounded, and may move because these did"
        )
