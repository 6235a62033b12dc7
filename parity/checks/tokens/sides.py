"""The two sides of a comparison, asked alike: ids, places, words."""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from huggingface_hub import constants

from parity.checkpoints.huggingface_files import VOCABULARY_FILES
from parity.errors import EnvironmentUnfitError, InputRejectedError
from reference import compat, hub, published
from reference.huggingface_tokenizer import STEPS, Encoding, HuggingFaceTokenizer, words_without
from reference.original_tokenizer import OriginalTokenizer, prepare_text
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, Pretokenizer, pretokenizer_named
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.vocabulary import SINGLE_FILE


class ReferenceTokenizer(Protocol):
    """The reference of the candidate tokenizer.

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


INCONSISTENT = Encoding((-1,), ())
"""What our side gives where `encode` and `encode_with_offsets` have other ids: no witness has it,
whether it tells places or not."""


class CandidateTokenizer:
    """This project's tokenizer.

    Args:
        tokenizer: The tokenizer.
        pretokenizer: Its way of splitting, where that is not the one of its name.
    """

    name = "ours"

    def __init__(self, tokenizer: Tokenizer, pretokenizer: Pretokenizer | None = None) -> None:
        self.tokenizer = tokenizer
        self.pretokenizer = pretokenizer or pretokenizer_named(tokenizer.pretokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and places; `TORN` where the two ways do not agree."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        ids = self.tokenizer.encode(text)
        again, places = self.tokenizer.encode_with_offsets(text)
        return Encoding(tuple(ids), tuple(places)) if again == ids else INCONSISTENT

    def words(self, text: str) -> list[str]:
        """Return the words of a text; a special token is a word of its own."""
        found: list[str] = []
        parts = text.split(UNKNOWN) if self.pretokenizer.keeps_unknown else [text]
        for number, part in enumerate(parts):
            found += [UNKNOWN] if number else []
            found += self.pretokenizer.words(part)
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
        what = f"the {self.replaced} of transformers {compat.describe('transformers')}"
        return {what: f"the witness has BERT's normalizer in its place; {why}"}

    def words_without(self, step: str, text: str) -> list[str]:
        """Return the words with one step of the normalizer left out."""
        return words_without(step, text)


class ReleaseTokenizer:
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
            return [word.removesuffix(" ") for word in self._slow.split(prepare_text(text))]
        if step == "newlines":
            return [word for word in self.words(text) if word != "\n"]
        bare = self._slow.split(" ".join(text.split()))
        return [word.lower() for word in bare]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(number for word in self._slow.words(text) for number in self._ids(word))

    def _ids_of(self, word: str) -> tuple[int, ...]:
        return tuple(self._slow.ids.get(part, 0) for part in self._slow.pieces(word))


# Which vocabulary a comparison of tokenizers is about.


MERGES = 2_000
"""Merges of a vocabulary that is learned on the spot."""

_WITHOUT = ("surrogate", "tiny")
"""Weights that have no vocabulary."""

_LEARNED = ("auto", *_WITHOUT)
"""What `--weights` may say where a vocabulary is learned if none is found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundVocabulary:
    """A vocabulary's files.

    Attributes:
        folder: Where they lie.
        vocabulary: Tokens and ids.
        merges: The merges.
        source: What a verdict says about where they come from.
    """

    folder: Path
    vocabulary: Path
    merges: Path
    source: str


@contextlib.contextmanager
def choose_vocabulary(
    directory: Path | None, weights: str, texts: Iterable[str]
) -> Iterator[FoundVocabulary]:
    """Give the vocabulary that was asked for, or the one beside the weights, or a learned one.

    Args:
        directory: The folder asked for.
        weights: What `--weights` says: a folder or file that may have a vocabulary beside it, or a
            name of the released model, whose vocabulary may lie in the hub's cache. Nothing is
            downloaded.
        texts: What one is learned from where there is none.

    Raises:
        InputRejectedError: The folder asked for, or the weights, have none; or there are no
        weights. EnvironmentUnfitError: The released one was asked for and is not in the cache.
        CheckpointError: A `tokenizer.json` that is alone is not GPT-1's.
    """
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        if directory is not None:
            yield _required(directory, f"--vocabulary {directory}", f"{directory}", room)
            return
        found = _beside(weights, room)
        if found is None:
            Tokenizer.train(texts, merges=MERGES).save_pretrained(room)
            source = f"learned for this run: {MERGES:,} merges of the standard library's words"
            found = _required(room, "the one that was learned", source, room)
        yield found


def _beside(weights: str, room: Path) -> FoundVocabulary | None:
    """Return the vocabulary that weights have, None where one is to be learned."""
    if weights in _WITHOUT:
        return None
    if weights in _LEARNED or weights in published.REPOSITORIES:
        return _cached(weights, room)
    path = Path(weights)
    if not path.exists():
        raise InputRejectedError(
            "there is no such file or folder, so no vocabulary beside it",
            where=f"--weights {weights}",
            fix="correct the path, or give a vocabulary's folder with --vocabulary",
        )
    folder = path if path.is_dir() else path.parent
    return _required(folder, f"--weights {weights}", f"beside {weights}", room)


def _cached(weights: str, room: Path) -> FoundVocabulary | None:
    """Return the released vocabulary from the hub's cache, None where it need not be there."""
    for repository in reversed(published.REPOSITORIES):
        for snapshot in _snapshots(Path(constants.HF_HUB_CACHE), repository):
            found = _in(snapshot, f"the hub's cache, {repository}", room)
            if found is not None:
                return found
    if weights in _LEARNED:
        return None
    raise EnvironmentUnfitError(
        "the released vocabulary is not in the hub's cache",
        where=f"--weights {weights}",
        fix="give its folder with --vocabulary, or fetch the weights once with "
        "`python -m parity.check weights --weights openai-gpt`",
    )


def _snapshots(cache: Path, repository: str) -> list[Path]:
    """Return a repository's snapshots: main's first, then the one that weights are taken of."""
    home = hub.storage(cache, repository) / "snapshots"
    first = hub.commit(cache, repository, "main"), published.REVISION
    known = [home / commit for commit in first if commit is not None]
    return list(dict.fromkeys([*known, *sorted(home.glob("*"))]))


def _required(folder: Path, where: str, source: str, room: Path) -> FoundVocabulary:
    found = _in(folder, source, room)
    if found is None:
        raise InputRejectedError(
            f"there is no vocabulary in the folder: neither {' and '.join(VOCABULARY_FILES)} nor "
            f"{' and '.join(VOCABULARY_FILES.values())} nor {SINGLE_FILE}",
            where=where,
            fix="name a folder that holds them with --vocabulary",
        )
    return found


def _in(folder: Path, source: str, room: Path) -> FoundVocabulary | None:
    """Return the vocabulary of a folder, in two files under the names of either publication.

    Args:
        folder: Where to look.
        source: What a verdict says about it.
        room: An empty folder, for the two files where there is `tokenizer.json` alone.
    """
    for names in (tuple(VOCABULARY_FILES), tuple(VOCABULARY_FILES.values())):
        vocabulary, merges = (folder / name for name in names)
        if os.path.lexists(vocabulary) and os.path.lexists(merges):
            return FoundVocabulary(
                folder=folder, vocabulary=vocabulary, merges=merges, source=source
            )
    if not os.path.lexists(folder / SINGLE_FILE):
        return None
    Tokenizer.from_pretrained(folder, pretokenizer="huggingface").save_pretrained(room)
    vocabulary, merges = (room / name for name in VOCABULARY_FILES)
    told = f"{source}, {SINGLE_FILE} as we read it"
    return FoundVocabulary(folder=folder, vocabulary=vocabulary, merges=merges, source=told)
