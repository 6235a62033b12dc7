"""How far each tap changed between two runs, and the largest change by block and over all pairs."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from parity.core.fingerprints import ROUNDING, Fingerprint, distance
from parity.core.results import Mode

TapChange = float | None
"""0 if a tap is equal to the bit; else the norm of the difference over that of the tensor, at least
`ROUNDING`. None if it changed by an unknown amount: ids, tensors that are not finite, and elements
whose changes cancel in a bucket of the sketch."""


class RunKey(NamedTuple):
    """One run of one subject; taps are compared within it."""

    subject: str
    dtype: str
    mode: str

    @property
    def side(self) -> str:
        """The first part of the subject: `ours` for `ours/plain`."""
        return self.subject.partition("/")[0]

    @property
    def given(self) -> "RunKey":
        """The run whose numbers are the inputs of the operations of this per-op run."""
        path = self.subject.partition("/")[2]
        return RunKey(f"oracle/{path}", self.dtype, self.mode)


_EXACT = "float64"

Changes = Mapping[RunKey, Mapping[str, TapChange]]
"""The change of every tap that both reports have, by run and in network order."""


def all_changes(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Changes:
    """Return the change of every tap from the first to the second report."""
    others = {_key(found): found for found in second}
    moved: dict[RunKey, dict[str, TapChange]] = {}
    for found in first:
        run, tap = _key(found)
        other = others.get((run, tap))
        if other is not None:
            moved.setdefault(run, {})[tap] = tap_change(found, other)
    return moved


def unmatched(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> list[str]:
    """Return the taps of only one of two reports, each with its run."""
    keys = [dict.fromkeys(map(_key, side)) for side in (first, second)]
    alone = [key for mine, other in (keys, keys[::-1]) for key in mine if key not in other]
    return [f"{run.subject} {run.dtype} {run.mode} {tap}" for run, tap in alone]


def reordered(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> bool:
    """Return whether the taps of a run come in different orders."""
    one, other = dict[RunKey, list[str]](), dict[RunKey, list[str]]()
    for orders, side in ((one, first), (other, second)):
        for run, tap in map(_key, side):
            orders.setdefault(run, []).append(tap)
    return any(taps != other[run] for run, taps in one.items() if run in other)


def tap_change(first: Fingerprint, second: Fingerprint) -> TapChange:
    """Return the change of one tap, over the larger of its two norms.

    The difference is estimated from sketches, to about 9 %. Equal sketches of different tensors
    mean that changes cancel, or are lost in the rounding of the sums. In float64 both are below
    `ROUNDING`; in a shorter dtype a last bit is far above it.
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
    """Return a change as a sort key; an unknown one is the largest."""
    return float("inf") if change is None else change


def _key(found: Fingerprint) -> tuple[RunKey, str]:
    return RunKey(found.subject, found.dtype, found.mode), found.tap


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run: its name, and the versions, settings and code of its reports; empty if not run."""

    label: str
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Labels of two runs that are compared, and (first, second) of what differs between them."""

    first: str
    second: str
    differs: Mapping[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """Changes between two runs, of one check, subject, dtype and mode.

    Attributes:
        compared: Taps that both runs have.
        moved: Those that are not equal to the bit.
        first: The first of these in network order; empty without any.
        alone: In mode per-op, whether the inputs of the operations are known and equal to the bit.
        kinds: If so, how many taps of each kind changed: their operations did.
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
    """A pair and check whose changes are unknown, and the reason."""

    pair: int
    check: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """A caveat about the cause of changes, and the indices of the pairs it concerns."""

    pairs: Sequence[int]
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargestChange:
    """The largest changes of one side in one run, over its backends.

    Attributes:
        side: `ours`, `huggingface`, or another reference.
        blocks: For each block the largest change of each pair; None also for pairs whose changes
            are unknown, which `Drift.unknown` lists.
        taps: For each tap that changed, its largest change over all pairs. In training the
            quantities of one block and step are together.
    """

    check: str
    side: str
    dtype: str
    mode: str
    blocks: Mapping[str, Sequence[TapChange]]
    taps: Mapping[str, TapChange]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """All changes between runs.

    Attributes:
        rows: The runs in the order given; those that are missing come last.
        pairs: Neighbours in that order, and the first with the last.
        differences: What differs between the runs: by name, and by value the labels.
    """

    rows: Sequence[RunInfo]
    pairs: Sequence[Pair]
    differences: Mapping[str, Mapping[str, Sequence[str]]]
    notes: Sequence[Note]
    moves: Sequence[Change]
    unknown: Sequence[Incomparable]
    largest: Sequence[LargestChange]


def changes_between(pair: int, check: str, changed: Changes) -> Iterator[Change]:
    """Yield the changes of each subject, dtype and mode, also where nothing changed."""
    for run, taps in changed.items():
        per_op = run.mode == Mode.PER_OP and run.given != run
        given = changed.get(run.given) if per_op else None
        yield _move(pair, check, run, taps, given)


def _move(
    pair: int,
    check: str,
    run: RunKey,
    taps: Mapping[str, TapChange],
    given: Mapping[str, TapChange] | None,
) -> Change:
    alone = given is not None and not any(change != 0.0 for change in given.values())
    moved = {tap: change for tap, change in taps.items() if change != 0.0}
    first = next(iter(moved), "")
    largest = max(moved, key=lambda tap: larger(moved[tap]), default="")
    kinds = Counter(map(kind_of, moved)) if alone else {}
    return Change(
        pair=pair,
        check=check,
        subject=run.subject,
        dtype=run.dtype,
        mode=run.mode,
        compared=len(taps),
        moved=len(moved),
        first=first,
        first_change=moved.get(first, 0.0),
        largest=largest,
        largest_change=moved.get(largest, 0.0),
        alone=alone,
        kinds=dict(kinds),
    )


def kind_of(tap: str) -> str:
    """Return `mlp.gelu` for `h.3.mlp.gelu`, and any other name as it is."""
    return tap.split(".", 2)[2] if tap.startswith("h.") and tap.count(".") > 1 else tap


_Key = tuple[str, str, str]
"""Side, dtype and mode."""


def largest_changes(check: str, pairs: Sequence[Changes | None]) -> Iterator[LargestChange]:
    """Yield the largest changes of each side, dtype and mode.

    Args:
        check: The verb.
        pairs: For each pair the change of every tap; None if unknown.
    """
    keys: dict[_Key, None] = {}
    for changed in pairs:
        keys |= dict.fromkeys((run.side, run.dtype, run.mode) for run in changed or {})
    for key in keys:
        side, dtype, mode = key
        of_pairs = [None if changed is None else _of(key, changed) for changed in pairs]
        yield LargestChange(
            check=check,
            side=side,
            dtype=dtype,
            mode=mode,
            blocks=_blocks(of_pairs, _BLOCKS.get(check, block_of)),
            taps=_taps(of_pairs, _TAPS.get(check, str)),
        )


def block_of(tap: str) -> str:
    """Return `h.3` for `h.3.mlp.gelu`, `embeddings` for `embeddings.tokens`."""
    parts = tap.split(".")
    return ".".join(parts[:2]) if parts[0] == "h" else parts[0]


def _quantity(tap: str) -> str:
    """Return `adamw.gradient` for `adamw.2.gradient.h.3.ln_1.weight`."""
    form, _, quantity = tap.split(".")[:3] if tap.count(".") > 1 else (tap, "", "")
    return f"{form}.{quantity}" if quantity else form


def _step_and_block(tap: str) -> str:
    """Return `adamw.2.gradient.h.3` for `adamw.2.gradient.h.3.ln_1.weight`."""
    before, found, parameter = tap.partition(".h.")
    return f"{before}.h.{parameter.partition('.')[0]}" if found else tap


_BLOCKS: Mapping[str, Callable[[str], str]] = {"training": _quantity}
_TAPS: Mapping[str, Callable[[str], str]] = {"training": _step_and_block}
"""How taps are grouped; training has thousands of quantities, which would fill a report."""


def _of(key: _Key, changed: Changes) -> dict[str, TapChange]:
    """Return each tap's largest change over the runs of one side."""
    found: dict[str, TapChange] = {}
    for run, taps in changed.items():
        if (run.side, run.dtype, run.mode) == key:
            for tap, change in taps.items():
                _keep(found, tap, change)
    return found


def _blocks(
    pairs: Sequence[Mapping[str, TapChange] | None], fold: Callable[[str], str]
) -> dict[str, list[TapChange]]:
    folded: list[dict[str, TapChange]] = []
    for taps in pairs:
        folded.append({})
        for tap, change in (taps or {}).items():
            _keep(folded[-1], fold(tap), change)
    names = dict.fromkeys(name for blocks in folded for name in blocks)
    return {name: [_short(blocks.get(name)) for blocks in folded] for name in names}


def _taps(
    pairs: Sequence[Mapping[str, TapChange] | None], fold: Callable[[str], str]
) -> dict[str, TapChange]:
    found: dict[str, TapChange] = {}
    for taps in pairs:
        for tap, change in (taps or {}).items():
            _keep(found, fold(tap), change)
    return {tap: _short(change) for tap, change in found.items() if change != 0.0}


def _keep(found: dict[str, TapChange], name: str, change: TapChange) -> None:
    """Keep the larger of the known change and a new one."""
    if name not in found or larger(change) > larger(found[name]):
        found[name] = change


def _short(change: TapChange) -> TapChange:
    """Return a change with one digit more than the estimate's."""
    return None if change is None else float(f"{change:.2e}")
