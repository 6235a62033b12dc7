"""The errors and exit codes of every command, and the translation of `reference`'s errors."""

import contextlib
from collections.abc import Iterator

from reference.errors import RejectedError, UnavailableError
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


_LONGEST = 1_000


def message_of(error: BaseException) -> str:
    """Return the message of an error of unknown code in one line; making it may fail too."""
    try:
        return " ".join(str(error)[:_LONGEST].split())
    except Exception:  # noqa: BLE001 - whatever its class does
        return "its message could not be made"


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Raise errors of `reference` and of the file system as errors with an exit code."""
    try:
        yield
    except CommandError:
        raise
    except RejectedError as error:
        raise InputRejectedError(error.what, where=error.where, fix=error.fix) from error
    except UnavailableError as error:
        raise EnvironmentUnfitError(error.what, where=error.where, fix=error.fix) from error
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
