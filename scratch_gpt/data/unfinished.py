"""A preparation under way, in the folder where its tokens are to be.

Tokens are appended to the file; now and then they are brought onto the disk, and then the
position is replaced. What a killed process wrote beyond the position is cut off by the next one.
The manifest is written last: without it nobody takes the file for tokens.
"""

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from scratch_gpt.checkpoint.atomic import to_write_error
from scratch_gpt.data import dataset
from scratch_gpt.data import dataset as manifest_file
from scratch_gpt.data import plan as plan_file
from scratch_gpt.data.dataset import Manifest
from scratch_gpt.data.plan import POSITION, Plan, Position

BETWEEN = (manifest_file.PLAN, POSITION)
"""Files that are there only until the manifest is."""


class Unfinished:
    """The tokens so far.

    Attributes:
        position: How far they go, those included that are not on the disk yet.
    """

    def __init__(self, folder: Path, plan: Plan, file: BinaryIO, position: Position) -> None:
        self.position = position
        self._folder = folder
        self._plan = plan
        self._file = file

    def append(self, ids: list[int], *, unknown: int) -> None:
        """Append tokens.

        Args:
            ids: The tokens.
            unknown: How many of them are unknown.

        Raises:
            WriteError: The file system refused.
        """
        content = dataset.token_bytes(ids, self._plan.recipe.bytes_per_token)
        with told(self._folder):
            self._file.write(content)
        self.position = dataclasses.replace(
            self.position,
            tokens=self.position.tokens + len(ids),
            unknown=self.position.unknown + unknown,
            crc32=zlib.crc32(content, self.position.crc32),
        )

    def reach(self, document: int, offset: int, prefix_sha256: str) -> None:
        """Note how much of the documents the tokens so far stand for."""
        self.position = dataclasses.replace(
            self.position, document=document, offset=offset, prefix_sha256=prefix_sha256
        )

    def keep(self) -> None:
        """Bring the tokens and then the position onto the disk.

        Raises:
            WriteError: The file system refused; what was kept before is.
        """
        with told(self._folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            plan_file.write(self._folder / POSITION, self.position)

    def finish(self, *, characters: int, replaced: int) -> None:
        """Write the manifest; with that the tokens are prepared.

        Raises:
            WriteError: The file system refused.
        """
        self.keep()
        path = self._folder / dataset.TOKENS_FILE
        manifest = Manifest(
            format=self._plan.format,
            recipe=self._plan.recipe,
            tokens=self.position.tokens,
            validation=self._plan.recipe.validation_tokens(self.position.tokens),
            unknown=self.position.unknown,
            characters=characters,
            replaced=replaced,
            sha256=dataset.sha256(path),
            sampled_sha256=dataset.sampled_sha256(path),
            sources=self._plan.sources,
        )
        with told(self._folder):
            plan_file.replace(self._folder / manifest_file.MANIFEST_FILE, manifest.text)
            _flush(self._folder)  # else the plan could be gone and the manifest not be there
            remove(self._folder, *BETWEEN)

    def discard(self) -> None:
        """Leave nothing behind, as if it had not begun.

        Raises:
            WriteError: The file system refused.
        """
        with told(self._folder):
            remove(self._folder, dataset.TOKENS_FILE, POSITION, manifest_file.PLAN)


def _flush(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path, *names: str) -> None:
    """Remove files of a preparation, and what is left of writing them.

    Raises:
        OSError: They cannot be removed.
    """
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.partial").unlink(missing_ok=True)


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Say what the file system's refusal to write means."""
    try:
        yield
    except OSError as error:
        raise to_write_error(error, folder) or error from error
