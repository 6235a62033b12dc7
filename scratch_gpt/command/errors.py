"""How a run ends: exit codes, and errors that say what, where, and what to do."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The command line's exit codes; the worst one that applies is used."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    REFUSED = 4
    ENVIRONMENT = 5
    INTERNAL = 70
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class CommandError(Exception):
    """A run that cannot go on.

    Attributes:
        what: What happened, in one line.
        where: The file, tensor, layer or option concerned.
        fix: What the user can do.
    """

    code = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class UsageError(CommandError):
    """The command was asked for something that it does not have."""

    code = ExitCode.USAGE


class InconclusiveError(CommandError):
    """Nothing that would deserve a verdict can be compared."""

    code = ExitCode.INCONCLUSIVE


class InputRefusedError(CommandError):
    """Weights, config or tensors that are not what they claim to be."""

    code = ExitCode.REFUSED


class EnvironmentUnfitError(CommandError):
    """This machine or installation lacks what the run needs."""

    code = ExitCode.ENVIRONMENT
