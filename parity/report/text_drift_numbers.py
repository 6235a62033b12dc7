"""How a drift's numbers, sides and pairs are written."""

from parity.drift.changes import Change
from parity.drift.findings import Drift, Pair
from parity.sketch import ROUNDING

SIDES = {"ours": "ours", "huggingface": "Hugging Face"}
"""Sides that are told of where nothing of them moved, too; the others where it did."""

BY_PATH = ("ours", "oracle")
"""Sides whose numbers are others on each path."""


def short(number: float) -> str:
    """Return one digit and the exponent, `3e-7`: an estimate has no more."""
    if number == 0.0:
        return "0"
    digits, _, exponent = f"{number:.0e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def told(change: Change) -> str:
    """Return a change: `=` where there is none, `?` where nobody knows how much."""
    if change is None:
        return "?"
    if change == 0.0:
        return "="
    return f"<{short(ROUNDING)}" if change <= ROUNDING else short(change)


def side(subject: str) -> str:
    """Return `ours (plain)` for `ours/plain`, and `Hugging Face` for `huggingface/plain`."""
    name, _, path = subject.partition("/")
    return SIDES.get(name, name) + (f" ({path})" if path and name in BY_PATH else "")


def arrow(drift: Drift, pair: Pair) -> str:
    """Return `2→3`, by the numbers of the rows."""
    numbers = {row.label: number for number, row in enumerate(drift.rows, 1)}
    return f"{numbers[pair.first]}→{numbers[pair.second]}"
