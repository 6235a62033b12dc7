"""A checkpoint that is not taken, and why."""


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
