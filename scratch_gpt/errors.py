"""All errors that a command reports: what happened, where, how to fix it, and the exit code.

An error that a caller may expect as a builtin exception is one too: a `CheckpointError` is a
`ValueError`, a `WriteError` is an `OSError`.
"""

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command; of several that apply, the worst is used."""

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
    """Base of all errors with an exit code: one line each of what happened, where, and the fix."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what, self.where, self.fix = what, where, fix


class UsageError(CommandError):
    """Options or arguments that cannot be used as given."""

    exit_code = ExitCode.USAGE


class InconclusiveError(CommandError):
    """Inputs on which no check can pass or fail."""

    exit_code = ExitCode.INCONCLUSIVE


class InputRejectedError(CommandError):
    """Weights, config or text that are damaged or of something else."""

    exit_code = ExitCode.REFUSED


class EnvironmentUnfitError(CommandError):
    """This machine or installation lacks something that the run needs."""

    exit_code = ExitCode.ENVIRONMENT


class ReportedElsewhereError(CommandError):
    """Another process of the group met the error, reports it and has this exit code."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("another process ended the run", where="the group", fix="see its message")
        self.exit_code = exit_code


# Reading files.


class CheckpointError(InputRejectedError, ValueError):
    """A file or folder that was rejected as a whole; nothing of it was used."""


class UnreadableError(CheckpointError):
    """A file that this user has no permission to read."""

    exit_code = ExitCode.ENVIRONMENT


class EmptyCheckpointError(CheckpointError):
    """A well-formed file without a tensor."""

    exit_code = ExitCode.INCONCLUSIVE


class TokenizerError(CheckpointError):
    """Files that hold no vocabulary of a GPT-1."""


# Writing files.


class WriteError(EnvironmentUnfitError, OSError):
    """The file system refused a write; what was at the destination is unchanged."""


class OccupiedError(UsageError, OSError):
    """The destination holds something that would be lost; it is unchanged."""


def file_system_error(error: OSError) -> EnvironmentUnfitError:
    """Return any other failure of the file system as an error with an exit code."""
    return EnvironmentUnfitError(
        f"the file system refused: {error.strerror or error}",
        where=str(error.filename or "a requested file"),
        fix="check the path and its permissions",
    )


# Text, settings and packages.


class TextError(UsageError, ValueError):
    """A text that is not valid Unicode."""


class TooLittleTextError(UsageError, ValueError):
    """A valid text of which there is too little to train on."""


class SettingError(UsageError, ValueError):
    """A setting outside its limits, or settings that exclude each other.

    `got` holds the values by the settings' names, the one to change first; `allowed` is a text.
    """

    def __init__(self, got: Mapping[str, object], allowed: str) -> None:
        self.got, self.allowed = dict(got), allowed
        values = " and ".join(f"{name} is {value!r}" for name, value in self.got.items())
        super().__init__(
            f"{values}; allowed: {allowed}", where=" and ".join(self.got), fix="choose other values"
        )


class NoChoiceError(InputRejectedError, ValueError):
    """A row of logits from which no next token can be chosen.

    Either the rules excluded every token, a usage error, or the logits are NaN or infinite.
    """

    def __init__(self, message: str, *, excluded: bool) -> None:
        self.excluded = excluded
        if excluded:
            self.exit_code = ExitCode.USAGE
            super().__init__(message, where="the rules", fix="relax them")
        else:
            super().__init__(message, where="the logits", fix="use float32, or other weights")


class KernelError(InputRejectedError, ValueError):
    """An attention kernel of a user that does not keep to the signature of a kernel."""


class MissingExtraError(EnvironmentUnfitError, ModuleNotFoundError):
    """An optional package that is not installed; `purpose` names what needs it."""

    def __init__(self, package: str, *, purpose: str, fix: str) -> None:
        what = f"{purpose} needs the package {package}, which is not installed"
        super().__init__(what, where="this Python environment", fix=fix)
        self.name = package


# Text from outside, made safe for one line of a message.


_LONGEST = 80
_LONGEST_PATH = 4_096


def quote(text: object) -> str:
    """Return `text` as an ASCII literal on one line, cut after 80 characters.

    Names in a file may hold control characters, line breaks and bytes that a terminal cannot
    encode; the literal holds none of them.
    """
    literal = ascii(text)
    return literal if len(literal) <= _LONGEST else f"{literal[:_LONGEST]}... (cut)"


def one_line(text: object) -> str:
    r"""Return a path or a message with every unprintable character as its escape, such as `\x1b`.

    A terminal would obey some of these, and no encoding has others. It is cut at the length of the
    longest path.
    """
    return escaped(str(text)[:_LONGEST_PATH])


def escaped(text: str) -> str:
    r"""Return a text with every unprintable character as its escape, such as `\x1b`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
