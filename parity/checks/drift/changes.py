"""Many taps and pairs in few lines: the largest change by block, and by tap over all pairs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from parity.checks.drift.findings import Change, Changes, LargestChange, RunKey, TapChange, larger
from parity.core.results import Mode

# From the changes of every tap to what moved first, how much of it, and where the most.


def changes_between(pair: int, check: str, changed: Changes) -> Iterator[Change]:
    """Yield what moved of each subject, dtype and mode, where nothing did too.

    Args:
        pair: Which pair.
        check: Which check.
        changed: How far each tap moved.
    """
    for run, taps in changed.items():
        isolated = run.mode == Mode.PER_OP and run.given != run
        given = changed.get(run.given) if isolated else None
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
        check: Which check.
        pairs: For each pair how far every tap moved; None where nobody can say.
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
"""Training has thousands of places; written one by one they would be most of a report."""


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
    """Keep the larger of what is there and what has come."""
    if name not in found or larger(change) > larger(found[name]):
        found[name] = change


def _short(change: TapChange) -> TapChange:
    """Return as many digits as an estimate has, and one more."""
    return None if change is None else float(f"{change:.2e}")
