"""A vocabulary that is not taken, a text that cannot be split, and why."""

from scratch_gpt.files.refusal import CheckpointError


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
