"""What every character is to a BERT-like splitting: a committed table, the same on every Python.

Python's `unicodedata` is of another version of Unicode in every Python, and none is the Rust
tokenizer's, which mixes several: it knows an accent when it was one in an old version, and lower
case of its compiler's day. So nothing here asks `unicodedata`, `str.lower` or `str.isspace`.

Source: `character_classes.txt`; `reference/character_classes.py` made it and says how.
"""

import functools
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

_FILE = "character_classes.txt"


class Ranges:
    """A set of code points, held as runs of neighbours.

    Args:
        runs: First and last code point of each run, in order.
    """

    def __init__(self, runs: list[tuple[int, int]]) -> None:
        self._firsts = [first for first, _ in runs]
        self._lasts = [last for _, last in runs]

    def runs(self) -> list[tuple[int, int]]:
        """Return the first and last code point of each run."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def __contains__(self, code: int) -> bool:
        place = bisect_right(self._firsts, code) - 1
        return place >= 0 and code <= self._lasts[place]


@dataclass(frozen=True, kw_only=True)
class CharacterClasses:
    """Every table, by code point; what is in none of them stays as it is.

    Attributes:
        removed: Control characters, what is no character, and U+FFFD.
        white: What becomes a space; the white control characters that are removed are not here.
        ideographs: Chinese characters, each a word of its own.
        decomposition: Canonical and complete; of all but hangul syllables.
        combining: The canonical combining class, where it is not 0.
        nonspacing: Accents, which are removed.
        lowercase: Lower case, whatever stands around the character.
        punctuation: What is a word of its own.
    """

    removed: Ranges
    white: Ranges
    ideographs: Ranges
    decomposition: Mapping[int, str]
    combining: Mapping[int, int]
    nonspacing: Ranges
    lowercase: Mapping[int, str]
    punctuation: Ranges


@functools.cache
def character_classes() -> CharacterClasses:
    """Return the tables, read once."""
    text = files("scratch_gpt.tokenization").joinpath(_FILE).read_text(encoding="ascii")
    _, *sections = text.split("\n[")
    items = {}
    for section in sections:
        name, _, rows = section.partition("]")
        items[name] = list(_items(rows))
    sets = ("removed", "white", "ideographs", "nonspacing", "punctuation")
    return CharacterClasses(
        **{name: Ranges([(first, last) for first, last, _ in items[name]]) for name in sets},
        decomposition=_characters(items["decomposition"]),
        lowercase=_characters(items["lowercase"]),
        combining={
            code: int(value)
            for first, last, value in items["combining"]
            for code in range(first, last + 1)
        },
    )


def _items(rows: str) -> Iterator[tuple[int, int, str]]:
    """Give first and last code point of each item and what stands beside, if anything does."""
    for item in rows.split():
        run, _, value = item.partition("=")
        first, _, last = run.partition("..")
        yield int(first, 16), int(last or first, 16), value


def _characters(items: list[tuple[int, int, str]]) -> dict[int, str]:
    """Return the text that each code point becomes."""
    return {
        code: "".join(chr(int(number, 16)) for number in value.split("."))
        for first, last, value in items
        for code in range(first, last + 1)
    }
