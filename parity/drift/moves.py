"""From the changes of every tap to what moved first, how much of it, and where the most."""

from collections import Counter
from collections.abc import Iterator, Mapping

from parity.drift.changes import Change, Changes, Run, larger
from parity.drift.findings import Move
from parity.results import Mode


def moves(pair: int, check: str, changed: Changes) -> Iterator[Move]:
    """Yield what moved of each subject, dtype and mode, where nothing did too.

    Args:
        pair: Which pair.
        check: Which check.
        changed: How far each tap moved.
    """
    for run, taps in changed.items():
        isolated = run.mode == Mode.ISOLATED and run.given != run
        given = changed.get(run.given) if isolated else None
        yield _move(pair, check, run, taps, given)


def _move(
    pair: int, check: str, run: Run, taps: Mapping[str, Change], given: Mapping[str, Change] | None
) -> Move:
    alone = given is not None and not any(change != 0.0 for change in given.values())
    moved = {tap: change for tap, change in taps.items() if change != 0.0}
    first = next(iter(moved), "")
    largest = max(moved, key=lambda tap: larger(moved[tap]), default="")
    kinds = Counter(map(kind_of, moved)) if alone else {}
    return Move(
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
