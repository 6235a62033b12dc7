"""Prepared text: a folder with a file of tokens and what is known about it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import dataclass_from_json, open_regular
from scratch_gpt.errors import CheckpointError, one_line, quote

# Tokens as they lie in a file: ids one after the other, two or four bytes each, low byte first.


TOKENS_FILE = "tokens.bin"

_PIECE = 1 << 20
_BLOCK = 1 << 12
_BLOCKS = 256


def token_bytes(ids: list[int], bytes_per_token: int) -> bytes:
    """Return the ids as they lie in the file."""
    return np.array(ids, dtype=f"<u{bytes_per_token}").tobytes()


def map_tokens(path: Path, *, tokens: int, bytes_per_token: int) -> NDArray[np.unsignedinteger]:
    """Return a file's ids `[tokens]`, read from the disk as they are looked at.

    Raises:
        CheckpointError: There is no such file, or it is not as long as that.
    """
    with open_regular(path) as file:
        size, expected = file.seek(0, 2), tokens * bytes_per_token
        if size != expected:
            raise CheckpointError(
                f"it has {size} bytes, and {tokens} tokens take {expected}",
                where=one_line(path),
                fix="prepare the text again, in another folder",
            )
        if not tokens:  # nothing cannot be mapped
            return np.zeros(0, f"<u{bytes_per_token}")
        return np.memmap(file, dtype=f"<u{bytes_per_token}", mode="r")


def sha256(path: Path) -> str:
    """Return the digest of all of a file."""
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """Return the digest of a file's length and of blocks that lie all over it.

    A file of up to a megabyte is digested in whole; of a larger one 256 blocks of 4 KiB are,
    the first and the last among them. It takes no time, and finds what a broken disk or another
    file of that name has in many places, not a single byte that was changed.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for start in _block_starts(size):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _block_starts(size: int) -> Iterator[int]:
    if size <= _BLOCKS * _BLOCK:
        yield from range(0, size, _BLOCK)
    else:
        last = size - _BLOCK
        yield from (last * block // (_BLOCKS - 1) for block in range(_BLOCKS))


# What is known about a file of tokens: `manifest.json`, read strictly.


MANIFEST_FILE = "manifest.json"
PLAN = "plan.json"
"""What a preparation sets out to do; there until it is done."""

FORMAT = 1
"""Raised whenever the files change their meaning; others are refused."""

_LARGEST = 1 << 28
_TWO_BYTES = 1 << 16
_MOST_IDS = 1 << 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A document that tokens were made of.

    Attributes:
        name: Its path from the folder that was given, that folder's name first.
        length: In bytes.
        sha256: Of its bytes.
    """

    name: str
    length: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides which tokens there are, text apart.

    Attributes:
        vocabulary: The tokenizer's digest.
        pretokenizer: The tokenizer's way of splitting text into words.
        vocab_size: How many ids it has.
        errors: What was done about bytes that are no UTF-8: `strict` or `replace`.
        validation_fraction: The share of tokens at the end that is not trained on.
    """

    vocabulary: str
    pretokenizer: str
    vocab_size: int
    errors: str
    validation_fraction: float

    @property
    def bytes_per_token(self) -> int:
        """Two as long as every id fits into them, else four."""
        return 2 if self.vocab_size <= _TWO_BYTES else 4

    def validation_tokens(self, tokens: int) -> int:
        """Return how many of `tokens` are the validation part: the last ones."""
        return int(tokens * self.validation_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about a file of tokens.

    Attributes:
        format: `FORMAT`.
        recipe: What decides which tokens there are.
        tokens: How many there are.
        validation: How many of them, the last ones, are the validation part.
        unknown: How many stand for a word or a part of one that the vocabulary does not have.
        characters: How many characters they were made of.
        replaced: How many U+FFFD stand for bytes that were no UTF-8.
        sha256: Of the file of tokens.
        sampled_sha256: Of blocks of it, for a look that takes no time.
        sources: The documents in their order.
    """

    format: int
    recipe: Recipe
    tokens: int
    validation: int
    unknown: int
    characters: int
    replaced: int
    sha256: str
    sampled_sha256: str
    sources: tuple[Source, ...]

    @property
    def train(self) -> int:
        """How many tokens, the first ones, are trained on."""
        return self.tokens - self.validation

    @property
    def text(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest in a file.

        Raises:
            CheckpointError: There is no such file, or not each of its fields and no other one is
                there and agrees with the rest.
        """
        with open_regular(path) as file:
            text = file.read(_LARGEST)
        try:
            manifest = dataclass_from_json(cls, strict_io.load_strict_json(text))
            _require_consistent(manifest)
        except ValueError as error:
            raise CheckpointError(
                f"{path.name}: {one_line(error)}",
                where=one_line(path),
                fix="prepare the text again, in another folder",
            ) from error
        return manifest


def _require_consistent(manifest: Manifest) -> None:
    """Require that what can be told from other fields is what the field says."""
    recipe = manifest.recipe
    wrong = (
        ("format", manifest.format != FORMAT),
        ("errors", recipe.errors not in {"strict", "replace"}),
        ("vocab_size", not 0 < recipe.vocab_size <= _MOST_IDS),
        ("validation_fraction", not recipe.validation_fraction < 1),
        ("validation", manifest.validation != recipe.validation_tokens(manifest.tokens)),
        ("unknown", manifest.unknown > manifest.tokens),
        ("replaced", manifest.replaced > manifest.characters),
    )
    if names := [name for name, is_wrong in wrong if is_wrong]:
        raise ValueError(f"not what the rest of it tells: {', '.join(names)}")


Tokens = NDArray[np.unsignedinteger]

_DIGEST = 64  # letters


@runtime_checkable
class Identity(Protocol):
    """What tells one tokenizer from another."""

    @property
    def digest(self) -> str:
        """SHA-256 over vocabulary and merges."""

    @property
    def pretokenizer(self) -> str:
        """The way of splitting text into words."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenData:
    """Prepared text, read from the disk as it is looked at.

    Attributes:
        directory: Where it lies.
        manifest: What is known about it.
        train: Ids `[tokens]` to learn from; they cannot be written to.
        validation: Ids `[tokens]` to be tested on: those that follow.
    """

    directory: Path
    manifest: Manifest
    train: Tokens
    validation: Tokens

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "TokenData":
        """Return what was prepared in a folder.

        The file of tokens must have the length and, in sampled blocks, the digest that the
        manifest tells; `verify` reads all of it.

        Raises:
            CheckpointError: A file is missing, cut short, edited or unsound, or the preparation
                has not come to its end.
        """
        folder = Path(directory)
        _require_finished(folder)
        manifest = Manifest.read(folder / MANIFEST_FILE)
        width = manifest.recipe.bytes_per_token
        path = folder / TOKENS_FILE
        tokens = map_tokens(path, tokens=manifest.tokens, bytes_per_token=width)
        _require_digest(path, manifest.sampled_sha256, sampled_sha256(path))
        train, validation = tokens[: manifest.train], tokens[manifest.train :]
        return cls(directory=folder, manifest=manifest, train=train, validation=validation)

    def verify(self) -> None:
        """Read every token and compare with the manifest's digest.

        Raises:
            CheckpointError: They are not those that were prepared.
        """
        path = self.directory / TOKENS_FILE
        _require_digest(path, self.manifest.sha256, sha256(path))

    def require(self, tokenizer: Identity) -> None:
        """Require that the tokens are this tokenizer's.

        Raises:
            CheckpointError: They are another's; what differs is said.
        """
        recipe = self.manifest.recipe
        pairs = {
            "vocabulary": (recipe.vocabulary, tokenizer.digest),
            "pretokenizer": (recipe.pretokenizer, tokenizer.pretokenizer),
            "vocab_size": (recipe.vocab_size, tokenizer.vocab_size),
        }
        require_same(pairs, self.directory, "it was prepared with another tokenizer")


def require_same(pairs: dict[str, tuple[object, object]], directory: Path, what: str) -> None:
    """Require that what a folder has is what is asked for.

    Args:
        pairs: By name, what the folder has and what is asked for.
        directory: The folder.
        what: What it means that they differ.

    Raises:
        CheckpointError: They differ; each difference is listed.
    """
    differing = [
        f"{name} {_short(has)}, not {_short(asked)}"
        for name, (has, asked) in pairs.items()
        if has != asked
    ]
    if differing:
        raise CheckpointError(
            f"{what}: {'; '.join(differing)}",
            where=one_line(directory),
            fix="ask for what is there, or choose another folder",
        )


def _short(value: object) -> str:
    """Return a value on one line, of a digest the beginning."""
    is_digest = isinstance(value, str) and len(value) == _DIGEST
    return f"{str(value)[:12]}..." if is_digest and str(value).isalnum() else quote(value)


def _require_finished(folder: Path) -> None:
    if (folder / PLAN).exists() and not (folder / MANIFEST_FILE).exists():
        raise CheckpointError(
            "its preparation has not come to its end",
            where=one_line(folder),
            fix="prepare it again: it goes on from where it was",
        )


def _require_digest(path: Path, expected: str, found: str) -> None:
    if expected != found:
        raise CheckpointError(
            f"its bytes are not those that were prepared: digest {found[:12]}, not {expected[:12]}",
            where=one_line(path),
            fix="prepare the text again, in another folder",
        )


# What the best guess that looks at no context loses: the mark that a trained model must beat.


_ENTROPY_CHUNK = 1 << 20  # tokens counted at a time, so that a mapped file is never read in whole


def unigram_loss(
    train: NDArray[np.integer], validation: NDArray[np.integer], *, vocab_size: int
) -> float:
    """Return what guessing by frequency loses, in nats per token.

    A token's probability is its share among the training tokens, every count raised by one: a
    token that is only in the validation part has a loss too, not an infinite one.

        -mean over validation of log((count + 1) / (tokens + vocab_size))

    Args:
        train: Ids `[tokens]`, each below `vocab_size`.
        validation: Ids `[tokens]`, at least one.
        vocab_size: How many different ids there are.

    Raises:
        ValueError: There is no validation token, or an id is outside the vocabulary.

    Source: Laplace's rule of succession.
    """
    if not validation.shape[0]:
        raise ValueError("there is no validation token")
    seen, asked = (_counts(tokens, vocab_size) for tokens in (train, validation))
    probabilities = (seen + 1) / (int(seen.sum()) + vocab_size)
    return float(-(asked * np.log(probabilities)).sum() / validation.shape[0])


def _counts(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    """Return how often each id occurs `[vocab_size]`."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.shape[0], _ENTROPY_CHUNK):
        piece = np.bincount(tokens[start : start + _ENTROPY_CHUNK], minlength=vocab_size)
        if piece.shape[0] > vocab_size:
            raise ValueError(f"id {piece.shape[0] - 1} is outside a vocabulary of {vocab_size}")
        counts += piece
    return counts
