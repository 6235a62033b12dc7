"""A JSON document that somebody else may have written: every value is asked for by its type."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parity.errors import InputRefusedError

_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


@dataclasses.dataclass(frozen=True)
class Document:
    """An object of a JSON file.

    Attributes:
        held: Its keys and values, of whatever types the file has.
        path: The file.
        place: Where in the file it stands, in words for an error; empty for the whole.
    """

    held: Mapping[str, Any]
    path: Path
    place: str = ""

    def refusal(self, what: str) -> InputRefusedError:
        """Return the error with which the file is refused."""
        return InputRefusedError(
            f"{self.path.name} is no report that can be held against others: {what}",
            where=str(self.path),
            fix="make it again, with the same version of this program for every row: "
            "python -m parity.check VERB --fingerprints --output FILE.json",
        )

    def text(self, key: str) -> str:
        """Return a value that has to be text."""
        found: str = self._of(key, str)
        return found

    def whole(self, key: str) -> int:
        """Return a value that has to be a whole number."""
        found: int = self._of(key, int)
        return found

    def number(self, key: str) -> float | None:
        """Return a value that has to be a number, or null."""
        value = self.held.get(key)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise self.refusal(f"{self._named(key)} is no number")
        try:
            return float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return math.inf

    def part(self, key: str) -> "Document":
        """Return a value that has to be an object."""
        return Document(self._of(key, dict), self.path, self._named(key))

    def parts(self, key: str) -> Iterator["Document"]:
        """Yield the entries of a list, which have to be objects."""
        for index, entry in enumerate(self._of(key, list)):
            place = f"{self._named(key)}[{index}]"
            if not isinstance(entry, dict):
                raise self.refusal(f"{place} is not an object")
            yield Document(entry, self.path, place)

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        found = self._of(key, list)
        if any(type(entry) is not int for entry in found):
            raise self.refusal(f"{self._named(key)} is no list of whole numbers")
        return tuple(found)

    def texts(self) -> dict[str, str]:
        """Return the object itself, whose values all have to be text."""
        return {key: self.text(key) for key in self.held}

    def _of(self, key: str, kind: type) -> Any:  # noqa: ANN401 - of the kind asked for
        if key not in self.held:
            raise self.refusal(f"it has no {self._named(key)}")
        value = self.held[key]
        if type(value) is not kind:
            raise self.refusal(f"{self._named(key)} is not {_NAMES[kind]}")
        return value

    def _named(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key
