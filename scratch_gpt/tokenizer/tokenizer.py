"""The tokenizer of GPT-1: text to ids and back, by byte-pair encoding of lower-case words."""

import itertools
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, SupportsIndex

from scratch_gpt.errors import TextError, TokenizerError
from scratch_gpt.tokenizer import vocabulary as vocabulary_files
from scratch_gpt.tokenizer.added_tokens import UNKNOWN_TOKEN, AddedTokenFinder
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.bpe_trainer import train_merges
from scratch_gpt.tokenizer.pretokenizers import (
    UNKNOWN,
    HuggingFacePretokenizer,
    Pretokenizer,
    Word,
    normalize_text,
    pretokenizer_named,
)
from scratch_gpt.tokenizer.vocabulary import Vocabulary

# Checks of the input.


def check_text(text: object, name: str = "text") -> str:
    """Return the text; in messages it is called `name`.

    Raises:
        TypeError: It is not a `str`.
        TextError: It holds a surrogate: half a character, from a byte that could not be decoded
            or a broken JSON escape.
    """
    if not isinstance(text, str):
        hint = "; decode it first, as by text.decode('utf-8')" if isinstance(text, bytes) else ""
        raise TypeError(f"{name} must be a str, got {type(text).__name__}{hint}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = f"U+{ord(text[error.start]):04X}"
            raise TextError(
                f"not valid Unicode at character {error.start}: {code} is a surrogate, "
                "half a character",
                where=name,
                fix="read it with the right encoding, and without errors='surrogateescape'",
            ) from None
    return text


def check_texts(texts: Iterable[object]) -> Iterator[str]:
    """Yield each text, checked.

    Raises:
        TypeError: `texts` is one text, or one of them is not a `str`.
        TextError: One holds a surrogate.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be several texts, got one {type(texts).__name__}; use [text]")
    for number, text in enumerate(texts):
        yield check_text(text, f"texts[{number}]")


def check_ids(ids: Iterable[Any], bound: int) -> list[int]:
    """Return ids of Python, NumPy or torch as integers of Python.

    Raises:
        TypeError: One of them is not an integer, or is a `bool`.
        ValueError: One of them is not in [0, bound).
    """
    checked = []
    for place, given in enumerate(ids):
        try:
            number = operator.index(given)
        except TypeError:
            number = None
        if number is None or isinstance(given, bool):
            kind = type(given).__name__
            raise TypeError(f"ids[{place}] must be an integer, got {given!r} ({kind})")
        if not 0 <= number < bound:
            raise ValueError(f"ids[{place}] is {number}, which is not in [0, {bound})")
        checked.append(number)
    return checked


MOST_DECODED = 1 << 28
"""Characters of a decoded text: at four bytes each 1 GiB, which joining briefly doubles."""


class Tokenizer:
    """Encodes text as token ids, and decodes them.

    With `pretokenizer="huggingface"` the ids are those of Hugging Face's `OpenAIGPTTokenizer`
    (transformers 5.3 and later, and the fast one of 4.x). With `"original"` they are those that
    the released model was trained with; it needs ftfy and spaCy.

    Raises:
        ValueError: No pretokenizer has that name.
        MissingExtraError: The pretokenizer needs a package that is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, *, pretokenizer: str = "huggingface") -> None:
        self.pretokenizer = pretokenizer
        self.vocabulary = vocabulary
        self._split = pretokenizer_named(pretokenizer)
        self._unknown = vocabulary.ids[UNKNOWN]
        self._as_given, self._normalized = self._finders(keeps_unknown=self._split.keeps_unknown)
        self._lengths = [len(token.removesuffix(END)) for token in vocabulary.tokens]
        self._lengths[self._unknown] = 1
        pairs = BytePairs(vocabulary.ids, vocabulary.merges, unknown=self._unknown)
        self._pieces = _Pieces(pairs)

    def _finders(self, *, keeps_unknown: bool) -> tuple[AddedTokenFinder, AddedTokenFinder]:
        """Return what finds added tokens in a text as given, and in a normalized text.

        Only the pretokenizer `huggingface` knows `<unk>`, and has a normalized text.
        """
        is_hugging_face = isinstance(self._split, HuggingFacePretokenizer)
        added = {token.content: token for token in (UNKNOWN_TOKEN, *self.vocabulary.added)}
        ids = {UNKNOWN: self._unknown, **self.vocabulary.added_ids}
        if not keeps_unknown:
            del added[UNKNOWN]
        normalized = {t for t in added.values() if t.normalized and is_hugging_face}
        return (
            AddedTokenFinder((c, t, ids[c]) for c, t in added.items() if t not in normalized),
            AddedTokenFinder(
                (normalize_text(c)[0], t, ids[c]) for c, t in added.items() if t in normalized
            ),
        )

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, pretokenizer: str | None = None
    ) -> "Tokenizer":
        """Return the tokenizer of a folder's vocabulary.

        The folder holds Hugging Face's `tokenizer.json`, or else `vocab.json` and `merges.txt`, or
        OpenAI's `encoder_bpe_40000.json` and `vocab_40000.bpe`; and perhaps added tokens. Without
        `pretokenizer`, its `tokenizer_config.json` names one; the default is `"huggingface"`.

        Raises:
            TokenizerError: There is no vocabulary, or an unsound one.
            ValueError: No pretokenizer has that name.
        """
        folder = Path(directory)
        vocabulary = vocabulary_files.read_vocabulary(folder)
        if pretokenizer is None:
            pretokenizer = vocabulary_files.pretokenizer_in(folder)
        return cls(vocabulary, pretokenizer=pretokenizer)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        merges: int,
        pretokenizer: str = "huggingface",
        progress: Callable[[int], None] = lambda _: None,
    ) -> "Tokenizer":
        """Return a tokenizer whose vocabulary is trained on texts.

        Args:
            texts: The training texts.
            merges: Pairs to merge at most; the released vocabulary has 40,000. There are fewer if
                no pair occurs twice any more.
            pretokenizer: `"huggingface"` or `"original"`.
            progress: Called with the number of merges so far, after each.

        Raises:
            ValueError: `merges` is negative.
            TextError: A text is not valid Unicode.
        """
        if merges < 0:
            raise ValueError(f"merges must be at least 0, got {merges}")
        split = pretokenizer_named(pretokenizer)
        counts: Counter[str] = Counter()
        for text in check_texts(texts):
            for part in _parts(text, split):
                counts.update(split.words(part))
        vocabulary = train_merges(counts, merges=merges, progress=progress)
        return cls(vocabulary, pretokenizer=pretokenizer)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` in Hugging Face's form.

        The last one also names the pretokenizer, which Hugging Face ignores. Other files in the
        folder, such as weights, stay.

        Raises:
            OccupiedError: Something there would be lost, or there is a `tokenizer.json`, which
                Hugging Face would read instead.
            WriteError: The file system failed.
        """
        vocabulary_files.write_vocabulary(
            Path(directory), self.vocabulary, pretokenizer=self.pretokenizer
        )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones among them."""
        return len(self.vocabulary.all_tokens)

    @property
    def digest(self) -> str:
        """SHA-256 of tokens, merges and added tokens, whatever files they came from."""
        return self.vocabulary.digest

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            TypeError: It is not a `str`.
            TextError: It holds a surrogate.
        """
        if self._normalized:
            return self.encode_with_offsets(text)[0]
        ids: list[int] = []
        check_text(text)
        for start, end, number in self._as_given.split(text):
            if number is not None:
                ids.append(number)
                continue
            words = self._split.words(text[start:end])
            ids.extend(itertools.chain.from_iterable(map(self._pieces.__getitem__, words)))
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text; errors are those of `encode`."""
        return [self.encode(text) for text in check_texts(texts)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text, and the start and end of each token in it.

        Offsets count characters of the text as given. A removed character, such as an accent that
        is a character of its own, belongs to no token unless it is within one. Errors are those of
        `encode`.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for found in self._located(check_text(text)):
            if not isinstance(found, Word):
                ids.append(found[2])
                offsets.append(found[:2])
                continue
            first = 0
            for piece in self._pieces[found.text]:
                after = first + self._lengths[piece]
                ids.append(piece)
                offsets.append((found.starts[first], found.ends[after - 1]))
                first = after
        return ids, offsets

    def _located(self, text: str) -> Iterator[Word | tuple[int, int, int]]:
        """Yield the words of a text with their positions, and (start, end, id) of added tokens."""
        for start, end, number in self._as_given.split(text):
            if number is not None:
                yield start, end, number
            elif not (self._normalized and isinstance(self._split, HuggingFacePretokenizer)):
                yield from (word.moved(start) for word in self._split.located(text[start:end]))
            else:
                made, origins = normalize_text(text[start:end])
                places = [start + origin for origin in origins]
                for first, after, found in self._normalized.split(made):
                    if found is not None:
                        yield places[first], places[after - 1] + 1, found
                    else:
                        yield from self._split.located_in(made[first:after], places[first:after])

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of ids: the tokens joined, with a space after each word but the last.

        The case, accents and spacing of the encoded text are lost. Errors are those of `tokens`;
        and a `TokenizerError`, before any is joined, if the text has more than `MOST_DECODED`
        characters.
        """
        tokens = self.tokens(ids) or [""]
        if (size := sum(map(len, tokens))) > MOST_DECODED:
            raise TokenizerError(
                f"the text of {len(tokens):,} ids has {size:,} characters; the limit is "
                f"{MOST_DECODED:,}",
                where="ids",
                fix="decode fewer ids at once",
            )
        last = tokens.pop()
        return "".join([*(token.replace(END, " ") for token in tokens), last.replace(END, "")])

    def tokens(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Return the token of each id, including `</w>`.

        Raises:
            TypeError: One of them is not an integer.
            ValueError: One of them is not the id of a token.
        """
        return [self.vocabulary.all_tokens[number] for number in check_ids(ids, self.vocab_size)]


_MOST_KEPT, _LONGEST_KEPT = 1 << 17, 64
"""Words in the cache, and characters of the longest one."""


class _Pieces(dict[str, tuple[int, ...]]):
    """A cache of the ids of words.

    It is emptied when it is full: the frequent words are soon back. Long words are not kept, so it
    stays below about 30 MB.
    """

    def __init__(self, pairs: BytePairs) -> None:
        super().__init__()
        self._pairs = pairs

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._pairs.merged(word))
        if len(word) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[word] = ids
        return ids


def _parts(text: str, pretokenizer: Pretokenizer) -> list[str]:
    """Return the parts before, between and after each literal `<unk>` in a text."""
    return text.split(UNKNOWN) if pretokenizer.keeps_unknown else [text]
