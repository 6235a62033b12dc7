"""Faults of a tokenizer, each a subclass of the right one with one thing wrong."""

# ruff: noqa: ANN401, D101, D102, PLR2004, SLF001 - each is described where it is registered,
# and is put where the product has its code.

import dataclasses
import os
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, SupportsIndex
from unittest.mock import patch

import numpy as np

from parity.checks.tokens.runners import CandidateTokenizer
from parity.faults.registry import Fault, faults_of
from scratch_gpt.tokenizer import bpe_trainer
from scratch_gpt.tokenizer import tokenizer as product
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.original import OriginalPretokenizer
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, Pretokenizer, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.unicode import Ranges, character_classes
from scratch_gpt.tokenizer.vocabulary import CONFIG, MERGES, Vocabulary

Merged = Callable[[str], list[int]]
"""Returns the ids of a word's tokens."""
Rewrite = Callable[[list[Word], str], list[Word]]
"""Returns wrong words, given the right ones and the text that their places refer to."""

HUGGINGFACE, ORIGINAL = ("huggingface",), ("original",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFault(Fault):
    """A fault of a tokenizer; `at` is the step that the check must name.

    `code` is the wrong tokenizer, a class.

    Attributes:
        of: The pretokenizers into which it can be injected.
    """

    of: tuple[str, ...] = (*HUGGINGFACE, *ORIGINAL)


fault = TokenizerFault.register

# Wrong words.


def changed(change: Callable[[Any], None]) -> type[Tokenizer]:
    """Return a fault: a tokenizer whose attributes are changed when it is built."""

    class Faulty(Tokenizer):
        def __init__(self, vocabulary: Vocabulary, *, pretokenizer: str = "huggingface") -> None:
            super().__init__(vocabulary, pretokenizer=pretokenizer)
            change(self)

    return Faulty


def splitting(other: Callable[[Pretokenizer], Pretokenizer]) -> type[Tokenizer]:
    """Return a fault: a tokenizer with another pretokenizer, given the right one."""

    def change(own: Any) -> None:
        own._split = split = other(own._split)
        own._as_given, own._normalized = own._finders(keeps_unknown=split.keeps_unknown)

    return changed(change)


def rewritten(rewrite: Rewrite, *, keeps_unknown: bool | None = None) -> type[Tokenizer]:
    """Return a fault: a pretokenizer whose words, and `keeps_unknown` if given, are changed."""

    def other(right: Any) -> Any:
        def located(text: str) -> list[Word]:
            base = getattr(right, "standardized", str)(text)
            return rewrite(right.located(text), base)

        return SimpleNamespace(
            keeps_unknown=right.keeps_unknown if keeps_unknown is None else keeps_unknown,
            located=located,
            words=lambda text: [word.text for word in located(text)],
        )

    return splitting(other)


def respelled(other: Callable[[str, str], str]) -> type[Tokenizer]:
    """Return a fault: each letter becomes `other(letter, source)`, `source` being the text's."""

    def respell(word: Word, base: str) -> Word:
        spelled = (other(c, base[at]) for c, at in zip(word.text, word.starts, strict=True))
        return Word("".join(spelled), word.starts, word.ends)

    return rewritten(lambda words, base: [respell(word, base) for word in words])


@fault(at="cleaning", of=HUGGINGFACE, by=rewritten)
def cleaning_skipped(words: list[Word], base: str) -> list[Word]:
    """Zero-width and control characters stay in words."""
    return [_filled(word, base) for word in words]


def _filled(word: Word, base: str) -> Word:
    removed = character_classes().removed
    kept = set(range(word.starts[0], word.ends[-1])) - set(word.starts)
    dropped = [at for at in kept if ord(base[at]) in removed and not base[at].isspace()]
    spelled = zip(word.starts, word.text, word.ends, strict=True)
    both = sorted(chain(spelled, ((at, base[at], at + 1) for at in dropped)), key=lambda p: p[0])
    return Word("".join(c for _, c, _ in both), [s for s, _, _ in both], [e for _, _, e in both])


def joined_at(kind: str) -> type[Tokenizer]:
    """Return a fault: words that touch at a character of a kind are joined."""

    def rewrite(words: list[Word], _base: str) -> list[Word]:
        made: list[Word] = []
        for word in words:
            if made and _touch(one := made[-1], word, kind):
                places = one.starts + word.starts, one.ends + word.ends
                made[-1] = Word(one.text + word.text, *places)
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


fault("cjk-joined", "Chinese characters are no words of their own", at="CJK", of=HUGGINGFACE)(
    joined_at("ideographs")
)

fault(
    "punctuation-joined",
    "punctuation marks are no words of their own",
    at="word boundaries",
    of=HUGGINGFACE,
)(joined_at("punctuation"))


@fault(at="accents", of=HUGGINGFACE, by=respelled)
def accents_kept(letter: str, source: str) -> str:
    """Letters keep their accents."""
    lower = source.lower()
    return lower if len(lower) == 1 and unicodedata.decomposition(lower)[:4] else letter


@fault(at="lower case", by=respelled)
def case_kept(letter: str, source: str) -> str:
    """Letters keep their case."""
    return source if source != letter and source.lower() == letter else letter


@fault(at="places", of=HUGGINGFACE, by=rewritten)
def places_in_bytes(words: list[Word], base: str) -> list[Word]:
    """Places are counted in bytes of UTF-8."""
    before = [0]
    for character in base:
        before.append(before[-1] + len(character.encode()))
    return [Word(w.text, [before[s] for s in w.starts], [before[e] for e in w.ends]) for w in words]


@fault(at="white space", of=HUGGINGFACE, by=rewritten)
def no_break_space_kept(words: list[Word], base: str) -> list[Word]:
    """A no-break space stays in its word."""
    made = words[:1]
    for word in words[1:]:
        one, start, end = made[-1], made[-1].ends[-1], word.starts[0]
        if base[start:end] == "\xa0":
            text = f"{one.text}\xa0{word.text}"
            made[-1] = Word(text, [*one.starts, start, *word.starts], [*one.ends, end, *word.ends])
        else:
            made.append(word)
    return made


@fault(at="newlines", of=ORIGINAL, by=rewritten)
def newline_dropped(words: list[Word], _base: str) -> list[Word]:
    """Newlines are spaces."""
    return [word for word in words if word.text != "\n"]


def _unchanged(words: list[Word], _base: str) -> list[Word]:
    return words


fault("unk-split", "a literal <unk> is characters as others", at="special token", of=HUGGINGFACE)(
    rewritten(_unchanged, keeps_unknown=False)
)

fault("unk-kept", "a literal <unk> is the unknown token", at="special token", of=ORIGINAL)(
    rewritten(_unchanged, keeps_unknown=True)
)


def prepared(prepare: Callable[[OriginalPretokenizer, str], str]) -> type[Tokenizer]:
    """Return a fault: the original pretokenizer with another preparation of its text."""

    class Other(OriginalPretokenizer):
        def standardized(self, text: str) -> str:
            return prepare(OriginalPretokenizer(), text)

    return splitting(lambda _right: Other())


fault(
    "backslash-padded",
    "backslashes stand alone, as a raw pattern would have it",
    at="word boundaries",
    of=ORIGINAL,
)(prepared(lambda right, text: right.standardized(text.replace("\\", " \\ "))))

fault("unrepaired", "ftfy's and the release's repairs are left out", at="text repair", of=ORIGINAL)(
    prepared(lambda _right, text: " ".join(text.split()))
)


# Wrong merging.


def merging(build: Callable[[Vocabulary], Merged]) -> type[Tokenizer]:
    """Return a fault: a tokenizer that merges in another way, given the vocabulary."""

    def change(own: Any) -> None:
        own._pieces._pairs = SimpleNamespace(merged=build(own.vocabulary))

    return changed(change)


def _right(vocabulary: Vocabulary) -> BytePairs:
    return BytePairs(vocabulary.ids, vocabulary.merges, unknown=vocabulary.ids[UNKNOWN])


@fault(at="ids", by=merging)
def header_counted(vocabulary: Vocabulary) -> Merged:
    """The merges' header counts as a merge, and products have the id after theirs."""
    products = {one + two for one, two in vocabulary.merges}
    size = len(vocabulary.tokens)
    ids = {token: (n + (token in products)) % size for token, n in vocabulary.ids.items()}
    return BytePairs(ids, vocabulary.merges, unknown=ids[UNKNOWN]).merged


@fault(at="merges", by=merging)
def last_merge_dropped(vocabulary: Vocabulary) -> Merged:
    """The last merge is not read."""
    return BytePairs(vocabulary.ids, vocabulary.merges[:-1], unknown=vocabulary.ids[UNKNOWN]).merged


@fault(at="merges", by=merging)
def leftmost_first(vocabulary: Vocabulary) -> Merged:
    """Merges go from left to right and not by rank."""
    pairs = set(vocabulary.merges)

    def merged(word: str) -> list[int]:
        parts: list[str] = []
        for letter in [*word[:-1], word[-1] + END]:
            parts.append(letter)
            while len(parts) > 1 and (parts[-2], parts[-1]) in pairs:
                parts[-2:] = [parts[-2] + parts[-1]]
        return [vocabulary.ids.get(part, vocabulary.ids[UNKNOWN]) for part in parts]

    return merged


@fault(at="end of word", by=merging)
def no_end_of_word(vocabulary: Vocabulary) -> Merged:
    """The last letter of a word has no </w>."""
    right = _right(vocabulary)

    return lambda word: right.merged(f"{word}\uffff")[:-1]


fault("unknown-is-one", "unknown characters have id 1", at="unknown characters")(
    merging(lambda vocabulary: BytePairs(vocabulary.ids, vocabulary.merges, unknown=1).merged)
)


def unknown_where(kept: Callable[[int, list[int], int], bool]) -> type[Tokenizer]:
    """Return a fault: only tokens for which `kept(place, ids, unknown)` is true remain."""

    def faulty(vocabulary: Vocabulary) -> Merged:
        right, unknown = _right(vocabulary), vocabulary.ids[UNKNOWN]

        def merged(word: str) -> list[int]:
            ids = right.merged(word)
            return [ids[at] for at in range(len(ids)) if kept(at, ids, unknown)]

        return merged

    return merging(faulty)


fault("unknown-dropped", "unknown characters have no id", at="unknown characters")(
    unknown_where(lambda at, ids, unknown: ids[at] != unknown)
)

fault("unknown-fused", "unknown characters beside each other have one id", at="unknown characters")(
    unknown_where(lambda at, ids, unknown: not at or ids[at - 1 : at + 1] != [unknown, unknown])
)


@fault(at="ids", by=merging)
def ids_in_16_bits(vocabulary: Vocabulary) -> Merged:
    """The ids of a word are kept in a signed type of 16 bits."""
    right = _right(vocabulary)
    return lambda word: np.array(right.merged(word)).astype(np.int16).tolist()


# Long words.


@fault(at="long words", by=merging)
def long_cut(vocabulary: Vocabulary) -> Merged:
    """A word is cut after each 64 characters, wherever that is."""
    right = _right(vocabulary)

    def merged(word: str) -> list[int]:
        *parts, last = (word[at : at + 64] for at in range(0, len(word), 64))
        return [
            *chain(*(right.merged(f"{part}\uffff")[:-1] for part in parts)),
            *right.merged(last),
        ]

    return merged


@fault(at="long words", by=merging)
def long_cut_before_end(vocabulary: Vocabulary) -> Merged:
    """Long words are cut between characters that are neighbors only in tokens that end a word."""
    right = _right(vocabulary)
    inner = (token for token in vocabulary.tokens if not token.endswith(END))
    right.__dict__["_neighbors"] = {t[at : at + 2] for t in inner for at in range(len(t) - 1)}
    return right.merged


@fault(at="long words", by=merging)
def long_unknown(vocabulary: Vocabulary) -> Merged:
    """A word of more than 100 characters is the unknown token."""
    right = _right(vocabulary)
    return lambda word: right.merged(word) if len(word) <= 100 else [vocabulary.ids[UNKNOWN]]


# The cache of words.


def cached_by(key: Callable[[str], str]) -> type[Tokenizer]:
    """Return a fault: a cache with another key than the word."""

    class Kept(product._Pieces):
        def __getitem__(self, word: str) -> tuple[int, ...]:
            if key(word) not in self:
                self[key(word)] = tuple(self._pairs.merged(word))
            return super().__getitem__(key(word))

    return caching(Kept)


def caching(kind: type[product._Pieces]) -> type[Tokenizer]:
    """Return a fault: a tokenizer with another cache."""
    return changed(lambda own: setattr(own, "_pieces", kind(own._pieces._pairs)))


TokenizerFault.register_all(
    {
        "cache-by-beginning": (
            "the cache holds words by their first 16 letters",
            cached_by(lambda word: word[:16]),
        ),
        "cache-by-letters": (
            "the cache holds words by their letters in any order",
            cached_by(lambda word: "".join(sorted(word))),
        ),
        "cache-by-hash": (
            "the cache holds words by a hash of 16 bits",
            cached_by(lambda word: f"{zlib.crc32(word.encode()) & 0xFFFF}"),
        ),
    },
    at="word cache",
)


@fault(
    "cache-evicts-wrong",
    "a word that finds the cache full gets the newest one's ids",
    at="word cache",
)
@caching
class CacheEvictsWrong(product._Pieces):
    def __missing__(self, word: str) -> tuple[int, ...]:
        full = len(self) >= product._MOST_KEPT
        return self.popitem()[1] if full else super().__missing__(word)


@fault(
    "cache-given-away", "encode returns its own list, which the caller can change", at="word cache"
)
class CacheGivenAway(Tokenizer):
    def encode(self, text: str) -> list[int]:
        kept: dict[str, list[int]] = self.__dict__.setdefault("kept", {})
        return kept.setdefault(text, super().encode(text))


# Offsets.


@fault("ends-included", "an offset's end is the last character", at="places", of=HUGGINGFACE)
class EndsIncluded(Tokenizer):
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, offsets = super().encode_with_offsets(text)
        return ids, [(start, end - 1) for start, end in offsets]


@fault("places-of-parts", "places count from the last special token", at="places", of=HUGGINGFACE)
class PlacesOfParts(Tokenizer):
    def _located(self, text: str) -> Iterator[Word | tuple[int, int, int]]:
        for start, end, number in self._as_given.split(text):
            if number is not None:
                yield start, end, number
            else:
                yield from self._split.located(text[start:end])


# Exceptions.


@fault("raises-at-pictures", "encode raises an error at characters beyond U+FFFF", at="exception")
class RaisesAtPictures(Tokenizer):
    def encode(self, text: str) -> list[int]:
        if any(ord(character) > 0xFFFF for character in text):
            raise OverflowError("unsigned short is greater than maximum")
        return super().encode(text)


@fault("raises-at-unknown", "decode raises an error at the unknown token", at="exception")
class RaisesAtUnknown(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        spelled = {token: token for token in self.vocabulary.tokens if token != UNKNOWN}
        return "".join(spelled[token] for token in self.tokens(ids))


# Decoding.


@fault("decoded-without-spaces", "words are not separated", at="decode")
class DecodedWithoutSpaces(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return super().decode(ids).replace(" ", "")


@fault("decoded-with-last-space", "a space ends the text", at="decode")
class DecodedWithLastSpace(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return "".join(token.replace(END, " ") for token in self.tokens(ids))


@fault("decoded-without-unknown", "unknown tokens are left out", at="decode")
class DecodedWithoutUnknown(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return super().decode(number for number in ids if number != self._unknown)


@fault("decoded-end-kept", "the last token keeps its </w>", at="decode")
class DecodedEndKept(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        *others, last = self.tokens(ids) or [""]
        return "".join(token.replace(END, " ") for token in others) + last


@fault("decoded-in-16-bits", "decode takes ids modulo 65,536", at="ids")
class DecodedIn16Bits(Tokenizer):
    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return super().decode(int(number) & 0xFFFF for number in ids)


@fault("decoded-from-the-end", "a negative id is accepted", at="other inputs")
class DecodedFromTheEnd(Tokenizer):
    def tokens(self, ids: Iterable[SupportsIndex]) -> list[str]:
        return [self.vocabulary.all_tokens[number] for number in ids]


# Batches.


@fault(
    "batch-by-length",
    "rows come from short to long, and not in the order of the texts",
    at="encode_batch",
)
class BatchByLength(Tokenizer):
    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return sorted(super().encode_batch(texts), key=len)


@fault("batch-without-empty", "a text without ids has no row", at="encode_batch")
class BatchWithoutEmpty(Tokenizer):
    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [row for row in super().encode_batch(texts) if row]


@fault("batch-padded", "rows are filled up to the longest", at="encode_batch")
class BatchPadded(Tokenizer):
    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        rows = super().encode_batch(texts)
        longest = max(map(len, rows), default=0)
        return [row + [self._unknown] * (longest - len(row)) for row in rows]


# Training.


def training(target: object, name: str, value: object) -> type[Tokenizer]:
    """Return a fault: a tokenizer for whose training a part of a module has another value."""

    class Faulty(Tokenizer):
        @classmethod
        def train(cls, *given: Any, **how: Any) -> Tokenizer:
            with patch.object(target, name, value):
                return super().train(*given, **how)

    return Faulty


def _last_of_equals(pairs: bpe_trainer._Pairs) -> tuple[str, str] | None:
    count, pair = max(((n, pair) for pair, n in pairs._counts.items()), default=(0, None))
    return pair if count >= bpe_trainer._FEWEST else None


def _only_more(pairs: bpe_trainer._Pairs, place: int, times: int) -> None:
    if times > 0:
        _COUNT(pairs, place, times)


_COUNT, _MERGED = bpe_trainer._Pairs._count, bpe_trainer._merged


def _from_the_right(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    if pair[0] != pair[1]:
        return _MERGED(pieces, pair)
    made: list[str] = []
    for piece in reversed(pieces):
        if made and (piece, made[-1]) == pair:
            made[-1] = piece + made[-1]
        else:
            made.append(piece)
    return made[::-1]


def _counted_once(words: Iterable[str], **how: Any) -> Vocabulary:
    return bpe_trainer.train_merges(dict.fromkeys(words, 1), **how)


TokenizerFault.register_all(
    {
        "merge-ties-to-the-last": (
            "of equally frequent pairs the last in code-point order is merged",
            training(bpe_trainer._Pairs, "most_frequent", _last_of_equals),
        ),
        "merged-once": (
            "pairs that occur once are merged, too",
            training(bpe_trainer, "_FEWEST", 1),
        ),
        "words-counted-once": (
            "a frequent word counts as a rare one",
            training(product, "train_merges", _counted_once),
        ),
        "counts-not-lowered": (
            "after a merge the pairs it broke up keep their counts",
            training(bpe_trainer._Pairs, "_count", _only_more),
        ),
        "merged-from-the-right": (
            "in a word a pair is merged from right to left",
            training(bpe_trainer, "_merged", _from_the_right),
        ),
    },
    at="training",
)


# Files.


@fault("first-merge-not-saved", "the first merge is overwritten by the header", at="files")
class FirstMergeNotSaved(Tokenizer):
    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        super().save_pretrained(directory)
        path = Path(directory) / MERGES
        header, _first, *rest = path.read_text(encoding="utf-8").split("\n")
        path.write_text("\n".join([header, *rest]), encoding="utf-8", newline="\n")


@fault("pretokenizer-not-saved", "the pretokenizer's name is not saved", at="files", of=ORIGINAL)
class PretokenizerNotSaved(Tokenizer):
    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        super().save_pretrained(directory)
        (Path(directory) / CONFIG).write_text("{}", encoding="utf-8")


TOKENIZER_FAULTS = faults_of(TokenizerFault)
"""Every fault of a tokenizer by name."""


def inject(right: Tokenizer, name: str) -> CandidateTokenizer:
    """Return our side with a fault."""
    kind: type[Tokenizer] = TOKENIZER_FAULTS[name].code
    return CandidateTokenizer(kind(right.vocabulary, pretokenizer=right.pretokenizer))
