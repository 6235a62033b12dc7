"""Faults of a tokenizer: wrong words of a text, or wrong merging of a word.

Nothing in `scratch_gpt` changes: a wrong splitting wraps the right one, and wrong merging is built
from the right vocabulary.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from parity.checks.tokens.runners import CandidateTokenizer
from parity.faults.registry import Fault, faults_of
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.original import OriginalPretokenizer
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, Pretokenizer, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.unicode import Ranges, character_classes
from scratch_gpt.tokenizer.vocabulary import Vocabulary

Merged = Callable[[str], list[int]]
"""Returns the ids of a word's tokens."""
Rewrite = Callable[[list[Word], str], list[Word]]
"""Returns wrong words, given the right ones and the text that their places refer to."""

HUGGINGFACE, ORIGINAL = ("huggingface",), ("original",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFault(Fault):
    """A fault of a tokenizer; `at` is the step that the check must name.

    `code` returns a wrong splitting, given the right one; or, where `merging` is true, wrong
    merging, given the vocabulary.

    Attributes:
        of: The pretokenizers into which it can be injected.
        merging: Whether merging is wrong, and not the splitting into words.
    """

    of: tuple[str, ...] = (*HUGGINGFACE, *ORIGINAL)
    merging: bool = False


# Wrong words.


class Rewritten:
    """A pretokenizer whose words, and `keeps_unknown` if it is given, are changed afterwards."""

    def __init__(
        self, right: Pretokenizer, rewrite: Rewrite, *, keeps_unknown: bool | None = None
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


def rewritten(
    rewrite: Rewrite, *, keeps_unknown: bool | None = None
) -> Callable[[Pretokenizer], Pretokenizer]:
    """Return a fault: a pretokenizer whose words are changed afterwards."""
    return lambda right: Rewritten(right, rewrite, keeps_unknown=keeps_unknown)


def respelled(changed: Callable[[str, str], str]) -> Callable[[Pretokenizer], Pretokenizer]:
    """Return a fault: each letter becomes `changed(letter, source)`, `source` being the text's."""

    def rewrite(words: list[Word], base: str) -> list[Word]:
        return [
            Word(
                "".join(changed(c, base[start]) for c, start in zip(w.text, w.starts, strict=True)),
                w.starts,
                w.ends,
            )
            for w in words
        ]

    return rewritten(rewrite)


@TokenizerFault.register(
    "cleaning-skipped",
    "zero-width and control characters stay in words",
    at="cleaning",
    of=HUGGINGFACE,
)
@rewritten
def _(words: list[Word], base: str) -> list[Word]:
    return [_filled(word, base) for word in words]


def _filled(word: Word, base: str) -> Word:
    removed = character_classes().removed
    kept = set(range(word.starts[0], word.ends[-1])) - set(word.starts)
    dropped = [at for at in kept if ord(base[at]) in removed and not base[at].isspace()]
    spelled = zip(word.starts, word.text, word.ends, strict=True)
    both = sorted(chain(spelled, ((at, base[at], at + 1) for at in dropped)), key=lambda p: p[0])
    return Word("".join(c for _, c, _ in both), [s for s, _, _ in both], [e for _, _, e in both])


def joined_at(kind: str) -> Callable[[Pretokenizer], Pretokenizer]:
    """Return a fault: words that touch at a character of a kind are joined."""

    def rewrite(words: list[Word], _base: str) -> list[Word]:
        made: list[Word] = []
        for word in words:
            if made and _touch(made[-1], word, kind):
                one = made[-1]
                made[-1] = Word(
                    one.text + word.text, one.starts + word.starts, one.ends + word.ends
                )
            else:
                made.append(word)
        return made

    return rewritten(rewrite)


def _touch(one: Word, two: Word, kind: str) -> bool:
    """Return whether two words touch at a character of a kind, and at no other punctuation."""
    classes = character_classes()
    edges = ord(one.text[-1]), ord(two.text[0])
    members: Ranges = getattr(classes, kind)
    apart = kind != "punctuation" and any(edge in classes.punctuation for edge in edges)
    return one.ends[-1] == two.starts[0] and not apart and any(edge in members for edge in edges)


TokenizerFault.register(
    "cjk-joined", "Chinese characters are no words of their own", at="CJK", of=HUGGINGFACE
)(joined_at("ideographs"))

TokenizerFault.register(
    "punctuation-joined",
    "punctuation marks are no words of their own",
    at="word boundaries",
    of=HUGGINGFACE,
)(joined_at("punctuation"))


@TokenizerFault.register("accents-kept", "letters keep their accents", at="accents", of=HUGGINGFACE)
@respelled
def _(letter: str, source: str) -> str:
    lower = source.lower()
    return lower if len(lower) == 1 and unicodedata.decomposition(lower)[:4] else letter


@TokenizerFault.register("case-kept", "letters keep their case", at="lower case")
@respelled
def _(letter: str, source: str) -> str:
    return source if source != letter and source.lower() == letter else letter


@TokenizerFault.register(
    "places-in-bytes", "places are counted in bytes of UTF-8", at="places", of=HUGGINGFACE
)
@rewritten
def _(words: list[Word], base: str) -> list[Word]:
    before = [0]
    for character in base:
        before.append(before[-1] + len(character.encode()))
    return [Word(w.text, [before[s] for s in w.starts], [before[e] for e in w.ends]) for w in words]


@TokenizerFault.register("newline-dropped", "newlines are spaces", at="newlines", of=ORIGINAL)
@rewritten
def _(words: list[Word], _base: str) -> list[Word]:
    return [word for word in words if word.text != "\n"]


def _unchanged(words: list[Word], _base: str) -> list[Word]:
    return words


TokenizerFault.register(
    "unk-split", "a literal <unk> is characters as others", at="special token", of=HUGGINGFACE
)(rewritten(_unchanged, keeps_unknown=False))

TokenizerFault.register(
    "unk-kept", "a literal <unk> is the unknown token", at="special token", of=ORIGINAL
)(rewritten(_unchanged, keeps_unknown=True))


def prepared(
    prepare: Callable[[OriginalPretokenizer, str], str],
) -> Callable[[Pretokenizer], Pretokenizer]:
    """Return a fault: the original pretokenizer with another preparation of its text."""

    class Other(OriginalPretokenizer):
        def standardized(self, text: str) -> str:
            return prepare(OriginalPretokenizer(), text)

    return lambda _right: Other()


TokenizerFault.register(
    "backslash-padded",
    "backslashes stand alone, as a raw pattern would have it",
    at="word boundaries",
    of=ORIGINAL,
)(prepared(lambda right, text: right.standardized(text.replace("\\", " \\ "))))

TokenizerFault.register(
    "unrepaired", "ftfy's and the release's repairs are left out", at="text repair", of=ORIGINAL
)(prepared(lambda _right, text: " ".join(text.split())))


# Wrong merging.


def _right(vocabulary: Vocabulary) -> BytePairs:
    return BytePairs(vocabulary.ids, vocabulary.merges, unknown=vocabulary.ids[UNKNOWN])


@TokenizerFault.register(
    "header-counted",
    "the merges' header counts as a merge, and products have the id after theirs",
    at="ids",
    merging=True,
)
def _(vocabulary: Vocabulary) -> Merged:
    products = {one + two for one, two in vocabulary.merges}
    size = len(vocabulary.tokens)
    ids = {token: (n + (token in products)) % size for token, n in vocabulary.ids.items()}
    return BytePairs(ids, vocabulary.merges, unknown=ids[UNKNOWN]).merged


@TokenizerFault.register(
    "last-merge-dropped", "the last merge is not read", at="merges", merging=True
)
def _(vocabulary: Vocabulary) -> Merged:
    return BytePairs(vocabulary.ids, vocabulary.merges[:-1], unknown=vocabulary.ids[UNKNOWN]).merged


@TokenizerFault.register(
    "leftmost-first", "merges go from left to right and not by rank", at="merges", merging=True
)
def _(vocabulary: Vocabulary) -> Merged:
    pairs = set(vocabulary.merges)

    def merged(word: str) -> list[int]:
        parts: list[str] = []
        for letter in [*word[:-1], word[-1] + END]:
            parts.append(letter)
            while len(parts) > 1 and (parts[-2], parts[-1]) in pairs:
                parts[-2:] = [parts[-2] + parts[-1]]
        return [vocabulary.ids.get(part, vocabulary.ids[UNKNOWN]) for part in parts]

    return merged


@TokenizerFault.register(
    "no-end-of-word", "the last letter of a word has no </w>", at="end of word", merging=True
)
def _(vocabulary: Vocabulary) -> Merged:
    right = _right(vocabulary)

    return lambda word: right.merged(f"{word}\uffff")[:-1]


TokenizerFault.register(
    "unknown-is-one", "unknown characters have id 1", at="unknown characters", merging=True
)(lambda vocabulary: BytePairs(vocabulary.ids, vocabulary.merges, unknown=1).merged)


def unknown_where(
    kept: Callable[[int, list[int], int], bool],
) -> Callable[[Vocabulary], Merged]:
    """Return a fault: only tokens for which `kept(place, ids, unknown)` is true remain."""

    def faulty(vocabulary: Vocabulary) -> Merged:
        right, unknown = _right(vocabulary), vocabulary.ids[UNKNOWN]

        def merged(word: str) -> list[int]:
            ids = right.merged(word)
            return [ids[at] for at in range(len(ids)) if kept(at, ids, unknown)]

        return merged

    return faulty


TokenizerFault.register(
    "unknown-dropped", "unknown characters have no id", at="unknown characters", merging=True
)(unknown_where(lambda at, ids, unknown: ids[at] != unknown))

TokenizerFault.register(
    "unknown-fused",
    "unknown characters beside each other have one id",
    at="unknown characters",
    merging=True,
)(unknown_where(lambda at, ids, unknown: not at or ids[at - 1 : at + 1] != [unknown, unknown]))


class FaultyTokenizer(Tokenizer):
    """A copy of a right tokenizer with wrong words or wrong merging."""

    def __init__(self, right: Tokenizer, split: Pretokenizer, merged: Merged) -> None:
        super().__init__(right.vocabulary, pretokenizer=right.pretokenizer)
        self._words, self._merged = split, merged
        self._special = right.vocabulary.ids[UNKNOWN]
        self._as_given, self._normalized = self._finders(keeps_unknown=split.keeps_unknown)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text and their places."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        start = 0
        parts = self._located(text) if self._normalized else self._as_given.split(text)
        found = [part for part in parts if not isinstance(part, Word) and part[2] is not None]
        for first, end, number in [*found, (len(text), len(text), None)]:
            for word in self._words.located(text[start:first]):
                pieces = self._merged(word.text)
                ids += pieces
                places += [(start + one, start + two) for one, two in self._places(pieces, word)]
            if number is not None:
                ids.append(number)
                places.append((first, end))
            start = end
        return ids, places

    def _places(self, pieces: Sequence[int], word: Word) -> Iterator[tuple[int, int]]:
        """Yield the places of tokens, none beyond the word: wrong tokens may be too long."""
        first, last = 0, len(word.text) - 1
        for piece in pieces:
            known = piece != self._special and piece < self.vocab_size
            length = len(self.vocabulary.tokens[piece].removesuffix(END)) if known else 1
            end = min(first + length - 1, last)
            yield word.starts[min(first, last)], word.ends[end]
            first += length


TOKENIZER_FAULTS = faults_of(TokenizerFault)
"""Every fault of a tokenizer by name."""


def inject(right: Tokenizer, split: Pretokenizer, name: str) -> CandidateTokenizer:
    """Return our side with a fault; `split` is the right tokenizer's pretokenizer."""
    chosen, vocabulary = TOKENIZER_FAULTS[name], right.vocabulary
    words = split if chosen.merging else chosen.code(split)
    merged = chosen.code(vocabulary) if chosen.merging else _right(vocabulary).merged
    return CandidateTokenizer(FaultyTokenizer(right, words, merged), words)
