"""Errors of weights from outside: their bytes are wrong, or they cannot be reached."""


class SourceError(Exception):
    """Weights could not be read: the fault, its place (file, tensor or address), and the fix."""

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class RejectedError(SourceError):
    """The bytes are damaged, hostile, or of another kind."""


class UnavailableError(SourceError):
    """The weights may be in order, but cannot be fetched, read or written here."""
