"""What laying rows side by side has found; the part of a report that `drift` alone has."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parity.core.fingerprints import ROUNDING, Fingerprint, distance

# How far two runs of the same thing are apart, tap by tap, from their fingerprints.


TapChange = float | None
"""0 where a tap is the same to the bit; else the length of the difference over that of the tensor,
`ROUNDING` standing for anything below it; None where it moved by nobody knows how much: ids, what
is not finite, and elements whose changes have cancelled in a bucket."""


class RunKey(NamedTuple):
    """Whose numbers, of which run: what taps are laid side by side within.

    Attributes:
        subject: Whose.
        dtype: Of the run.
        mode: How its taps were met.
    """

    subject: str
    dtype: str
    mode: str

    @property
    def side(self) -> str:
        """The first part of the subject: `ours` for `ours/plain`."""
        return self.subject.partition("/")[0]

    @property
    def given(self) -> "RunKey":
        """The run whose numbers are given to the operations of this isolated one."""
        path = self.subject.partition("/")[2]
        return RunKey(f"oracle/{path}", self.dtype, self.mode)


_EXACT = "float64"

Changes = Mapping[RunKey, Mapping[str, TapChange]]
"""Of every tap that both have, in network order."""


def all_changes(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Changes:
    """Return how far every tap moved from the first to the second."""
    others = {_key(found): found for found in second}
    moved: dict[RunKey, dict[str, TapChange]] = {}
    for found in first:
        run, tap = _key(found)
        other = others.get((run, tap))
        if other is not None:
            moved.setdefault(run, {})[tap] = tap_change(found, other)
    return moved


def unmatched(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> list[str]:
    """Return the taps that only one of two has, each with its run."""
    keys = [dict.fromkeys(map(_key, side)) for side in (first, second)]
    alone = [key for mine, other in (keys, keys[::-1]) for key in mine if key not in other]
    return [f"{run.subject} {run.dtype} {run.mode} {tap}" for run, tap in alone]


def reordered(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> bool:
    """Return whether the taps of any run that two have come in two orders."""
    orders = [_orders(side) for side in (first, second)]
    return any(taps != orders[1][run] for run, taps in orders[0].items() if run in orders[1])


def _orders(side: Sequence[Fingerprint]) -> dict[RunKey, list[str]]:
    found: dict[RunKey, list[str]] = {}
    for run, tap in map(_key, side):
        found.setdefault(run, []).append(tap)
    return found


def tap_change(first: Fingerprint, second: Fingerprint) -> TapChange:
    """Return how far one tap moved, over the larger of its two norms.

    The difference is estimated from sketches, good to about 9 %. Where they are the same, changes
    have cancelled, or are lost in the sums' rounding. In float64 these are last bits, and below
    `ROUNDING` either way; in a shorter dtype a last bit is far above it.
    """
    if (first.digest, first.shape) == (second.digest, second.shape):
        return 0.0
    if first.norm is None or second.norm is None or first.shape != second.shape:
        return None
    if first.sketch == second.sketch and first.dtype != _EXACT:
        return None
    scale = max(first.norm, second.norm)
    apart = distance(first.sketch, second.sketch) / scale if scale > 0.0 else 0.0
    return max(apart, ROUNDING)


def larger(change: TapChange) -> float:
    """Return a change as something to sort by: what nobody knows counts as the largest."""
    return float("inf") if change is None else change


def _key(found: Fingerprint) -> tuple[RunKey, str]:
    return RunKey(found.subject, found.dtype, found.mode), found.tap


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One row.

    Attributes:
        label: Its name.
        environment: What its reports were made under, the code included; empty where not run.
    """

    label: str
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows that are held against each other.

    Attributes:
        first: Label of the one.
        second: Label of the other.
        differs: Of their environments: (value there, value here), by name.
    """

    first: str
    second: str
    differs: Mapping[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What moved between two rows, of one check, subject, dtype and mode.

    Attributes:
        pair: Place in the list of pairs, from 0.
        check: The check.
        subject: Whose numbers.
        dtype: Dtype of the run.
        mode: How the taps were met.
        compared: Taps that both rows have.
        moved: Those of them that are not the same to the bit.
        first: The first of these in network order; empty where nothing moved.
        first_change: How far it moved, over its size; None for ids, which have none.
        largest: The tap that moved furthest.
        largest_change: How far.
        alone: In mode isolated, whether what the operations were given is known, and the same in
            both rows to the bit.
        kinds: Where it is: the kinds of taps that moved, and so moved by themselves, with how many
            of each.
    """

    pair: int
    check: str
    subject: str
    dtype: str
    mode: str
    compared: int
    moved: int
    first: str = ""
    first_change: TapChange = 0.0
    largest: str = ""
    largest_change: TapChange = 0.0
    alone: bool = False
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def side(self) -> str:
        """The first part of the subject: `ours` for `ours/plain`."""
        return self.subject.partition("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incomparable:
    """Two reports of which nobody can say what moved.

    Attributes:
        pair: Place in the list of pairs, from 0.
        check: The check.
        why: Why not.
    """

    pair: int
    check: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """What a reader has to know before reading a cause into a movement.

    Attributes:
        pairs: Places in the list of pairs, from 0, of those that it is about.
        what: What it is.
    """

    pairs: Sequence[int]
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargestChange:
    """The largest changes of one side's numbers in one run, over the side's attention paths.

    Attributes:
        check: The check.
        side: `ours`, `huggingface`, or another witness's name.
        dtype: Dtype of the run.
        mode: How the taps were met.
        blocks: By block, for each pair its largest change; None also for pairs of which nobody
            can say what moved, which `unknown` lists.
        taps: For each tap that moved at all, its largest change over all pairs. Of training the
            places of a step's block are together.
    """

    check: str
    side: str
    dtype: str
    mode: str
    blocks: Mapping[str, Sequence[TapChange]]
    taps: Mapping[str, TapChange]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """What moved.

    Attributes:
        rows: In the order given; those that were not run last.
        pairs: Neighbours in that order, and the first beside the last.
        differences: What differs between the rows: by name, and by value the labels.
        notes: What a reader has to know before reading a cause into a movement.
        moves: What moved.
        unknown: Where nobody can say.
        largest: The largest changes, by block and by tap.
    """

    rows: Sequence[RunInfo]
    pairs: Sequence[Pair]
    differences: Mapping[str, Mapping[str, Sequence[str]]]
    notes: Sequence[Note]
    moves: Sequence[Change]
    unknown: Sequence[Incomparable]
    largest: Sequence[LargestChange]
