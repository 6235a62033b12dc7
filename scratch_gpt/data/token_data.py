"""Prepared text: a folder with a file of tokens and what is known about it."""

import dataclasses
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scratch_gpt.data import manifest as manifest_file
from scratch_gpt.data import token_file
from scratch_gpt.data.manifest import Manifest
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import one_line, shown

Tokens = NDArray[np.unsignedinteger]

_DIGEST = 64  # letters


@runtime_checkable
class Identity(Protocol):
    """What tells one tokenizer from another."""

    @property
    def digest(self) -> str:
        """SHA-256 over vocabulary and merges."""

    @property
    def splitting(self) -> str:
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
        manifest = Manifest.read(folder / manifest_file.NAME)
        width = manifest.recipe.bytes_per_token
        path = folder / token_file.NAME
        tokens = token_file.mapped(path, tokens=manifest.tokens, bytes_per_token=width)
        _require_digest(path, manifest.sampled_sha256, token_file.sampled_sha256(path))
        train, validation = tokens[: manifest.train], tokens[manifest.train :]
        return cls(directory=folder, manifest=manifest, train=train, validation=validation)

    def verify(self) -> None:
        """Read every token and compare with the manifest's digest.

        Raises:
            CheckpointError: They are not those that were prepared.
        """
        path = self.directory / token_file.NAME
        _require_digest(path, self.manifest.sha256, token_file.sha256(path))

    def require(self, tokenizer: Identity) -> None:
        """Require that the tokens are this tokenizer's.

        Raises:
            CheckpointError: They are another's; what differs is said.
        """
        recipe = self.manifest.recipe
        pairs = {
            "vocabulary": (recipe.vocabulary, tokenizer.digest),
            "splitting": (recipe.splitting, tokenizer.splitting),
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
    return f"{str(value)[:12]}..." if is_digest and str(value).isalnum() else shown(value)


def _require_finished(folder: Path) -> None:
    if (folder / manifest_file.PLAN).exists() and not (folder / manifest_file.NAME).exists():
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
