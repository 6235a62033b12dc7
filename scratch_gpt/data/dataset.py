"""Prepared text: a folder with `tokens.bin` and its `manifest.json`.

`tokens.bin` holds the ids, two or four bytes each, low byte first.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import dataclass_from_json, open_regular
from scratch_gpt.errors import CheckpointError, one_line, quote

TOKENS_FILE = "tokens.bin"

_BLOCK = 1 << 12
_BLOCKS = 256


def token_bytes(ids: list[int], bytes_per_token: int) -> bytes:
    """Return the ids as the file has them."""
    return np.array(ids, dtype=f"<u{bytes_per_token}").tobytes()


def map_tokens(path: Path, *, tokens: int, bytes_per_token: int) -> NDArray[np.unsignedinteger]:
    """Return a file's ids `[tokens]`, mapped into memory.

    Raises:
        CheckpointError: There is no such file, or it has another length.
    """
    with open_regular(path) as file:
        size, expected = file.seek(0, 2), tokens * bytes_per_token
        if size != expected:
            raise _damaged(path, f"it has {size} bytes, and {tokens} tokens take {expected}")
        if not tokens:  # an empty file cannot be mapped
            return np.zeros(0, f"<u{bytes_per_token}")
        return np.memmap(file, dtype=f"<u{bytes_per_token}", mode="r")


def sha256(path: Path) -> str:
    """Return the digest of a whole file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # BinaryIO lacks readinto


def sampled_sha256(path: Path) -> str:
    """Return the digest of a file's length and of 256 blocks of 4 KiB, spread evenly over it.

    A file of up to a megabyte is digested whole. The digest takes milliseconds and detects another
    file of that name, or damage in many places; it can miss a single changed byte.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        starts: Iterable[int] = range(0, size, _BLOCK)
        if size > _BLOCKS * _BLOCK:
            starts = ((size - _BLOCK) * block // (_BLOCKS - 1) for block in range(_BLOCKS))
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


# The manifest.


MANIFEST_FILE = "manifest.json"

FORMAT = 1
"""Raised whenever the files change their meaning; other values are rejected."""

_LARGEST = 1 << 28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A document: its path from the folder that was given, its bytes, and their digest."""

    name: str
    length: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The tokenizer and settings that made the tokens."""

    vocabulary: str  # the tokenizer's digest
    pretokenizer: str  # a key of `scratch_gpt.tokenizer.pretokenizers.PRETOKENIZERS`
    vocab_size: int
    errors: str  # treatment of bytes that are not UTF-8: `strict` or `replace`
    validation_fraction: float  # of the tokens

    @property
    def bytes_per_token(self) -> int:
        """Two if every id fits into two bytes, otherwise four."""
        return 2 if self.vocab_size <= 1 << 16 else 4

    def validation_tokens(self, tokens: int) -> int:
        """Return how many of `tokens`, the last ones, are the validation part."""
        return int(tokens * self.validation_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a file of tokens; every number but `format` is a count."""

    format: int
    recipe: Recipe
    tokens: int
    validation: int  # of the tokens, the last ones
    unknown: int  # of the tokens
    characters: int  # of the text
    replaced: int  # U+FFFD in the text, for bytes that were not UTF-8
    sha256: str  # of the file of tokens
    sampled_sha256: str  # see the function of that name
    sources: tuple[Source, ...]  # the documents in their order

    @property
    def train(self) -> int:
        """How many tokens, the first ones, are the training part."""
        return self.tokens - self.validation

    @property
    def text(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest in a file.

        Raises:
            CheckpointError: There is no such file, a field is missing or unknown, or two fields
                contradict each other.
        """
        with open_regular(path) as file:
            text = file.read(_LARGEST)
        try:
            manifest = dataclass_from_json(cls, strict_io.load_strict_json(text))
            _require_consistent(manifest)
        except ValueError as error:
            raise _damaged(path, f"{path.name}: {one_line(error)}") from error
        return manifest


def _require_consistent(manifest: Manifest) -> None:
    """Require that no field contradicts the others."""
    recipe = manifest.recipe
    wrong = (
        ("format", manifest.format != FORMAT),
        ("errors", recipe.errors not in {"strict", "replace"}),
        ("vocab_size", not 0 < recipe.vocab_size <= 1 << 32),
        ("validation_fraction", not recipe.validation_fraction < 1),
        ("validation", manifest.validation != recipe.validation_tokens(manifest.tokens)),
        ("unknown", manifest.unknown > manifest.tokens),
        ("replaced", manifest.replaced > manifest.characters),
    )
    if names := [name for name, is_wrong in wrong if is_wrong]:
        raise ValueError(f"contradicts the other fields: {', '.join(names)}")


# The tokens.


Tokens = NDArray[np.unsignedinteger]

_DIGEST = 64  # letters


@runtime_checkable
class Identity(Protocol):
    """The part of a tokenizer that identifies it."""

    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def pretokenizer(self) -> str: ...  # noqa: D102
    @property
    def vocab_size(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenData:
    """Prepared text, mapped into memory, with the ids `[tokens]` of both parts, read-only."""

    directory: Path
    manifest: Manifest
    train: Tokens
    validation: Tokens

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "TokenData":
        """Return the prepared text of a folder.

        The length and the sampled digest of the tokens are compared with the manifest; `verify`
        compares the digest of the whole file.

        Raises:
            CheckpointError: A file is missing, cut short, edited or unsound.
        """
        folder = Path(directory)
        manifest = Manifest.read(folder / MANIFEST_FILE)
        width = manifest.recipe.bytes_per_token
        path = folder / TOKENS_FILE
        tokens = map_tokens(path, tokens=manifest.tokens, bytes_per_token=width)
        _require_digest(path, manifest.sampled_sha256, sampled_sha256(path))
        train, validation = tokens[: manifest.train], tokens[manifest.train :]
        return cls(directory=folder, manifest=manifest, train=train, validation=validation)

    def verify(self) -> None:
        """Read every token; raise CheckpointError if the digest is not the manifest's."""
        path = self.directory / TOKENS_FILE
        _require_digest(path, self.manifest.sha256, sha256(path))

    def require(self, tokenizer: Identity) -> None:
        """Require that this tokenizer made the tokens.

        Raises:
            CheckpointError: Another one did; the message lists the differences.
        """
        recipe = self.manifest.recipe
        pairs = {
            "vocabulary": (recipe.vocabulary, tokenizer.digest),
            "pretokenizer": (recipe.pretokenizer, tokenizer.pretokenizer),
            "vocab_size": (recipe.vocab_size, tokenizer.vocab_size),
        }
        require_same(pairs, self.directory, "it was prepared with another tokenizer")


def require_same(pairs: dict[str, tuple[object, object]], directory: Path, what: str) -> None:
    """Require that the folder's value and the requested one are equal, for each name in `pairs`.

    Raises:
        CheckpointError: They differ; the message begins with `what` and lists each difference.
    """
    differing = [
        f"{name} {_short(has)}, not {_short(wanted)}"
        for name, (has, wanted) in pairs.items()
        if has != wanted
    ]
    if differing:
        raise CheckpointError(
            f"{what}: {'; '.join(differing)}",
            where=one_line(directory),
            fix="ask for what is there, or choose another folder",
        )


def _short(value: object) -> str:
    """Return a value on one line; a digest is cut."""
    is_digest = isinstance(value, str) and len(value) == _DIGEST
    return f"{str(value)[:12]}..." if is_digest and str(value).isalnum() else quote(value)


def _require_digest(path: Path, expected: str, found: str) -> None:
    if expected != found:
        what = f"digest {found[:12]}, not {expected[:12]}"
        raise _damaged(path, f"its bytes are not those that were prepared: {what}")


def _damaged(path: Path, what: str) -> CheckpointError:
    fix = "prepare the text again, in another folder"
    return CheckpointError(what, where=one_line(path), fix=fix)


# The loss of guessing without context, which a trained model must beat.


_CHUNK = 1 << 20  # tokens counted at a time: a mapped file does not fit into memory


def unigram_loss(
    train: NDArray[np.integer], validation: NDArray[np.integer], *, vocab_size: int
) -> float:
    """Return the loss of guessing by frequency, in nats per token.

    A token's probability is its share of the training tokens, with every count raised by one:
    otherwise a token that is only in the validation part would have an infinite loss.

        -mean over validation of log((count + 1) / (tokens + vocab_size))

    Both parts are ids `[tokens]`.

    Raises:
        ValueError: There is no validation token, or an id is outside the vocabulary.

    Source: Laplace's rule of succession.
    """
    if not validation.shape[0]:
        raise ValueError("there is no validation token")
    seen, expected = (_counts(tokens, vocab_size) for tokens in (train, validation))
    probabilities = (seen + 1) / (int(seen.sum()) + vocab_size)
    return float(-(expected * np.log(probabilities)).sum() / validation.shape[0])


def _counts(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    """Return how often each id occurs `[vocab_size]`."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.shape[0], _CHUNK):
        piece = np.bincount(tokens[start : start + _CHUNK], minlength=vocab_size)
        if piece.shape[0] > vocab_size:
            raise ValueError(f"id {piece.shape[0] - 1} is outside a vocabulary of {vocab_size}")
        counts += piece
    return counts
