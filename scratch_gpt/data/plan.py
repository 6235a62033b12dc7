"""What a preparation sets out to do, and how far it has come: two small files."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import TypeVar

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import dataclass_from_json, open_regular
from scratch_gpt.data.dataset import Recipe, Source
from scratch_gpt.errors import CheckpointError, one_line

POSITION = "position.json"
_MOST_DOCUMENTS_SHOWN = 3

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What tokens are to be made of, and how.

    Attributes:
        format: The manifest's `FORMAT`.
        recipe: What decides which tokens there are, text apart.
        sources: The documents in their order.
    """

    format: int
    recipe: Recipe
    sources: tuple[Source, ...]

    def against(self, asked: "Plan") -> dict[str, tuple[object, object]]:
        """Return by name what is here and what is asked for, recipe and documents."""
        here, there = (dataclasses.asdict(plan.recipe) for plan in (self, asked))
        pairs = {"format": (self.format, asked.format)}
        pairs |= {name: (here[name], there[name]) for name in here}
        return pairs | _differing_documents(self.sources, asked.sources)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """How far a preparation has come; whatever is beyond it is made again.

    Attributes:
        document: Documents that are done.
        offset: Bytes of the next document that are done.
        prefix_sha256: The digest of those bytes.
        tokens: Tokens that are written.
        unknown: How many of them are unknown.
        crc32: Checksum of their bytes.
    """

    document: int = 0
    offset: int = 0
    prefix_sha256: str = ""
    tokens: int = 0
    unknown: int = 0
    crc32: int = 0


def write(path: Path, value: Plan | Position) -> None:
    """Write a small file so that after a crash it is there as it was before or as it is now.

    Raises:
        OSError: It cannot be written.
    """
    replace(path, json.dumps(dataclasses.asdict(value)) + "\n")


def replace(path: Path, text: str) -> None:
    """Put a file with that text in the place of `path`, on the disk before it has the name.

    Raises:
        OSError: It cannot be written; what was there is there.
    """
    beside = path.with_name(f"{path.name}.partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read(path: Path, kind: type[T]) -> T:
    """Return the plan or the position that a file holds.

    Raises:
        CheckpointError: There is no such file, or it does not hold that.
    """
    with open_regular(path) as file:
        text = file.read()
    try:
        return dataclass_from_json(kind, strict_io.load_strict_json(text))
    except ValueError as error:
        raise CheckpointError(
            f"{path.name}: {one_line(error)}",
            where=one_line(path),
            fix="remove the folder and prepare the text anew",
        ) from error


def _differing_documents(
    here: tuple[Source, ...], there: tuple[Source, ...]
) -> dict[str, tuple[object, object]]:
    """Return the first documents in which two lists differ, by their places."""
    both = itertools.zip_longest(map(_told, here), map(_told, there))
    differing = [(place, pair) for place, pair in enumerate(both, 1) if pair[0] != pair[1]]
    return {f"document {place}": pair for place, pair in differing[:_MOST_DOCUMENTS_SHOWN]}


def _told(source: Source) -> str:
    return f"{source.name} (SHA-256 {source.sha256[:12]}...)"
