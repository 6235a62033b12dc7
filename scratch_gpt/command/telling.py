"""How an error is told: what, where, what to do, in three lines on standard error."""

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from scratch_gpt.command.errors import CommandError, EnvironmentUnfitError
from scratch_gpt.command.refusals import coded

if TYPE_CHECKING:  # whatever stands for a stream will do: nobody checks its type at run time
    from typing import TextIO


def let_go(stream: "TextIO") -> None:
    """Send whatever a failed stream still holds nowhere.

    Python flushes it once more at exit, would fail again, and end with a code of its own.
    """
    with contextlib.suppress(OSError):  # a stand-in for a stream has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def known(error: BaseException) -> CommandError:
    """Return the error as one with a code; what nobody foresaw is internal."""
    if isinstance(error, CommandError):
        return error
    if (ours := coded(error)) is not None:
        return ours
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return EnvironmentUnfitError(
            f"the package {error.name} is not installed",
            where="this Python environment",
            fix=f"pip install {error.name.partition('.')[0]}",
        )
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return EnvironmentUnfitError(
            "there is not enough memory",
            where="this machine",
            fix="ask for less at once, or take a smaller model",
        )
    if isinstance(error, OSError):
        return EnvironmentUnfitError(
            f"the file system refused: {error.strerror or error}",
            where=str(error.filename or "a file that was asked for"),
            fix="check the path and its permissions",
        )
    return CommandError(
        f"{type(error).__name__}: {error}",
        where="inside this program",
        fix="run it again with --debug and report the traceback",
    )


_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory")
"""What torch says where Python would raise a `MemoryError`."""


def told(what: str, where: str, fix: str) -> str:
    """Return an error's three lines."""
    return f"error: {one_line(what)}\n  where  {one_line(where)}\n  to do  {one_line(fix)}\n"


def tell(what: str, where: str, fix: str) -> None:
    """Print an error; where nobody can hear it, the exit code still speaks."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(told(what, where, fix))
            sys.stderr.flush()
        except OSError:
            let_go(sys.stderr)


def one_line(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
