"""What weights are and where they came from, as every verdict says it."""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from reference import published


class Standing(StrEnum):
    """How a file stands to those that were published."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    DIFFERS = "differs from the published file"


_STANDINGS = {
    "known": Standing.KNOWN,
    "unknown": Standing.UNKNOWN,
    "differs": Standing.DIFFERS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One file that weights were read from.

    Attributes:
        name: Its name, without folders.
        size: In bytes.
        sha256: Of its bytes.
        git_blob: SHA-1 that git gives its bytes, where a published one is known by that.
        standing: Whether these are the published bytes.
    """

    name: str
    size: int
    sha256: str
    git_blob: str | None = None
    standing: Standing = Standing.UNKNOWN

    def judged(self, *, released: bool) -> "FileDigest":
        """Return the same with its standing.

        Args:
            released: Whether the file is said to be the released model's, so that a published
                name claims the published bytes.
        """
        found = published.standing(
            self.name, sha256=self.sha256, git_blob=self.git_blob, released=released
        )
        return dataclasses.replace(self, standing=_STANDINGS[found])


_TENSORS = {".safetensors", ".bin", ".pt", ".pth", ".npy"}
"""Endings of files that hold tensors; a config or an index beside them has no published digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights came from.

    Attributes:
        source: What they are, in words.
        revision: Which edition: a commit, or `unknown`.
        sha256: Over every tensor's name and float32 bytes, whatever file they stood in.
        dtype: Type they were stored in.
        files: Every file read; none for drawn weights.
        released_config: Whether every field of the config that decides a number is the released
            model's.
    """

    source: str
    revision: str
    sha256: str
    dtype: str = "float32"
    files: Sequence[FileDigest] = ()
    released_config: bool = True

    @property
    def standing(self) -> Standing:
        """Whether the weights are the published ones.

        One file that differs decides. Else all files with tensors must be published ones, and
        the config must be theirs: no tensor knows how many heads there are.
        """
        if Standing.DIFFERS in {file.standing for file in self.files}:
            return Standing.DIFFERS
        held = {file.standing for file in self.files if PurePath(file.name).suffix in _TENSORS}
        known = held == {Standing.KNOWN} and self.released_config
        return Standing.KNOWN if known else Standing.UNKNOWN

    @property
    def identity(self) -> dict[str, Any]:
        """Return what a report says about the weights."""
        return {
            "source": self.source,
            "revision": self.revision,
            "sha256": self.sha256,
            "dtype": self.dtype,
            "provenance": str(self.standing),
            "files": [dataclasses.asdict(file) for file in self.files],
        }
