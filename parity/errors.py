"""How a run ends: the exit codes and errors that every command line here shares."""

import contextlib
from collections.abc import Iterator

from reference.errors import RejectedError, SourceError, UnavailableError
from scratch_gpt.checkpoint.atomic import WriteError
from scratch_gpt.errors import (
    CheckpointError,
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    InconclusiveError,
    InputRejectedError,
    UsageError,
)
from scratch_gpt.errors import to_cli_error as coded_here

__all__ = [
    "EnvironmentUnfitError",
    "ExitCode",
    "InconclusiveError",
    "InputRejectedError",
    "ParityError",
    "UsageError",
]

ParityError = CommandError
"""A run that cannot go on; it says what, where, and what to do."""


# What the other rooms refuse, as errors with an exit code.


_CODED: tuple[tuple[type[Exception], type[ParityError]], ...] = (
    (RejectedError, InputRejectedError),
    (UnavailableError, EnvironmentUnfitError),
)
"""What `reference` refuses; the first that fits decides."""


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Raise what another room refuses as the error of this one that has its exit code."""
    try:
        yield
    except (CheckpointError, WriteError) as error:
        raise (coded_here(error) or error) from error
    except SourceError as error:
        for theirs, ours in _CODED:
            if isinstance(error, theirs):
                raise ours(error.what, where=error.where, fix=error.fix) from error
        raise
    except OSError as error:
        raise EnvironmentUnfitError(
            f"the file system refused: {error.strerror or error}",
            where=str(error.filename or "a file that was asked for"),
            fix="check the path and its permissions",
        ) from error


@contextlib.contextmanager
def reading_untrusted(where: str) -> Iterator[None]:
    """Raise whatever else goes wrong inside as a refusal of the input.

    Around the reading of files from outside alone: what a library makes of bytes that somebody
    prepared cannot be foreseen, and is the bytes' fault more likely than this program's.
    """
    try:
        yield
    except (ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise InputRejectedError(
            f"it could not be read: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="get the files again; if they are sound, report this",
        ) from error
