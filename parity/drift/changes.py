"""How far two runs of the same thing are apart, tap by tap, from their fingerprints."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parity.fingerprints import Fingerprint
from parity.sketch import ROUNDING, distance

Change = float | None
"""0 where a tap is the same to the bit; else the length of the difference over that of the tensor,
`ROUNDING` standing for anything below it; None where it moved by nobody knows how much: ids, what
is not finite, and elements whose changes have cancelled in a bucket."""


class Run(NamedTuple):
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
    def given(self) -> "Run":
        """The run whose numbers are given to the operations of this isolated one."""
        path = self.subject.partition("/")[2]
        return Run(f"oracle/{path}", self.dtype, self.mode)


_EXACT = "float64"

Changes = Mapping[Run, Mapping[str, Change]]
"""Of every tap that both have, in network order."""


def changes(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Changes:
    """Return how far every tap moved from the first to the second."""
    others = {_key(found): found for found in second}
    moved: dict[Run, dict[str, Change]] = {}
    for found in first:
        run, tap = _key(found)
        other = others.get((run, tap))
        if other is not None:
            moved.setdefault(run, {})[tap] = change(found, other)
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


def _orders(side: Sequence[Fingerprint]) -> dict[Run, list[str]]:
    found: dict[Run, list[str]] = {}
    for run, tap in map(_key, side):
        found.setdefault(run, []).append(tap)
    return found


def change(first: Fingerprint, second: Fingerprint) -> Change:
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


def larger(change: Change) -> float:
    """Return a change as something to sort by: what nobody knows counts as the largest."""
    return float("inf") if change is None else change


def _key(found: Fingerprint) -> tuple[Run, str]:
    return Run(found.subject, found.dtype, found.mode), found.tap
