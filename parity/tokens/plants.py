"""How faults are planted into a right tokenizer: into its words, or into the merging of one.

Nothing in `scratch_gpt` is changed: what is planted stands around a right splitting, or is built
from a right vocabulary.
"""

import unicodedata
from collections.abc import Callable
from itertools import chain

from scratch_gpt.tokenization.byte_pairs import END, BytePairs
from scratch_gpt.tokenization.character_classes import Ranges, character_classes
from scratch_gpt.tokenization.vocabulary import Vocabulary
from scratch_gpt.tokenization.words import UNKNOWN, Splitting, Word

Merged = Callable[[str], list[int]]
"""Gives the ids of a word's tokens."""


class Rewritten:
    """A splitting whose words are made into others.

    Args:
        right: The right splitting.
        rewrite: Makes words from right ones and the text that their places are in.
        keeps_unknown: Other than the right splitting's, where given.
    """

    def __init__(
        self,
        right: Splitting,
        rewrite: Callable[[list[Word], str], list[Word]],
        *,
        keeps_unknown: bool | None = None,
    ) -> None:
        self.keeps_unknown = right.keeps_unknown if keeps_unknown is None else keeps_unknown
        self._right, self._rewrite = right, rewrite

    def words(self, text: str) -> list[str]:
        """Return the words."""
        return [word.text for word in self.located(text)]

    def located(self, text: str) -> list[Word]:
        """Return the words with the places of their characters."""
        base = getattr(self._right, "standardized", str)(text)
        return self._rewrite(self._right.located(text), base)


def with_source(changed: Callable[[str, str], str]) -> Callable[[list[Word], str], list[Word]]:
    """Return what makes each letter of a word another, given it and the character it is from."""

    def rewrite(words: list[Word], base: str) -> list[Word]:
        return [_respelled(word, base, changed) for word in words]

    return rewrite


def _respelled(word: Word, base: str, changed: Callable[[str, str], str]) -> Word:
    letters = [
        changed(letter, base[start]) for letter, start in zip(word.text, word.starts, strict=True)
    ]
    return Word("".join(letters), word.starts, word.ends)


def cased(letter: str, source: str) -> str:
    """Return the letter as it was before it became lower case."""
    return source if source != letter and source.lower() == letter else letter


def accented(letter: str, source: str) -> str:
    """Return the letter with the accent that it came with."""
    lower = source.lower()
    return lower if len(lower) == 1 and unicodedata.decomposition(lower)[:4] else letter


def joined_at(kind: str) -> Callable[[list[Word], str], list[Word]]:
    """Return what joins words that touch, where a character of a kind touches another.

    Args:
        kind: The name of one of the sets of `CharacterClasses`.
    """

    def rewrite(words: list[Word], _base: str) -> list[Word]:
        made: list[Word] = []
        for word in words:
            if made and _touch(made[-1], word, kind):
                made[-1] = _together(made[-1], word)
            else:
                made.append(word)
        return made

    return rewrite


def _touch(one: Word, two: Word, kind: str) -> bool:
    """Return whether one word ends where the next begins, one of a kind, and no other mark."""
    classes = character_classes()
    edges = ord(one.text[-1]), ord(two.text[0])
    members: Ranges = getattr(classes, kind)
    apart = kind != "punctuation" and any(edge in classes.punctuation for edge in edges)
    return one.ends[-1] == two.starts[0] and not apart and any(edge in members for edge in edges)


def _together(one: Word, two: Word) -> Word:
    return Word(one.text + two.text, one.starts + two.starts, one.ends + two.ends)


def uncleaned(words: list[Word], base: str) -> list[Word]:
    """Return the words with what cleaning took out of their middle."""
    return [_filled(word, base) for word in words]


def _filled(word: Word, base: str) -> Word:
    removed = character_classes().removed
    kept = set(range(word.starts[0], word.ends[-1])) - set(word.starts)
    dropped = [at for at in kept if ord(base[at]) in removed and not base[at].isspace()]
    spelled = zip(word.starts, word.text, word.ends, strict=True)
    both = sorted(chain(spelled, ((at, base[at], at + 1) for at in dropped)), key=lambda p: p[0])
    return Word("".join(c for _, c, _ in both), [s for s, _, _ in both], [e for _, _, e in both])


def without_newlines(words: list[Word], _base: str) -> list[Word]:
    """Return the words that are no newlines."""
    return [word for word in words if word.text != "\n"]


def in_bytes(words: list[Word], base: str) -> list[Word]:
    """Return the words with places counted in UTF-8."""
    before = [0]
    for character in base:
        before.append(before[-1] + len(character.encode()))
    return [Word(w.text, [before[s] for s in w.starts], [before[e] for e in w.ends]) for w in words]


def _right(vocabulary: Vocabulary) -> BytePairs:
    return BytePairs(vocabulary.ids, vocabulary.merges, unknown=vocabulary.ids[UNKNOWN])


def header_counted(vocabulary: Vocabulary) -> Merged:
    """Give every product the id of its line, the merges' header being one."""
    products = {one + two for one, two in vocabulary.merges}
    size = len(vocabulary.tokens)
    ids = {token: (n + (token in products)) % size for token, n in vocabulary.ids.items()}
    return BytePairs(ids, vocabulary.merges, unknown=ids[UNKNOWN]).merged


def last_merge_dropped(vocabulary: Vocabulary) -> Merged:
    """Read the merges with `[1:-1]` from a file without an end of line."""
    return BytePairs(vocabulary.ids, vocabulary.merges[:-1], unknown=vocabulary.ids[UNKNOWN]).merged


def no_end(vocabulary: Vocabulary) -> Merged:
    """Merge a word as if it went on."""
    right = _right(vocabulary)

    return lambda word: right.merged(f"{word}\uffff")[:-1]


def leftmost_first(vocabulary: Vocabulary) -> Merged:
    """Merge from left to right whatever can be merged, whenever it was learned."""
    pairs = set(vocabulary.merges)

    def merged(word: str) -> list[int]:
        parts: list[str] = []
        for letter in [*word[:-1], word[-1] + END]:
            parts.append(letter)
            while len(parts) > 1 and (parts[-2], parts[-1]) in pairs:
                parts[-2:] = [parts[-2] + parts[-1]]
        return [vocabulary.ids.get(part, vocabulary.ids[UNKNOWN]) for part in parts]

    return merged


def unknown_as(number: int) -> Callable[[Vocabulary], Merged]:
    """Return what gives unknown characters another id."""
    return lambda vocabulary: BytePairs(vocabulary.ids, vocabulary.merges, unknown=number).merged


def unknown_where(
    kept: Callable[[int, list[int], int], bool],
) -> Callable[[Vocabulary], Merged]:
    """Return what drops tokens: those of which `kept(place, ids, unknown)` is not true."""

    def plant(vocabulary: Vocabulary) -> Merged:
        right, unknown = _right(vocabulary), vocabulary.ids[UNKNOWN]

        def merged(word: str) -> list[int]:
            ids = right.merged(word)
            return [ids[at] for at in range(len(ids)) if kept(at, ids, unknown)]

        return merged

    return plant
