"""Both sides of a comparison of tokenizers, and their vocabulary."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from huggingface_hub import constants

from parity.checkpoints.huggingface_files import VOCABULARY_FILES
from parity.errors import EnvironmentUnfitError, InputRejectedError, message_of
from reference import compat, hub, published
from reference.huggingface_tokenizer import STEPS, Encoding, HuggingFaceTokenizer, words_without
from reference.original_tokenizer import OriginalTokenizer, decode, prepare_text
from scratch_gpt.errors import CommandError
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.vocabulary import SINGLE_FILE, Vocabulary, files_read, write_vocabulary

T = TypeVar("T")


class ReferenceTokenizer(Protocol):
    """The reference of the candidate tokenizer.

    Attributes:
        name: Its name in reports.
        steps: The steps of text preparation that can be left out, in order.
    """

    name: str
    steps: tuple[str, ...]

    @property
    def respelled(self) -> frozenset[int]:
        """Return the ids whose text is not compared."""
        ...

    @property
    def added(self) -> Mapping[int, str]:
        """Return the texts of its added tokens by id; `<unk>` may be among them."""
        ...

    @property
    def exempt(self) -> Mapping[str, str]:
        """Its parts that are replaced and so not compared, each with the reason."""
        ...

    @property
    def tokens(self) -> Mapping[int, str]:
        """Return every token by id."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids, and offsets if this side has them."""
        ...

    def words(self, text: str) -> list[str]:
        """Return the words of a text."""
        ...

    def words_without(self, step: str, text: str) -> list[str]:
        """Return its words with one step left out."""
        ...


@dataclasses.dataclass(frozen=True)
class Raised:
    """An exception where a result is due; `error` is its type and message in ASCII."""

    error: str


def attempt(function: Callable[..., T], *given: Any) -> T | Raised:  # noqa: ANN401 - of any function
    """Return the result of a function of either side, or its exception."""
    try:
        return function(*given)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
        message = ascii(message_of(error)[:200])[1:-1]
        return Raised(f"{type(error).__name__}: {message}")


@dataclasses.dataclass(frozen=True)
class Wrong(Encoding):
    """An encoding that cannot be right, whatever the reference gives: the step, and the reason."""

    step: str
    why: str


class CandidateTokenizer:
    """This project's tokenizer."""

    name = "ours"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def fresh(self, vocabulary: Vocabulary | None = None) -> Tokenizer:
        """Return such a tokenizer with an empty cache, of another vocabulary if one is given."""
        mine = self.tokenizer
        return type(mine)(vocabulary or mine.vocabulary, pretokenizer=mine.pretokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and offsets, `Wrong` if its ways to encode differ or raise."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Encoding:
        given = attempt(self.tokenizer.encode, text)
        if isinstance(given, Raised):
            return Wrong((), None, "exception", f"our encode raises {given.error}")
        if kinds := {type(given), *map(type, given)} - {list, int}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            return Wrong((), None, "ids", f"encode does not return a list of int, but has {names}")
        ids = tuple(given)
        again = attempt(self.tokenizer.encode, text)
        if again is given or again != given:
            what = "its own list, which the caller can change" if again is given else "other ids"
            return Wrong(ids, None, "word cache", f"encode gives a text the second time {what}")
        located = attempt(self.tokenizer.encode_with_offsets, text)
        if isinstance(located, Raised):
            return Wrong(ids, None, "exception", f"our encode_with_offsets raises {located.error}")
        if located[0] != given:
            why = "encode and encode_with_offsets do not give the same ids"
            return Wrong(ids, None, "ids", why)
        return Encoding(ids, tuple(located[1]))

    def words(self, text: str) -> list[str]:
        """Return the words of a text; a special token is a word of its own."""
        found: list[str] = []
        pretokenizer = self.tokenizer._split  # noqa: SLF001 - the one that it splits with
        parts = text.split(UNKNOWN) if pretokenizer.keeps_unknown else [text]
        for number, part in enumerate(parts):
            found += [UNKNOWN] if number else []
            found += pretokenizer.words(part)
        return found


class HuggingFace(HuggingFaceTokenizer):
    """Hugging Face's tokenizer, which prepares text in four steps."""

    name = "huggingface"
    steps = tuple(STEPS)

    @property
    def exempt(self) -> Mapping[str, str]:
        """The version's own normalizer, if BERT's replaces it, and the tokens it respells."""
        why = "the library's decoder gives the normalized text of such an added token"
        found = {f"decoding of {self.added[n]!a}": why for n in sorted(self.respelled)}
        if not self.replaced:
            return found
        why = compat.DIFFERENCES["normalizer of three"].why
        what = f"the {self.replaced} of transformers {compat.describe('transformers')}"
        return found | {what: f"the reference uses BERT's normalizer instead; {why}"}

    @functools.cached_property
    def tokens(self) -> Mapping[int, str]:
        """Every token by id."""
        return dict(enumerate(self.pieces(range(len(self.tokenizer))))) | self.added

    @functools.cached_property
    def respelled(self) -> frozenset[int]:
        """The ids of added tokens whose text is another in the library's decoder."""
        return frozenset(n for n, text in self.added.items() if self.pieces([n]) != [text])

    def words_without(self, step: str, text: str) -> list[str]:
        """Return the words with one step of the normalizer left out."""
        return words_without(step, text)


class NotMadeError(Exception):
    """Our tokenizer could not be made, by no fault of the files: the method, and its error."""


@contextlib.contextmanager
def making(
    method: str, given: tuple[type[Exception], ...] = (CommandError, OSError)
) -> Iterator[None]:
    """Raise errors of the method that makes our tokenizer, but those of what was given to it."""
    try:
        yield
    except given:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {message_of(error)}"
        raise NotMadeError(method, f"our Tokenizer.{method} raises {found}") from error


class ReleaseTokenizer:
    """A re-implementation of the released code; it has no offsets.

    Raises:
        ModuleNotFoundError: ftfy or spaCy is not installed.
    """

    name = "transcription"
    steps: tuple[str, ...] = ("newlines", "text repair", "lower case")
    exempt: Mapping[str, str] = MappingProxyType({})
    respelled: frozenset[int] = frozenset()

    def __init__(
        self, vocabulary: Path, merges: Path, added: Mapping[int, Any] = MappingProxyType({})
    ) -> None:
        self._slow = OriginalTokenizer(vocabulary, merges, added=added)
        self.added = {number: str(token) for number, token in added.items()}
        self.tokens = {number: token for token, number in self._slow.ids.items()} | self.added
        self._ids = functools.lru_cache(1 << 16)(self._ids_of)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, by its definition: the release has no decoder."""
        return decode(self.tokens, ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids."""
        return [Encoding(self._encode(text), None) for text in texts]

    def words(self, text: str) -> list[str]:
        """Return the words; a newline without the space that spaCy adds."""
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
        found: list[int] = []
        for part in self._slow.parts(text):
            if isinstance(part, int):
                found.append(part)
            else:
                found += (number for word in self._slow.words(part) for number in self._ids(word))
        return tuple(found)

    def _ids_of(self, word: str) -> tuple[int, ...]:
        unknown = self._slow.ids[UNKNOWN]
        return tuple(self._slow.ids.get(part, unknown) for part in self._slow.pieces(word))


# The vocabulary.


MERGES = 2_000
"""Merges of a vocabulary that is trained for the run."""

_WITHOUT = ("surrogate", "tiny")
"""Weights that have no vocabulary."""

_TRAINED = ("auto", *_WITHOUT)
"""Values of `--weights` for which a vocabulary is trained if none is found."""

PACKAGES = {"huggingface": ("transformers", "tokenizers"), "original": ("ftfy", "spacy")}
"""The packages that prepare text, by pretokenizer; a report has their versions."""


RELEASED = "4d977d745e027348785cbbdf97a206c6247f6489a51382b3a972dfd0233313f3"
"""`Tokenizer.digest` of the released vocabulary, whatever files it is in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundVocabulary:
    """A folder with a vocabulary; `source` is its origin, for the report."""

    folder: Path
    source: str

    def reference(self, tokenizer: Tokenizer) -> ReferenceTokenizer:
        """Return the reference of our tokenizer with this vocabulary, added tokens included."""
        hugging_face = HuggingFace(self.folder, size=tokenizer.vocab_size)
        if tokenizer.pretokenizer != "original":
            return hugging_face
        added = {n: t for n, t in hugging_face.added_tokens.items() if str(t) != UNKNOWN}
        with tempfile.TemporaryDirectory() as name:  # it reads two files, also of a single file
            folder = Path(name)
            write_vocabulary(folder, dataclasses.replace(tokenizer.vocabulary, added=()))
            vocabulary, merges = (folder / file for file in VOCABULARY_FILES)
            return ReleaseTokenizer(vocabulary, merges, added)

    def identity(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return vocabulary, files, pretokenizer and versions, for the report."""
        files = {name: (self.folder / name).read_bytes() for name in files_read(self.folder)}
        return {
            "vocabulary": {
                "source": self.source,
                "tokens": tokenizer.vocab_size,
                "added": len(tokenizer.vocabulary.added),
                "merges": len(tokenizer.vocabulary.merges),
                "digest": tokenizer.digest,
                "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
                "released": tokenizer.digest == RELEASED,
            },
            "pretokenizer": tokenizer.pretokenizer,
            "packages": {name: compat.describe(name) for name in PACKAGES[tokenizer.pretokenizer]},
        }


@contextlib.contextmanager
def choose_vocabulary(
    directory: Path | None, weights: str, texts: Iterable[str]
) -> Iterator[FoundVocabulary]:
    """Yield the given vocabulary, or the one beside the weights, or a trained one.

    Args:
        directory: The folder of `--vocabulary`.
        weights: The value of `--weights`: a folder, a file or a name of the released model. The
            released vocabulary is searched in the hub's cache; nothing is downloaded.
        texts: The texts on which a vocabulary is trained.

    Raises:
        InputRejectedError: The folder or the weights have no vocabulary, or do not exist.
        EnvironmentUnfitError: The released vocabulary is required and not in the cache.
        CheckpointError: There is only a `tokenizer.json`, and it is not GPT-1's.
        NotMadeError: Our tokenizer cannot be trained.
    """
    if directory is not None:
        yield _required(directory, f"--vocabulary {directory}", f"{directory}")
        return
    if (found := _beside(weights)) is not None:
        yield found
        return
    with tempfile.TemporaryDirectory() as name:
        with making("train", given=()):
            Tokenizer.train(texts, merges=MERGES).save_pretrained(name)
            Tokenizer.from_pretrained(name)
        source = f"trained for this run: {MERGES:,} merges of the standard library's words"
        yield _required(Path(name), "the trained one", source)


def missing_vocabulary(weights: str) -> str:
    """Return why there is no vocabulary beside weights; "" if there is one, or one is trained."""
    try:
        _beside(weights)
    except InputRejectedError as error:
        return error.what
    return ""


def _beside(weights: str) -> FoundVocabulary | None:
    """Return the vocabulary of the weights; None if one must be trained."""
    if weights in _WITHOUT:
        return None
    if weights in _TRAINED or weights in published.REPOSITORIES:
        return _cached(weights)
    path = Path(weights)
    if not path.exists():
        raise InputRejectedError(
            "there is no such file or folder, so no vocabulary beside it",
            where=f"--weights {weights}",
            fix="correct the path, or give a vocabulary's folder with --vocabulary",
        )
    folder = path if path.is_dir() else path.parent
    return _required(folder, f"--weights {weights}", f"beside {weights}")


def _cached(weights: str) -> FoundVocabulary | None:
    """Return the released vocabulary from the hub's cache; None if it is missing and optional."""
    for repository in reversed(published.REPOSITORIES):
        for snapshot in _snapshots(Path(constants.HF_HUB_CACHE), repository):
            found = _in(snapshot, f"the hub's cache, {repository}")
            if found is not None:
                return found
    if weights in _TRAINED:
        return None
    raise EnvironmentUnfitError(
        "the released vocabulary is not in the hub's cache",
        where=f"--weights {weights}",
        fix="give its folder with --vocabulary, or fetch the weights once with "
        "`python -m parity.check weights --weights openai-gpt`",
    )


def _snapshots(cache: Path, repository: str) -> list[Path]:
    """Return a repository's snapshots: main's first, then that of the published revision."""
    home = hub.storage(cache, repository) / "snapshots"
    first = hub.commit(cache, repository, "main"), published.REVISION
    known = [home / commit for commit in first if commit is not None]
    return list(dict.fromkeys([*known, *sorted(home.glob("*"))]))


def _required(folder: Path, where: str, source: str) -> FoundVocabulary:
    found = _in(folder, source)
    if found is None:
        raise InputRejectedError(
            "there is no vocabulary in the folder",
            where=where,
            fix=f"name a folder with --vocabulary that holds {' and '.join(VOCABULARY_FILES)}, "
            f"{' and '.join(VOCABULARY_FILES.values())}, or {SINGLE_FILE}",
        )
    return found


def _in(folder: Path, source: str) -> FoundVocabulary | None:
    """Return the vocabulary of a folder, under either publication's names; None without any."""
    kinds = (tuple(VOCABULARY_FILES), tuple(VOCABULARY_FILES.values()), (SINGLE_FILE,))
    if any(all(os.path.lexists(folder / name) for name in names) for names in kinds):
        return FoundVocabulary(folder=folder, source=source)
    return None
