"""What a comparison of tokenizers has to say: a row a source of strings, and one a difference."""

import dataclasses

from parity.compare import Status
from parity.results import Mode, Row
from parity.tokens.causes import Cause


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRow(Row):
    """One source of strings, compared; `tap` is its name and `error_ours` how many differ.

    Attributes:
        strings: How many strings.
        characters: How many characters they have.
        ids: How many ids the witness gives.
        unknown: How many of those are the unknown token.
        dropped: Characters that vanish: control characters, zero-width ones, soft hyphens; None
            in `original`, where ftfy decides and does not tell.
        places: Whether places in the text were compared, not ids alone.
    """

    strings: int
    characters: int
    ids: int
    unknown: int
    dropped: int | None
    places: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceRow(Row):
    """One difference, taken apart; `tap` is the source and the step.

    Attributes:
        cause: What is behind it.
        strings: How many strings came down to it.
    """

    cause: Cause
    strings: int


@dataclasses.dataclass
class Counts:
    """What was met in one source so far."""

    strings: int = 0
    characters: int = 0
    ids: int = 0
    unknown: int = 0
    dropped: int | None = 0
    differing: int = 0
    places: bool = True


def row_of(source: str, witness: str, counts: Counts) -> TokenRow:
    """Return the row of a source."""
    return TokenRow(
        tap=source,
        attention=witness,
        dtype="ids",
        mode=Mode.EXACT,
        witness=witness,
        status=Status.FAIL if counts.differing else Status.PASS,
        error_ours=float(counts.differing),
        bound=0.0,
        minimum_tolerance=float(counts.differing),
        strings=counts.strings,
        characters=counts.characters,
        ids=counts.ids,
        unknown=counts.unknown,
        dropped=counts.dropped,
        places=counts.places,
    )


def difference_of(source: str, witness: str, cause: Cause, strings: int) -> DifferenceRow:
    """Return the row of a difference."""
    return DifferenceRow(
        tap=f"{source}/{cause.step}",
        attention=witness,
        dtype="ids",
        mode=Mode.EXACT,
        witness=witness,
        status=Status.FAIL,
        bound=0.0,
        detail=f"{cause.why}; {cause.character}",
        cause=cause,
        strings=strings,
    )
