"""Text that is in order and of which there is too little."""


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
