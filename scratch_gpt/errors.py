"""How a run ends: exit codes, and errors that say what, where, and what to do."""

import sys
from collections.abc import Mapping
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


class InputRejectedError(CommandError):
    """Weights, config or tensors that are not what they claim to be."""

    code = ExitCode.REFUSED


class EnvironmentUnfitError(CommandError):
    """This machine or installation lacks what the run needs."""

    code = ExitCode.ENVIRONMENT


# A checkpoint that is not taken, and why.


class CheckpointError(ValueError):
    """A file or folder that does not hold what it must; nothing of it was used.

    Attributes:
        what: What is wrong, in one line.
        where: The file, and the tensor or byte where there is one.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class UnreadableError(CheckpointError):
    """A file that may be in order and may not be read from here."""


class EmptyCheckpointError(CheckpointError):
    """A well-formed file without a tensor: nothing is wrong with it, and nothing is in it."""


# Text that is in order and of which there is too little.


class TooLittleTextError(ValueError):
    """Nothing is wrong with the text, but nothing can be learned from it.

    Attributes:
        what: What is missing, in one line.
        where: The files or the folder.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


# A vocabulary that is not taken, a text that cannot be split, and why.


class TokenizerError(CheckpointError):
    """Files that hold no vocabulary of a GPT-1; nothing of them was used."""


class TextError(ValueError):
    """A text that is no text.

    Attributes:
        what: What is wrong, in one line.
        where: The character.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


# What a generation cannot do: a setting that cannot be, or no token left to choose.


class SettingError(ValueError):
    """A setting that cannot be, or settings that cannot be together.

    Attributes:
        got: The values, by the settings' names; the one to change first.
        allowed: What can be, in words.
    """

    def __init__(self, got: Mapping[str, object], allowed: str) -> None:
        self.got, self.allowed = dict(got), allowed
        values = " and ".join(f"{name} is {value!r}" for name, value in self.got.items())
        super().__init__(f"{values}; allowed: {allowed}")


class NoChoiceError(ValueError):
    """A row of which no next token can be chosen.

    Attributes:
        excluded: Whether the rules excluded every token; else the model's numbers are none.
    """

    def __init__(self, message: str, *, excluded: bool) -> None:
        self.excluded = excluded
        super().__init__(message)


# The end of a run that another of its processes has to explain.


class ReportedElsewhereError(CommandError):
    """Another process of the group met the error, and tells it."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("another process ended the run", where="the group", fix="see its message")
        self.code = code


# Errors of this room that know what, where and what to do, as errors with an exit code.
#
# A row names its error by where it is defined rather than by importing it: only modules that were
# imported can have raised anything, and `--help` is to import none of them.


_CODED: tuple[tuple[str, str, type[CommandError]], ...] = (
    ("scratch_gpt.errors", "EmptyCheckpointError", InconclusiveError),
    ("scratch_gpt.errors", "UnreadableError", EnvironmentUnfitError),
    ("scratch_gpt.errors", "CheckpointError", InputRejectedError),
    ("scratch_gpt.checkpoint.atomic", "OccupiedError", UsageError),
    ("scratch_gpt.checkpoint.atomic", "WriteError", EnvironmentUnfitError),
    ("scratch_gpt.errors", "TooLittleTextError", UsageError),
    ("scratch_gpt.errors", "TextError", UsageError),
    ("scratch_gpt.tokenizer.original", "MissingExtraError", EnvironmentUnfitError),
)
"""Module, class, and what it means; the first that fits decides."""


def to_cli_error(error: BaseException) -> CommandError | None:
    """Return the error as one with an exit code, None where it is none of this room's."""
    for module, name, meaning in _CODED:
        theirs = getattr(sys.modules.get(module), name, None)
        if theirs is not None and isinstance(error, theirs):
            return meaning(error.what, where=error.where, fix=error.fix)
    return None


# Text from a file, made fit for one line of a message.


_LONGEST = 80
_LONGEST_PATH = 4_096


def quote(text: object) -> str:
    """Return `text` as an ASCII literal on one line, cut where it is long.

    Whatever a file calls its tensors, a terminal sees no control character, no line break and no
    byte that it cannot encode.
    """
    literal = ascii(text)
    return literal if len(literal) <= _LONGEST else f"{literal[:_LONGEST]}... (cut)"


def one_line(text: object) -> str:
    """Return a path or a message as it is; as a literal where it holds anything unprintable.

    It is cut where no path can be as long.
    """
    line = str(text)[:_LONGEST_PATH]
    return line if line.isprintable() else ascii(line)
