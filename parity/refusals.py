"""What the other rooms refuse, as errors with an exit code."""

import contextlib
from collections.abc import Iterator

from parity.errors import (
    EnvironmentUnfitError,
    InputRefusedError,
    ParityError,
)
from reference.refusal import RefusedError, SourceError, UnavailableError
from scratch_gpt.command.refusals import coded as coded_here
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.write_error import WriteError

_CODED: tuple[tuple[type[Exception], type[ParityError]], ...] = (
    (RefusedError, InputRefusedError),
    (UnavailableError, EnvironmentUnfitError),
)
"""What `reference` refuses; the first that fits decides."""


@contextlib.contextmanager
def coded() -> Iterator[None]:
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
def hostile(where: str) -> Iterator[None]:
    """Raise whatever else goes wrong inside as a refusal of the input.

    Around the reading of files from outside alone: what a library makes of bytes that somebody
    prepared cannot be foreseen, and is the bytes' fault more likely than this program's.
    """
    try:
        yield
    except (ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise InputRefusedError(
            f"it could not be read: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="get the files again; if they are sound, report this",
        ) from error
