"""Regular files: opened without blocking, digested, written, with errors that name the fix."""

import contextlib
import dataclasses
import errno
import hashlib
import operator
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from reference.errors import RejectedError, SourceError, UnavailableError

_CHUNK = 1 << 22
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without O_NONBLOCK, opening a pipe waits until another process writes into it."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigestedFile:
    """Digests of a file: its name without folders, its size in bytes, and two hashes."""

    name: str
    size: int
    sha256: str
    git_blob: str  # the SHA-1 that `git hash-object` prints


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Yield a regular file, open for reading and unbuffered, and its size in bytes.

    Raises:
        RejectedError: There is none, or it is a folder, a pipe or a device.
        UnavailableError: It may not be read, or reading failed.
    """
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "folder" if stat.S_ISDIR(status.st_mode) else "device"
                what = f"{path.name} is a {kind}, not a file"
                raise RejectedError(what, where=str(path), fix="give the file itself")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                yield file, status.st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the bytes of a small file.

    Raises:
        RejectedError: It holds more than `limit` bytes, or it is no regular file.
        UnavailableError: It cannot be read.
    """
    with open_plain(path) as (file, size):
        if size > limit:
            what = f"{path.name} has {size:,} bytes, more than the limit of {limit:,}"
            raise RejectedError(what, where=str(path), fix="replace it by the published file")
        return file.read(limit) or b""


def require_memory(needed: int, where: str) -> None:
    """Require a machine with `needed` bytes of memory, free or not.

    Raises:
        UnavailableError: It has less.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return
    if needed > memory:
        what = f"the numbers take {needed:,} bytes; this machine has {memory:,} bytes of memory"
        raise UnavailableError(what, where=where, fix="use another machine")


def digest_file(name: str, *parts: bytes | memoryview) -> DigestedFile:
    """Return the digests of a file whose bytes are `parts`, one after another."""
    return _digest(name, sum(memoryview(part).nbytes for part in parts), parts)


def digest_path(path: Path) -> DigestedFile:
    """Return the digests of a file of any size, read piece by piece.

    Raises:
        RejectedError: There is no such regular file, or it changed while it was read.
        UnavailableError: It cannot be read.
    """
    done = 0
    with open_plain(path) as (file, size):

        def chunks() -> Iterator[bytes]:
            nonlocal done
            while chunk := file.read(_CHUNK):
                done += len(chunk)
                yield chunk

        found = _digest(path.name, size, chunks())
    if done != size:
        what = f"{path.name} changed while it was read"
        raise RejectedError(what, where=str(path), fix="try again when nothing writes to it")
    return found


def _digest(name: str, size: int, parts: Iterable[bytes | memoryview]) -> DigestedFile:
    """Return both digests of `size` bytes in parts; each part is hashed by two threads.

    Source: the object format of git, `blob`, the size in decimal, a zero byte, the contents.
    """
    sha256, git_blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for part in parts:
            list(pool.map(operator.methodcaller("update", part), (sha256, git_blob)))
    return DigestedFile(
        name=name, size=size, sha256=sha256.hexdigest(), git_blob=git_blob.hexdigest()
    )


def write_bytes(path: Path, parts: Sequence[bytes | memoryview]) -> DigestedFile:
    """Write `parts` one after another as the file at `path`; return its digests.

    Raises:
        UnavailableError: The folder cannot be written to, or the disk is full.
    """
    try:
        with path.open("wb") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise to_write_error(path, error) from error
    return digest_file(path.name, *parts)


def to_write_error(path: Path, error: OSError) -> UnavailableError:
    """Return the error of a failed write at `path`."""
    if is_full(error):
        what = f"the disk is full: {path.name} is not complete"
        return UnavailableError(what, where=str(path), fix="make room, or choose another folder")
    what = f"{path.name} cannot be written: {error.strerror or type(error).__name__}"
    return UnavailableError(what, where=str(path), fix="choose a folder you may write to")


def is_full(error: Exception) -> bool:
    """Return whether there was no space: on the disk, in the file, or in the user's quota."""
    return getattr(error, "errno", None) in _FULL


def _unreadable(path: Path, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        what = f"there is no file {path.name}"
        if path.is_symlink():
            what = f"{path.name} is a symbolic link to nothing"
        return RejectedError(what, where=str(path), fix="give a complete copy of the files")
    what = f"{path.name} cannot be read: {error.strerror or type(error).__name__}"
    return UnavailableError(what, where=str(path), fix="check its permissions and the disk")
