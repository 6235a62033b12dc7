"""How faults are planted into a right tokenizer: into its words, or into the merging of one.

Nothing in `scratch_gpt` is changed: what is planted stands around a right splitting, or is built
from a right vocabulary.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from parity.checks.tokens.sides import CandidateTokenizer
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.original import OriginalPretokenizer
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, Pretokenizer, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.unicode import Ranges, character_classes
from scratch_gpt.tokenizer.vocabulary import Vocabulary

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
        right: Pretokenizer,
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


# A tokenizer with a wrong splitting, or wrong merging.


class FaultyTokenizer(Tokenizer):
    """Encodes as a right tokenizer does, but for what is planted.

    Args:
        right: The right tokenizer; it stays so.
        split: Words, right or wrong.
        pairs: Makes wrong merging; None for the right one.
    """

    def __init__(
        self,
        right: Tokenizer,
        split: Pretokenizer,
        pairs: Callable[[Vocabulary], Merged] | None,
    ) -> None:
        super().__init__(right.vocabulary, pretokenizer=right.pretokenizer)
        vocabulary = right.vocabulary
        self._words = split
        self._special = vocabulary.ids[UNKNOWN]
        self._merged = (
            BytePairs(vocabulary.ids, vocabulary.merges, unknown=self._special).merged
            if pairs is None
            else pairs(vocabulary)
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text and their places."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate(text.split(UNKNOWN) if self._words.keeps_unknown else [text]):
            if number:
                ids.append(self._special)
                places.append((start - len(UNKNOWN), start))
            for word in self._words.located(part):
                pieces = self._merged(word.text)
                ids += pieces
                places += [(start + one, start + two) for one, two in self._places(pieces, word)]
            start += len(part) + len(UNKNOWN)
        return ids, places

    def _places(self, pieces: Sequence[int], word: Word) -> Iterator[tuple[int, int]]:
        """Give places as far as a word reaches: wrong tokens may spell more than there is."""
        first, last = 0, len(word.text) - 1
        for piece in pieces:
            known = piece != self._special and piece < self.vocab_size
            length = len(self.vocabulary.tokens[piece].removesuffix(END)) if known else 1
            end = min(first + length - 1, last)
            yield word.starts[min(first, last)], word.ends[end]
            first += length


# Faults that can be planted into a right tokenizer, and the step that each is to be found at.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFault:
    """One fault.

    Attributes:
        what: What is done wrong, in one phrase.
        step: The step that the check has to name.
        of: The splittings into which it can be planted.
        words: Makes a wrong splitting of the right one.
        pairs: Makes wrong merging from the vocabulary.
    """

    what: str
    step: str
    of: tuple[str, ...] = ("huggingface", "original")
    words: Callable[[Pretokenizer], Pretokenizer] | None = None
    pairs: Callable[[Vocabulary], Merged] | None = None


def _words(
    rewrite: Callable[[list[Word], str], list[Word]],
) -> Callable[[Pretokenizer], Pretokenizer]:
    return lambda right: Rewritten(right, rewrite)


def _kept(words: list[Word], _base: str) -> list[Word]:
    return words


def _unknown(*, kept: bool) -> Callable[[Pretokenizer], Pretokenizer]:
    return lambda right: Rewritten(right, _kept, keeps_unknown=kept)


def _prepared(
    prepare: Callable[[OriginalPretokenizer, str], str],
) -> Callable[[Pretokenizer], Pretokenizer]:
    """Return what makes an original splitting that prepares its text otherwise."""

    class Otherwise(OriginalPretokenizer):
        def standardized(self, text: str) -> str:
            return prepare(OriginalPretokenizer(), text)

    return lambda _right: Otherwise()


HUGGINGFACE, ORIGINAL = ("huggingface",), ("original",)

TOKENIZER_FAULTS = {
    "cleaning-skipped": TokenizerFault(
        what="zero-width and control characters stay in words",
        step="cleaning",
        of=HUGGINGFACE,
        words=_words(uncleaned),
    ),
    "cjk-joined": TokenizerFault(
        what="Chinese characters are no words of their own",
        step="CJK",
        of=HUGGINGFACE,
        words=_words(joined_at("ideographs")),
    ),
    "accents-kept": TokenizerFault(
        what="letters keep their accents",
        step="accents",
        of=HUGGINGFACE,
        words=_words(with_source(accented)),
    ),
    "case-kept": TokenizerFault(
        what="letters keep their case",
        step="lower case",
        words=_words(with_source(cased)),
    ),
    "punctuation-joined": TokenizerFault(
        what="punctuation marks are no words of their own",
        step="word boundaries",
        of=HUGGINGFACE,
        words=_words(joined_at("punctuation")),
    ),
    "unk-split": TokenizerFault(
        what="a literal <unk> is characters as others",
        step="special token",
        of=HUGGINGFACE,
        words=_unknown(kept=False),
    ),
    "places-in-bytes": TokenizerFault(
        what="places are counted in bytes of UTF-8",
        step="places",
        of=HUGGINGFACE,
        words=_words(in_bytes),
    ),
    "unk-kept": TokenizerFault(
        what="a literal <unk> is the unknown token",
        step="special token",
        of=ORIGINAL,
        words=_unknown(kept=True),
    ),
    "newline-dropped": TokenizerFault(
        what="newlines are spaces",
        step="newlines",
        of=ORIGINAL,
        words=_words(without_newlines),
    ),
    "backslash-padded": TokenizerFault(
        what="backslashes stand alone, as a raw pattern would have it",
        step="word boundaries",
        of=ORIGINAL,
        words=_prepared(lambda right, text: right.standardized(text.replace("\\", " \\ "))),
    ),
    "unrepaired": TokenizerFault(
        what="ftfy's and the release's repairs are left out",
        step="text repair",
        of=ORIGINAL,
        words=_prepared(lambda _right, text: " ".join(text.split())),
    ),
    "header-counted": TokenizerFault(
        what="the merges' header counts as a merge, and products have the id after theirs",
        step="ids",
        pairs=header_counted,
    ),
    "last-merge-dropped": TokenizerFault(
        what="the last merge is not read", step="merges", pairs=last_merge_dropped
    ),
    "leftmost-first": TokenizerFault(
        what="merges go from left to right and not by rank",
        step="merges",
        pairs=leftmost_first,
    ),
    "no-end-of-word": TokenizerFault(
        what="the last letter of a word has no </w>", step="end of word", pairs=no_end
    ),
    "unknown-is-one": TokenizerFault(
        what="unknown characters have id 1",
        step="unknown characters",
        pairs=unknown_as(1),
    ),
    "unknown-dropped": TokenizerFault(
        what="unknown characters have no id",
        step="unknown characters",
        pairs=unknown_where(lambda at, ids, unknown: ids[at] != unknown),
    ),
    "unknown-fused": TokenizerFault(
        what="unknown characters beside each other have one id",
        step="unknown characters",
        pairs=unknown_where(
            lambda at, ids, unknown: not at or ids[at - 1 : at + 1] != [unknown, unknown]
        ),
    ),
}
"""Every fault that `--inject-fault` knows."""


def inject(right: Tokenizer, split: Pretokenizer, name: str) -> CandidateTokenizer:
    """Return our side with a fault.

    Args:
        right: The right tokenizer; it stays so.
        split: Its splitting.
        name: One of `FAULTS`.
    """
    fault = TOKENIZER_FAULTS[name]
    wrong = split if fault.words is None else fault.words(split)
    return CandidateTokenizer(FaultyTokenizer(right, wrong, fault.pairs), wrong)
