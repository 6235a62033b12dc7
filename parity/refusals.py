"""What the other rooms refuse, as errors with an exit code."""

import contextlib
from collections.abc import Iterator

from parity.errors import (
    EnvironmentUnfitError,
    InconclusiveError,
    InputRefusedError,
    ParityError,
    UsageError,
)
from reference.refusal import RefusedError, SourceError, UnavailableError
from scratch_gpt.files.refusal import CheckpointError, EmptyCheckpointError
from scratch_gpt.files.write_error import OccupiedError, WriteError

_CODED: tuple[tuple[type[Exception], type[ParityError]], ...] = (
    (EmptyCheckpointError, InconclusiveError),
    (CheckpointError, InputRefusedError),
    (RefusedError, InputRefusedError),
    (UnavailableError, EnvironmentUnfitError),
    (OccupiedError, UsageError),
    (WriteError, EnvironmentUnfitError),
)
"""The first that fits decides."""


@contextlib.contextmanager
def coded() -> Iterator[None]:
    """Raise what another room refuses as the error of this one that has its exit code."""
    try:
        yield
    except (CheckpointError, SourceError, WriteError) as error:
        for theirs, ours in _CODED:
            if isinstance(error, theirs):
                raise ours(error.what, where=error.where, fix=error.fix) from error
        raise
