"""How a run ends: the exit codes and errors that every command line here shares."""

from scratch_gpt.command.errors import (
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    InconclusiveError,
    InputRefusedError,
    UsageError,
)

__all__ = [
    "EnvironmentUnfitError",
    "ExitCode",
    "InconclusiveError",
    "InputRefusedError",
    "ParityError",
    "UsageError",
]

ParityError = CommandError
"""A run that cannot go on; it says what, where, and what to do."""
