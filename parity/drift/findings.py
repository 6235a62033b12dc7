"""What laying rows side by side has found; the part of a report that `drift` alone has."""

import dataclasses
from collections.abc import Mapping, Sequence

from parity.drift.changes import Change


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowLooked:
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
class Move:
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
    first_change: Change = 0.0
    largest: str = ""
    largest_change: Change = 0.0
    alone: bool = False
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def side(self) -> str:
        """The first part of the subject: `ours` for `ours/plain`."""
        return self.subject.partition("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unknown:
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
class Largest:
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
    blocks: Mapping[str, Sequence[Change]]
    taps: Mapping[str, Change]


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

    rows: Sequence[RowLooked]
    pairs: Sequence[Pair]
    differences: Mapping[str, Mapping[str, Sequence[str]]]
    notes: Sequence[Note]
    moves: Sequence[Move]
    unknown: Sequence[Unknown]
    largest: Sequence[Largest]
