"""What weights are and where they came from, as every verdict says it."""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights came from.

    Attributes:
        source: What they are, in words.
        revision: Which edition: a commit, or `unknown`.
        sha256: Over every tensor's name and float32 bytes, whatever file they stood in.
        dtype: Type they were stored in.
        files: Every file read; none for drawn weights.
    """

    source: str
    revision: str
    sha256: str
    dtype: str = "float32"
    files: Sequence[FileDigest] = ()

    @property
    def standing(self) -> Standing:
        """Whether all files are published ones; one that differs decides."""
        standings = {file.standing for file in self.files}
        if Standing.DIFFERS in standings:
            return Standing.DIFFERS
        return Standing.KNOWN if standings == {Standing.KNOWN} else Standing.UNKNOWN

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
