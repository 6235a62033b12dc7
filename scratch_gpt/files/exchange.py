"""Putting a folder in another's place in one step."""

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100
"""AT_FDCWD: paths are relative to the working folder."""

_RENAME_EXCHANGE = 2

# The kernel is too old, or the file system cannot do it.
_UNABLE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> None:
    """Let two folders that stand in the same one trade names.

    On Linux this is one step: whoever looks finds the one or the other. Where the system cannot
    do that, `other` is away for a moment between two renamings.

    Raises:
        OSError: It was not done; both have their old names.

    Source: rename(2), RENAME_EXCHANGE.
    """
    if not _at_once(one, other):
        _in_three_steps(one, other)


def _at_once(one: Path, other: Path) -> bool:
    """Exchange in one step; return whether the system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2 if _is_linux() else None
    except (AttributeError, OSError):  # a C library without it
        renameat2 = None
    if renameat2 is None:
        return False
    failed = renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE)
    number = ctypes.get_errno() if failed else 0
    if number and number not in _UNABLE:
        raise OSError(number, os.strerror(number), str(other))
    return not failed


def _is_linux() -> bool:
    return sys.platform.startswith("linux")


def _in_three_steps(one: Path, other: Path) -> None:
    """Exchange by renaming; the name in between is no staging folder's, so nobody sweeps it."""
    aside = one.with_name(f"{one.name}.replaced")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)
