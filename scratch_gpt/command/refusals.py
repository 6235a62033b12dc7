"""Errors of this room that know what, where and what to do, as errors with an exit code.

A row names its error by where it is defined rather than by importing it: only modules that were
imported can have raised anything, and `--help` is to import none of them.
"""

import sys

from scratch_gpt.command.errors import (
    CommandError,
    EnvironmentUnfitError,
    InconclusiveError,
    InputRefusedError,
    UsageError,
)

_CODED: tuple[tuple[str, str, type[CommandError]], ...] = (
    ("scratch_gpt.files.refusal", "EmptyCheckpointError", InconclusiveError),
    ("scratch_gpt.files.refusal", "UnreadableError", EnvironmentUnfitError),
    ("scratch_gpt.files.refusal", "CheckpointError", InputRefusedError),
    ("scratch_gpt.files.write_error", "OccupiedError", UsageError),
    ("scratch_gpt.files.write_error", "WriteError", EnvironmentUnfitError),
    ("scratch_gpt.data.refusal", "TooLittleTextError", UsageError),
    ("scratch_gpt.tokenization.refusal", "TextError", UsageError),
    ("scratch_gpt.tokenizer_original", "MissingExtraError", EnvironmentUnfitError),
)
"""Module, class, and what it means; the first that fits decides."""


def coded(error: BaseException) -> CommandError | None:
    """Return the error as one with an exit code, None where it is none of this room's."""
    for module, name, meaning in _CODED:
        theirs = getattr(sys.modules.get(module), name, None)
        if theirs is not None and isinstance(error, theirs):
            return meaning(error.what, where=error.where, fix=error.fix)
    return None
