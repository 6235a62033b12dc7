"""Text to ids and back, as GPT-1 has it: lower-case words, each cut into byte pairs."""

import itertools
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from scratch_gpt.errors import TextError
from scratch_gpt.tokenizer import vocabulary as vocabulary_files
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.bpe_trainer import train_merges
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, Pretokenizer, Word, pretokenizer_named
from scratch_gpt.tokenizer.vocabulary import Vocabulary

# What a tokenizer may be given: Unicode text to encode, ids of tokens to decode.


def check_text(text: object, name: str = "text") -> str:
    """Return the text.

    Args:
        text: What was given.
        name: What the caller calls it.

    Raises:
        TypeError: It is no `str`.
        TextError: It holds a surrogate: half a character, which stands for a byte that could not
            be decoded or comes from a broken JSON escape.
    """
    if not isinstance(text, str):
        hint = "; decode it first, as by text.decode('utf-8')" if isinstance(text, bytes) else ""
        raise TypeError(f"{name} must be a str, got {type(text).__name__}{hint}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _no_unicode(text, error.start, name) from None
    return text


def _no_unicode(text: str, place: int, name: str) -> TextError:
    code = f"U+{ord(text[place]):04X}"
    return TextError(
        f"not valid Unicode at character {place}: {code} is a surrogate, half a character",
        where=name,
        fix="read it with the right encoding, and without errors='surrogateescape'",
    )


def check_texts(texts: Iterable[object]) -> Iterator[str]:
    """Give each text, checked.

    Raises:
        TypeError: There is one text where several are wanted, or one of them is no `str`.
        TextError: One holds a surrogate.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be several texts, got one {type(texts).__name__}; use [text]")
    for number, text in enumerate(texts):
        yield check_text(text, f"texts[{number}]")


def check_ids(ids: Iterable[Any], bound: int) -> list[int]:
    """Return the ids as whole numbers.

    Args:
        ids: Whole numbers of Python, NumPy or torch.
        bound: The first number that is no token's.

    Raises:
        TypeError: One of them is no whole number, a truth value for instance.
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
            raise TypeError(f"ids[{place}] must be a whole number, got {given!r} ({kind})")
        if not 0 <= number < bound:
            raise ValueError(f"ids[{place}] is {number}, which is not in [0, {bound})")
        checked.append(number)
    return checked


_MOST_KEPT, _LONGEST_KEPT = 1 << 17, 64
"""Words kept, and characters of the longest one kept."""


class Tokenizer:
    """Cuts text into tokens and puts tokens together again.

    `splitting="bert"` gives what Hugging Face's `OpenAIGPTTokenizer` gives (transformers 5.3 and
    later, and the fast one of 4.x); `splitting="original"` gives what the released model was
    trained with, and needs ftfy and spaCy.

    Args:
        vocabulary: Tokens and merges.
        pretokenizer: How text is split into words, a key of
            `scratch_gpt.tokenizer.pretokenizers.SPLITTINGS`.

    Raises:
        ValueError: No splitting has that name.
        ModuleNotFoundError: The splitting needs a package that is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, *, pretokenizer: str = "bert") -> None:
        self.pretokenizer = pretokenizer
        self.vocabulary = vocabulary
        self._split = pretokenizer_named(pretokenizer)
        self._unknown = vocabulary.ids[UNKNOWN]
        self._lengths = [len(token.removesuffix(END)) for token in vocabulary.tokens]
        self._lengths[self._unknown] = 1
        pairs = BytePairs(vocabulary.ids, vocabulary.merges, unknown=self._unknown)
        self._pieces = _Pieces(pairs)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, pretokenizer: str | None = None
    ) -> "Tokenizer":
        """Return the tokenizer of a folder's vocabulary.

        Args:
            directory: Holds `vocab.json` and `merges.txt`, or OpenAI's `encoder_bpe_40000.json`
                and `vocab_40000.bpe`, or else Hugging Face's `tokenizer.json`.
            pretokenizer: `"bert"` or `"original"`; None for what the folder's
                `tokenizer_config.json` says, which is `"bert"` where it says nothing.

        Raises:
            TokenizerError: There is no vocabulary, or an unsound one.
            ValueError: No splitting has that name.
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
        pretokenizer: str = "bert",
        progress: Callable[[int], None] = lambda _: None,
    ) -> "Tokenizer":
        """Return a tokenizer whose vocabulary is learned from texts.

        Args:
            texts: What to learn from.
            merges: How many pairs to merge, the released vocabulary has 40,000; fewer where no
                pair occurs twice any more.
            pretokenizer: `"bert"` or `"original"`.
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
        return cls(
            train_merges(counts, merges=merges, progress=progress), pretokenizer=pretokenizer
        )

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` as Hugging Face has them.

        The last one says the splitting too, which Hugging Face passes over. Other files in
        the folder, such as weights, stay.

        Raises:
            OccupiedError: Something there would be lost, or there is a `tokenizer.json`, which
                Hugging Face would read instead.
            WriteError: The file system refused.
        """
        vocabulary_files.write_vocabulary(
            Path(directory), self.vocabulary, pretokenizer=self.pretokenizer
        )

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.vocabulary.tokens)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens and merges, whatever files they came from."""
        return self.vocabulary.digest

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; of an empty one, none.

        Raises:
            TypeError: It is no `str`.
            TextError: It holds a surrogate.
        """
        ids: list[int] = []
        for number, part in enumerate(_parts(check_text(text), self._split)):
            if number:
                ids.append(self._unknown)
            words = self._split.words(part)
            ids.extend(itertools.chain.from_iterable(map(self._pieces.__getitem__, words)))
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text.

        Raises:
            TypeError: One of them is no `str`, or `texts` is one itself.
            TextError: One holds a surrogate.
        """
        return [self.encode(text) for text in check_texts(texts)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text, and where each token begins and ends in it.

        An offset counts characters of the text as given; what was removed from it, such as an
        accent that is a character of its own, is in no token unless it stands within one.

        Raises:
            TypeError: It is no `str`.
            TextError: It holds a surrogate.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate(_parts(check_text(text), self._split)):
            if number:
                ids.append(self._unknown)
                offsets.append((start - len(UNKNOWN), start))
            for word in self._split.located(part):
                pieces = self._pieces[word.text]
                ids.extend(pieces)
                offsets.extend(self._spans(pieces, word, start))
            start += len(part) + len(UNKNOWN)
        return ids, offsets

    def _spans(self, pieces: Sequence[int], word: Word, start: int) -> Iterator[tuple[int, int]]:
        """Give where each piece of a word begins and ends in a text; `start` is its part's."""
        first = 0
        for piece in pieces:
            after = first + self._lengths[piece]
            yield start + word.starts[first], start + word.ends[after - 1]
            first = after

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of ids: tokens joined, a space after each that ends a word but the last.

        It is not the text that was encoded: that one's case, accents and spacing are gone.

        Args:
            ids: Whole numbers, of NumPy or torch too.

        Raises:
            TypeError: One of them is no whole number.
            ValueError: One of them is no token's.
        """
        tokens = self.tokens(ids)
        last = tokens[-1:]
        return "".join(
            [
                *(token.replace(END, " ") for token in tokens[:-1]),
                *(token.replace(END, "") for token in last),
            ]
        )

    def tokens(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Return the token of each id, `</w>` and all.

        Raises:
            TypeError: One of them is no whole number.
            ValueError: One of them is no token's.
        """
        return [self.vocabulary.tokens[number] for number in check_ids(ids, self.vocab_size)]


class _Pieces(dict[str, tuple[int, ...]]):
    """The ids of words met before; a word is merged when it is first met.

    When it is full it is emptied: the frequent words are soon back. Long words are not kept, so
    it stays below some 30 MB.
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
    """Return what stands before, between and after the unknown tokens written in a text."""
    return text.split(UNKNOWN) if pretokenizer.keeps_unknown else [text]
