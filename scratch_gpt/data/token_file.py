"""Tokens as they lie in a file: ids one after the other, two or four bytes each, low byte first."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.shown import one_line

NAME = "tokens.bin"

_PIECE = 1 << 20
_BLOCK = 1 << 12
_BLOCKS = 256


def in_bytes(ids: list[int], bytes_per_token: int) -> bytes:
    """Return the ids as they lie in the file."""
    return np.array(ids, dtype=f"<u{bytes_per_token}").tobytes()


def mapped(path: Path, *, tokens: int, bytes_per_token: int) -> NDArray[np.unsignedinteger]:
    """Return a file's ids `[tokens]`, read from the disk as they are looked at.

    Raises:
        CheckpointError: There is no such file, or it is not as long as that.
    """
    with opened(path) as file:
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
    with opened(path) as file:
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
    with opened(path) as file:
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
