"""Opening a file that may be anything: a folder, a pipe, a link to nowhere."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from scratch_gpt.files.refusal import CheckpointError, UnreadableError
from scratch_gpt.files.shown import one_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

# A named pipe would make open() wait for a writer; Windows has neither such pipes nor the flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or what a link leads to, for reading; never wait.

    Raises:
        CheckpointError: There is no such file, it is no regular file, or it may not be read.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unopened(path, error) from error
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            raise CheckpointError(
                f"it is {_KINDS.get(kind, 'something else')}, not a file",
                where=one_line(path),
                fix="give the path of a regular file",
            )
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _unopened(path: Path, error: OSError | ValueError) -> CheckpointError:
    """Return the refusal of a path that could not be opened."""
    dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
    reason = getattr(error, "strerror", None) or str(error)
    known: tuple[tuple[bool, str, str], ...] = (
        (dangling, "it is a link to a file that does not exist", "mend the link or fetch the file"),
        (isinstance(error, FileNotFoundError), "there is no such file", "check the path"),
        (isinstance(error, PermissionError), "it may not be read", "change its permissions"),
        (True, f"it cannot be opened: {reason}", "check the path"),
    )
    what, fix = next((what, fix) for applies, what, fix in known if applies)
    kind = UnreadableError if isinstance(error, PermissionError) else CheckpointError
    return kind(what, where=one_line(path), fix=fix)
