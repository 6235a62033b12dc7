"""Why weights from outside are not there: their bytes are wrong, or they cannot be reached."""


class SourceError(Exception):
    """Weights that could not be had.

    Attributes:
        what: What is wrong, in one line.
        where: The file, tensor or address.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class RejectedError(SourceError):
    """Bytes that are not what they must be: damaged, hostile, or of something else."""


class UnavailableError(SourceError):
    """Weights that may be in order but cannot be had from here, or written here."""
