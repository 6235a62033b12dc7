"""Rows of a step that are of no tensor: its learning rate, where it dropped, whether it is tied."""

from collections.abc import Sequence

from parity.compare import Status
from parity.results import Mode, Row
from parity.training.places import Place


def rate_row(place: Place, ours: float, theirs: float, *, bound: float, peak: float) -> Row:
    """Return the row of two learning rates; their difference is over the peak."""
    error = abs(ours - theirs) / peak
    return _row(
        place, "oracle", holds=error <= bound, error=error, bound=bound, values=(ours, theirs)
    )


def site_row(place: Place, ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Return the row of the places that dropped: none more, none fewer, in one order."""
    missing = [name for name in theirs if name not in ours]
    more = len(ours) - len(set(theirs) & set(ours))
    detail = f"no dropout at {', '.join(missing[:3])}" if missing else ""
    if more > 0:
        detail = f"{detail}; {more} more than there are places".removeprefix("; ")
    error = float(len(missing) + max(more, 0))
    right = list(ours) == list(theirs)
    return _row(
        place,
        "huggingface",
        holds=right,
        error=error,
        values=(len(ours), len(theirs)),
        detail=detail,
    )


def tied_row(place: Place, ours: bool, theirs: bool) -> Row:  # noqa: FBT001 - two answers
    """Return the row of whether head and embedding still are one tensor, on each side."""
    sides = {"ours": ours, "Hugging Face's": theirs}
    untied = [side for side, right in sides.items() if not right]
    detail = f"head and embedding are two tensors: {', '.join(untied)}" if untied else ""
    error = float(len(untied))
    return _row(
        place,
        "huggingface",
        holds=not untied,
        error=error,
        values=(float(ours), float(theirs)),
        detail=detail,
    )


def _row(  # noqa: PLR0913 - a row
    place: Place,
    witness: str,
    *,
    holds: bool,
    error: float,
    values: tuple[float, float],
    bound: float = 0.0,
    detail: str = "",
) -> Row:
    return Row(
        tap=place.name,
        attention="",
        dtype="float64",
        mode=Mode.IDENTITY,
        witness=witness,
        status=Status.PASS if holds else Status.FAIL,
        error_ours=error,
        bound=bound,
        value_ours=values[0],
        value_witness=values[1],
        minimum_tolerance=error,
        detail=detail,
    )
