"""What a generation cannot do: a setting that cannot be, or no token left to choose."""

from collections.abc import Mapping


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
