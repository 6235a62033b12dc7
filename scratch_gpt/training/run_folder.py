"""A run's folder: what stands where in it, and that one run at a time writes there."""

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

if os.name == "posix":
    import fcntl

from scratch_gpt.files.shown import one_line
from scratch_gpt.files.write_error import OccupiedError, write_error

_LOCK = "training.lock"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def vocabulary(self) -> Path:
        """The vocabulary's files."""
        return self.path / "vocabulary"

    @property
    def tokens(self) -> Path:
        """The corpus as ids."""
        return self.path / "tokens"

    @property
    def log(self) -> Path:
        """A line of JSON a step."""
        return self.path / "log.jsonl"

    @property
    def curve(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    @property
    def model(self) -> Path:
        """What comes out: weights, config and vocabulary."""
        return self.path / "model"


@contextlib.contextmanager
def owned(path: Path) -> Iterator[RunFolder]:
    """Make a run's folder, or take one that a run has left, for this process alone.

    The lock is the system's, and gone with the process that holds it.

    Raises:
        OccupiedError: Another run writes there, or the folder is not empty and no run's.
        WriteError: The file system refused.
    """
    descriptor = _opened(path)
    try:
        _lock(descriptor, path)
        yield RunFolder(path)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Return the lock's descriptor; make the folder and the lock where they are missing."""
    try:
        strange = path.is_dir() and any(path.iterdir()) and not (path / _LOCK).exists()
        if not strange:
            path.mkdir(parents=True, exist_ok=True)
            return os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileExistsError as error:
        raise _occupied(path, "there is a file of that name") from error
    except OSError as error:
        raise write_error(error, path) or error from error
    raise _occupied(path, "the folder is not empty, and no run was started in it")


def _lock(descriptor: int, path: Path) -> None:
    if os.name != "posix":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:  # others: a file system without locks
            raise _occupied(path, "another run writes into this folder") from error


def _occupied(path: Path, what: str) -> OccupiedError:
    return OccupiedError(what, where=one_line(path), fix="choose another folder with --output")
