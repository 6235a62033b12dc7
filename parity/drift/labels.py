"""What a row is called: as much of its path as tells it from the others."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from parity.errors import UsageError


def labels(paths: Sequence[Path]) -> list[str]:
    """Return a label for each path: a folder's name, a file's without its suffix.

    Where two would be called the same, the folders that they are in stand before it.

    Raises:
        UsageError: A path is given twice.
    """
    places = [path.resolve() for path in paths]
    for place, count in Counter(places).items():
        if count > 1:
            raise UsageError(
                "a row cannot be held against itself",
                where=str(place),
                fix="give each file or folder once",
            )
    named = [
        (*place.parent.parts, place.stem if place.is_file() else place.name) for place in places
    ]
    if len(set(named)) < len(named):  # a file `a.json` beside a folder `a`
        named = [place.parts for place in places]
    return [_shortest(parts, named) for parts in named]


def _shortest(parts: tuple[str, ...], all_of_them: Sequence[tuple[str, ...]]) -> str:
    """Return the end of a path that no other path has."""
    length = next(
        length
        for length in range(1, len(parts) + 1)
        if sum(other[-length:] == parts[-length:] for other in all_of_them) == 1
    )
    return "/".join(parts[-length:])
