"""What every character is to a BERT-like splitting: a committed table, the same on every Python.

Python's `unicodedata` is of another version of Unicode in every Python, and none is the Rust
tokenizer's, which mixes several: it knows an accent when it was one in an old version, and lower
case of its compiler's day. So nothing here asks `unicodedata`, `str.lower` or `str.isspace`.

Source: `character_classes.txt`; `reference/huggingface_tokenizer.py` made it and says how.
"""

import functools
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

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
    text = files("scratch_gpt.tokenizer").joinpath(_FILE).read_text(encoding="ascii")
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


# Unicode's canonical decomposition (NFD), with the place in the text each character comes from.
#
# Source: The Unicode Standard, 3.11 and 3.12 (hangul); the tables are those of the Rust tokenizer.


_SYLLABLES, _LEADING, _VOWEL, _TRAILING = 0xAC00, 0x1100, 0x1161, 0x11A7
_VOWELS, _TRAILINGS = 21, 28
_SYLLABLE_COUNT = 11_172


class _Part(NamedTuple):
    """One character of a decomposition; `added` where another one came before it."""

    character: str
    combining: int
    added: bool


def decompose(text: str, sources: Sequence[int]) -> tuple[str, list[int]]:
    """Return the canonical decomposition of a text, and where each character comes from.

    Marks that trade places do not take their places along: as in the Rust tokenizer, whose
    offsets these are, the first character of a decomposition takes the place that is next.

    Args:
        text: Any text.
        sources: The place of each of its characters.
    """
    parts = list(_ordered(part for character in text for part in _parts(character)))
    begun = itertools.accumulate(not part.added for part in parts)
    places = [sources[max(count - 1, 0)] for count in begun]
    return "".join(part.character for part in parts), places


def is_order_free(text: str) -> bool:
    """Return whether no mark in the text could trade places with another and be seen to.

    The marks that NFD moves are removed as accents, but for some that were new to the table of
    accents or that take up space. Without them a text can be normalized a character at a time.
    """
    return text.isascii() or not _movable().search(text)


def _parts(character: str) -> Iterator[_Part]:
    classes = character_classes()
    code = ord(character)
    whole = classes.decomposition.get(code) or _jamo(code) or character
    for place, part in enumerate(whole):
        yield _Part(part, classes.combining.get(ord(part), 0), place > 0)


def _jamo(code: int) -> str:
    """Return the letters of a hangul syllable, nothing for any other character."""
    syllable = code - _SYLLABLES
    if not 0 <= syllable < _SYLLABLE_COUNT:
        return ""
    rest, trailing = divmod(syllable, _TRAILINGS)
    leading, vowel = divmod(rest, _VOWELS)
    letters = chr(_LEADING + leading) + chr(_VOWEL + vowel)
    return letters + chr(_TRAILING + trailing) if trailing else letters


def _ordered(parts: Iterator[_Part]) -> Iterator[_Part]:
    """Sort every run of marks by class; marks of one class keep their order."""
    for marks, run in itertools.groupby(parts, key=lambda part: part.combining > 0):
        found = list(run)
        yield from sorted(found, key=lambda part: part.combining) if marks else found


@functools.cache
def _movable() -> re.Pattern[str]:
    """Return what finds a character that holds a mark with a class that is no accent."""
    classes = character_classes()
    stays = {chr(code) for code in classes.combining if code not in classes.nonspacing}
    made = {chr(code) for code, parts in classes.decomposition.items() if stays & set(parts)}
    return re.compile(f"[{''.join(sorted(stays | made))}]")
