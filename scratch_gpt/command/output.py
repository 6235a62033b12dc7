"""What a command prints, and how: coloured for a terminal, plain elsewhere, or an error."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from scratch_gpt.command.errors import EnvironmentUnfitError
from scratch_gpt.command.telling import let_go

if TYPE_CHECKING:  # whatever stands for a stream will do: nobody checks its type at run time
    from typing import TextIO

    from rich.console import Console


_NARROWEST = 92
"""Columns below which the widest table would lose names; there a terminal wraps lines instead."""


def drawn(
    draw: "Callable[[Console], None]", stream: "TextIO | None", *, narrowest: int = _NARROWEST
) -> str:
    """Return what `draw` prints; in colour if `stream` is a terminal that wants it.

    Args:
        draw: Prints.
        stream: Where it will go; None for a file.
        narrowest: Columns that it takes, however few there are.
    """
    from rich.console import Console

    asked = Console(file=stream) if stream is not None else None
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=max(narrowest, _width(asked)),
        force_terminal=asked is not None and asked.is_terminal,
        color_system="standard" if asked is not None and asked.color_system else None,
    )
    draw(console)
    return buffer.getvalue()


def _width(asked: "Console | None") -> int:
    """Return how many columns there are: the user's own word, if it is a number, rules."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal():
        return int(said)
    return asked.width if asked is not None and asked.is_terminal else 100


_ELSEWHERE = "free some space, or choose another place"


def to_stdout(text: str, *, fix: str = _ELSEWHERE) -> None:
    """Write to standard output what its encoding can say.

    Raises:
        EnvironmentUnfitError: There is none, or it is full.
        BrokenPipeError: Nobody reads it any more.
    """
    if sys.stdout is None:  # closed before this program began
        raise EnvironmentUnfitError(
            "the output could not be written: there is no standard output",
            where="standard output",
            fix="use --quiet, with --output for the report",
        )
    encoding = sys.stdout.encoding or "utf-8"
    with writing("standard output", fix=fix):
        try:
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
        except OSError:
            let_go(sys.stdout)
            raise


@contextlib.contextmanager
def writing(where: str, *, fix: str = _ELSEWHERE) -> Iterator[None]:
    """Raise a failed write as an error that says where; a closed pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentUnfitError(
            f"the output could not be written: {error.strerror}", where=where, fix=fix
        ) from error
