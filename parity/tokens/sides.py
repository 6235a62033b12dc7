"""The two sides of a comparison, asked alike: ids, places, words."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from reference import compat
from reference.huggingface_tokenizer import (
    STEPS,
    Encoding,
    HuggingFaceTokenizer,
    words_without,
)
from reference.original_splitting import OriginalTokenizer, prepared
from scratch_gpt.tokenization.words import UNKNOWN, Splitting, splitting_named
from scratch_gpt.tokenizer import Tokenizer


class Witness(Protocol):
    """What ours is held against.

    Attributes:
        name: What a report calls it.
        steps: The steps of preparing text that can be left out, in order.
        exempt: What of it is not compared because something else stands in for it, and why.
    """

    name: str
    steps: tuple[str, ...]

    @property
    def exempt(self) -> Mapping[str, str]:
        """Where it is not what its name says, and why."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids, and places where this side tells them."""
        ...

    def words(self, text: str) -> list[str]:
        """Return the words of a text."""
        ...

    def words_without(self, step: str, text: str) -> list[str]:
        """Return its words with one step left out."""
        ...


TORN = Encoding((-1,), ())
"""What our side gives where `encode` and `encode_with_offsets` have other ids: no witness has it,
whether it tells places or not."""


class Ours:
    """This project's tokenizer.

    Args:
        tokenizer: The tokenizer.
        splitting: Its way of splitting, where that is not the one of its name.
    """

    name = "ours"

    def __init__(self, tokenizer: Tokenizer, splitting: Splitting | None = None) -> None:
        self.tokenizer = tokenizer
        self.splitting = splitting or splitting_named(tokenizer.splitting)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and places; `TORN` where the two ways do not agree."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        ids = self.tokenizer.encode(text)
        again, places = self.tokenizer.encode_with_offsets(text)
        return Encoding(tuple(ids), tuple(places)) if again == ids else TORN

    def words(self, text: str) -> list[str]:
        """Return the words of a text; a special token is a word of its own."""
        found: list[str] = []
        parts = text.split(UNKNOWN) if self.splitting.keeps_unknown else [text]
        for number, part in enumerate(parts):
            found += [UNKNOWN] if number else []
            found += self.splitting.words(part)
        return found


class HuggingFace(HuggingFaceTokenizer):
    """Hugging Face's tokenizer, which prepares text in four steps."""

    name = "huggingface"
    steps = tuple(STEPS)

    @property
    def exempt(self) -> Mapping[str, str]:
        """The version's own normalizer, where BERT's stands in for it."""
        if not self.replaced:
            return {}
        why = compat.DIFFERENCES["normalizer of three"].why
        what = f"the {self.replaced} of transformers {compat.told('transformers')}"
        return {what: f"the witness has BERT's normalizer in its place; {why}"}

    def words_without(self, step: str, text: str) -> list[str]:
        """Return the words with one step of the normalizer left out."""
        return words_without(step, text)


class Transcription:
    """The release's own way, told a second time; it tells no places.

    Args:
        vocabulary: The vocabulary's file.
        merges: The merges' file.

    Raises:
        ModuleNotFoundError: ftfy or spaCy is not installed.
    """

    name = "transcription"
    steps: tuple[str, ...] = ("newlines", "text repair", "lower case")
    exempt: Mapping[str, str] = MappingProxyType({})

    def __init__(self, vocabulary: Path, merges: Path) -> None:
        self._slow = OriginalTokenizer(vocabulary, merges)
        self._ids = functools.lru_cache(1 << 16)(self._ids_of)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids."""
        return [Encoding(self._encode(text), None) for text in texts]

    def words(self, text: str) -> list[str]:
        """Return the words; a newline without the space that spaCy leaves behind it."""
        return ["\n" if word == "\n " else word for word in self._slow.words(text)]

    def words_without(self, step: str, text: str) -> list[str]:
        """Return the words without ftfy's and the release's repairs, newlines, or lower case."""
        if step == "lower case":
            return [word.removesuffix(" ") for word in self._slow.split(prepared(text))]
        if step == "newlines":
            return [word for word in self.words(text) if word != "\n"]
        bare = self._slow.split(" ".join(text.split()))
        return [word.lower() for word in bare]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(number for word in self._slow.words(text) for number in self._ids(word))

    def _ids_of(self, word: str) -> tuple[int, ...]:
        return tuple(self._slow.ids.get(part, 0) for part in self._slow.pieces(word))
