"""Pretokenizers, which split a text into words; and that of Hugging Face's `OpenAIGPTTokenizer`.

Pairs are merged within a word only. The released model was trained with another pretokenizer, see
`scratch_gpt.tokenizer.original`.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from scratch_gpt.tokenizer.unicode import (
    CharacterClasses,
    character_classes,
    decompose,
    is_order_free,
)

UNKNOWN = "<unk>"
"""The token of every character that the vocabulary lacks; its id is 0 in the release."""


class Word(NamedTuple):
    """A word, and for each character the start and end of its origin in the text."""

    text: str
    starts: list[int]
    ends: list[int]

    def moved(self, by: int) -> "Word":
        """Return the word of a text that begins `by` characters later."""
        return Word(self.text, [at + by for at in self.starts], [at + by for at in self.ends])


@runtime_checkable
class Pretokenizer(Protocol):
    """A way to split a text into words."""

    keeps_unknown: bool
    """Whether a literal `<unk>` in a text is the unknown token, or five characters."""

    def words(self, text: str) -> list[str]:
        """Return the words in order; none is empty."""
        ...

    def located(self, text: str) -> list[Word]:
        """Return the same words, with the origin of each character."""
        ...


# The pretokenizer `huggingface`.


def normalize_text(text: str) -> tuple[str, list[int]]:
    """Return the normalized text, and the position of each character's origin.

    Control characters are removed, ideographs set apart, accents removed, and letters lowered.

    Source: the tokenizers library, `BertNormalizer` with `lowercase=True`: clean text, handle
    Chinese characters, strip accents (NFD first), lower case, in this order.
    """
    classes = character_classes()
    cleaned = [
        (character, place)
        for place, given in enumerate(text)
        for character in _cleaned(given, classes)
    ]
    characters = "".join(character for character, _ in cleaned)
    parts, places = decompose(characters, [place for _, place in cleaned])
    lowered = [
        (character, place)
        for part, place in zip(parts, places, strict=True)
        if ord(part) not in classes.nonspacing
        for character in classes.lowercase.get(ord(part), part)
    ]
    return "".join(character for character, _ in lowered), [place for _, place in lowered]


def _cleaned(character: str, classes: CharacterClasses) -> str:
    """Return nothing for a control character, a space for white space, spaces around ideographs."""
    code = ord(character)
    if code in classes.removed:
        return ""
    if code in classes.white:
        return " "
    return f" {character} " if code in classes.ideographs else character


class _Translation(dict[int, str]):
    """The normalized text of each character, cached; spaces separate words."""

    def __missing__(self, code: int) -> str:
        made, _ = normalize_text(chr(code))
        self[code] = _apart(made)
        return self[code]


class HuggingFacePretokenizer:
    """Lower-case words without accents; every punctuation mark and ideograph is a word.

    Source: transformers 5.3 and later, `OpenAIGPTTokenizer`: the tokenizers library's
    `BertNormalizer(lowercase=True)` and `BertPreTokenizer()`.
    """

    keeps_unknown = True

    def __init__(self) -> None:
        self._translation = _Translation()

    def words(self, text: str) -> list[str]:
        """Return the words of a text without surrogates, in order."""
        if is_order_free(text):
            return _words(text.translate(self._translation))
        # Marks never move across a space: only words with a movable mark take the slow path.
        found = []
        for chunk in text.split(" "):
            is_fast = is_order_free(chunk)
            found += self.words(chunk) if is_fast else _words(_apart(normalize_text(chunk)[0]))
        return found

    def located(self, text: str) -> list[Word]:
        """Return the words, with the position of each character's origin."""
        if is_order_free(text):
            pieces = [self._translation[ord(character)] for character in text]
            return _located(pieces, range(len(text)))
        return self.located_in(*normalize_text(text))

    def located_in(self, normalized: str, origins: Sequence[int]) -> list[Word]:
        """Return the words of a text that is normalized, with the origin of each character."""
        return _located([_apart(character) for character in normalized], origins)


def _located(pieces: Sequence[str], origins: Sequence[int]) -> list[Word]:
    """Return the words of pieces with spaces between words, each piece of one origin."""
    places = [place for place, piece in zip(origins, pieces, strict=True) for _ in piece]
    found = []
    for match in _WORD.finditer("".join(pieces)):
        starts = places[match.start() : match.end()]
        found.append(Word(match[0], starts, [start + 1 for start in starts]))
    return found


def _words(apart: str) -> list[str]:
    """Return the parts between spaces, the only white space that is left."""
    return [word for word in apart.split(" ") if word]


_WORD = re.compile("[^ ]+")


def _apart(text: str) -> str:
    """Return a normalized text with spaces around every punctuation mark.

    Source: the tokenizers library, `BertPreTokenizer`: split at white space, then at punctuation.
    """
    punctuation = character_classes().punctuation
    return "".join(f" {mark} " if ord(mark) in punctuation else mark for mark in text)


# By name.


def _original() -> Pretokenizer:
    from scratch_gpt.tokenizer.original import OriginalPretokenizer

    return OriginalPretokenizer()


PRETOKENIZERS: dict[str, Callable[[], Pretokenizer]] = {
    "huggingface": HuggingFacePretokenizer,
    "original": _original,
}


def pretokenizer_named(name: str) -> Pretokenizer:
    """Return a pretokenizer: that of Hugging Face, or that of the released model's training.

    Raises:
        ValueError: None has that name.
        MissingExtraError: It needs a package that is not installed.
    """
    if name not in PRETOKENIZERS:
        known = " or ".join(map(repr, PRETOKENIZERS))
        raise ValueError(f"there is no pretokenizer {name!r}; pretokenizer must be {known}")
    return PRETOKENIZERS[name]()
