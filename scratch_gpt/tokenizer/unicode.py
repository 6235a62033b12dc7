"""Character classes and canonical decomposition for the pretokenizer `huggingface`.

They come from a committed table, the same on every Python. Each Python's `unicodedata` has another
version of Unicode, and none is the Rust tokenizer's, which mixes several: accents of an old version
and the lower case of its compiler. So `unicodedata`, `str.lower` and `str.isspace` are not used.

Source: `character_classes.txt`; `reference/huggingface_tokenizer.py` made it and describes how.
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
    """A set of code points, stored as runs: the first and last code point of each, in order."""

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
    """All tables, by code point; a character in none of them is unchanged."""

    removed: Ranges  # control characters, noncharacters, and U+FFFD
    white: Ranges  # these become a space; white control characters are in `removed`
    ideographs: Ranges  # Chinese characters, each a word of its own
    decomposition: Mapping[int, str]  # complete and canonical; hangul syllables are computed
    combining: Mapping[int, int]  # the canonical combining class, if it is not 0
    nonspacing: Ranges  # accents, which are removed
    lowercase: Mapping[int, str]  # independent of context
    punctuation: Ranges  # each a word of its own
    word: Ranges  # an added token of a single word is not found beside them


@functools.cache
def character_classes() -> CharacterClasses:
    """Return the tables, read once."""
    text = files("scratch_gpt.tokenizer").joinpath(_FILE).read_text(encoding="ascii")
    _, *sections = text.split("\n[")
    items = {}
    for section in sections:
        name, _, rows = section.partition("]")
        items[name] = list(_items(rows))
    sets = ("removed", "white", "ideographs", "nonspacing", "punctuation", "word")
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
    """Yield the first and last code point of each item, and its value or an empty string."""
    for item in rows.split():
        run, _, value = item.partition("=")
        first, _, last = run.partition("..")
        yield int(first, 16), int(last or first, 16), value


def _characters(items: list[tuple[int, int, str]]) -> dict[int, str]:
    """Return the replacement of each code point."""
    return {
        code: "".join(chr(int(number, 16)) for number in value.split("."))
        for first, last, value in items
        for code in range(first, last + 1)
    }


# Unicode's canonical decomposition (NFD), with the position of each character's origin.
#
# Source: The Unicode Standard, 3.11 and 3.12 (hangul); the tables are those of the Rust tokenizer.


_SYLLABLES, _LEADING, _VOWEL, _TRAILING = 0xAC00, 0x1100, 0x1161, 0x11A7
_VOWELS, _TRAILINGS = 21, 28
_SYLLABLE_COUNT = 11_172


class _Part(NamedTuple):
    """One character of a decomposition; `added` unless it is the first."""

    character: str
    combining: int
    added: bool


def decompose(text: str, sources: Sequence[int]) -> tuple[str, list[int]]:
    """Return the canonical decomposition of a text, and the position of each character's origin.

    Marks that are reordered do not take their positions along. As in the Rust tokenizer, whose
    offsets these are, the first character of a decomposition takes the next position. `sources`
    has the position of each character of the text.
    """
    parts = list(_ordered(part for character in text for part in _parts(character)))
    begun = itertools.accumulate(not part.added for part in parts)
    places = [sources[max(count - 1, 0)] for count in begun]
    return "".join(part.character for part in parts), places


def is_order_free(text: str) -> bool:
    """Return whether no mark in the text could be reordered with a visible effect.

    The marks that NFD reorders are removed as accents, except some that the table of accents lacks
    or that take up space. Without these a text can be normalized character by character.
    """
    return text.isascii() or not _movable().search(text)


def _parts(character: str) -> Iterator[_Part]:
    classes = character_classes()
    code = ord(character)
    whole = classes.decomposition.get(code) or _jamo(code) or character
    for place, part in enumerate(whole):
        yield _Part(part, classes.combining.get(ord(part), 0), place > 0)


def _jamo(code: int) -> str:
    """Return the letters of a hangul syllable, an empty string for any other character."""
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
    """Return a pattern of the characters with a combining mark that is not an accent."""
    classes = character_classes()
    stays = {chr(code) for code in classes.combining if code not in classes.nonspacing}
    made = {chr(code) for code, parts in classes.decomposition.items() if stays & set(parts)}
    return re.compile(f"[{''.join(sorted(stays | made))}]")
