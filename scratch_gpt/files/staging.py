"""The folder in which a folder is prepared: beside its destination, under its owner's number."""

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

_NAME = re.compile(r"\.gpt1-(\d{1,9})-[0-9a-f]{8}\.partial")
_A_DAY = 24 * 60 * 60.0


def make_staging(parent: Path) -> Path:
    """Return a new, empty folder in `parent`, with the mode that the umask leaves."""
    staging = parent / f".gpt1-{os.getpid()}-{secrets.token_hex(4)}.partial"
    staging.mkdir()
    return staging


def is_in_staging(file: Path) -> bool:
    """Return whether `file` is a staging folder or lies in one."""
    return any(_NAME.fullmatch(part) for part in file.parts)


def sweep(parent: Path) -> None:
    """Remove what killed writers left in `parent`: a day old, and the owner gone.

    What cannot be looked at or removed stays; nobody saves a model in order to tidy up.
    """
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            named = _NAME.fullmatch(folder.name)
            if named and not _is_alive(int(named[1])) and _is_old(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    return time.time() - folder.lstat().st_mtime > _A_DAY


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill() ends the process whatever the signal
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
