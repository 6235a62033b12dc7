"""The errors and exit codes of every command, and the translation of `reference`'s errors."""

import contextlib
from collections.abc import Iterator

from reference.errors import RejectedError, SourceError, UnavailableError
from scratch_gpt.errors import (
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    InconclusiveError,
    InputRejectedError,
    UsageError,
    file_system_error,
)

__all__ = [
    "EnvironmentUnfitError",
    "ExitCode",
    "InconclusiveError",
    "InputRejectedError",
    "ParityError",
    "UsageError",
]

ParityError = CommandError
"""Base of all errors with an exit code."""

_MEANINGS: dict[type[SourceError], type[CommandError]] = {
    RejectedError: InputRejectedError,
    UnavailableError: EnvironmentUnfitError,
}
"""The errors of `reference`, which imports nothing of this project."""


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Raise errors of `reference` and of the file system as errors with an exit code."""
    try:
        yield
    except CommandError:
        raise
    except SourceError as error:
        meaning = next((m for kind, m in _MEANINGS.items() if isinstance(error, kind)), None)
        if meaning is None:
            raise
        raise meaning(error.what, where=error.where, fix=error.fix) from error
    except OSError as error:
        raise file_system_error(error) from error


@contextlib.contextmanager
def reading_untrusted(where: str) -> Iterator[None]:
    """Raise any unexpected error inside as a rejection of the file at `where`.

    An unexpected error of a library is more likely caused by the file than by this program.
    """
    try:
        yield
    except CommandError:
        raise
    except (ValueError, RuntimeError, OverflowError) as error:
        raise InputRejectedError(
            f"it could not be read: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="get the files again; if they are sound, report this",
        ) from error
