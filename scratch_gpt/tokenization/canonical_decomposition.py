"""Unicode's canonical decomposition (NFD), with the place in the text each character comes from.

Source: The Unicode Standard, 3.11 and 3.12 (hangul); the tables are those of the Rust tokenizer.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scratch_gpt.tokenization.character_classes import character_classes

_SYLLABLES, _LEADING, _VOWEL, _TRAILING = 0xAC00, 0x1100, 0x1161, 0x11A7
_VOWELS, _TRAILINGS = 21, 28
_SYLLABLE_COUNT = 11_172


class _Part(NamedTuple):
    """One character of a decomposition; `added` where another one came before it."""

    character: str
    combining: int
    added: bool


def decomposed(text: str, sources: Sequence[int]) -> tuple[str, list[int]]:
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
