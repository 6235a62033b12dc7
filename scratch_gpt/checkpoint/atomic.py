"""Write a folder atomically: whole or not at all.

Files are written into a staging folder beside the destination and flushed to the disk; then the
folder is renamed in one step. A process killed at any moment leaves the old folder or the new one.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scratch_gpt.errors import CommandError, OccupiedError, WriteError, one_line, quote

if os.name == "posix":
    import fcntl


@contextlib.contextmanager
def replace_folder(
    path: Path,
    *,
    overwrite: bool,
    require: Callable[[Path], None] = lambda _: None,
    verify: Callable[[Path], None] = lambda _: None,
) -> Iterator[Path]:
    """Yield an empty folder to write plain files into, and put it at `path` at the end.

    Old files that were not written anew are carried over. A link at `path` stays, and its target
    is replaced. New files have mode 0666 and a new folder 0777, less the umask; an old folder's
    mode is kept. Of two writers the last one wins. On any exception the staging folder is removed,
    and the destination is unchanged.

    Args:
        path: The destination; missing folders above it are made.
        overwrite: Whether the destination may be a folder that is not empty.
        require: Called with the destination before anything is written, and again under the lock;
            raises if it may not be replaced.
        verify: Called with the complete new folder before it is moved into place; raises if it is
            unsound.

    Raises:
        OccupiedError: There is a file at `path`, the working folder, a folder that holds folders,
            or one that is not empty and may not be overwritten.
        WriteError: The file system refused: disk full, no permission, read-only, a mount point.
    """
    destination = Path(os.path.realpath(path))
    with _reporting_write_errors(path, destination):
        require(destination)
        _require_replaceable(destination, overwrite=overwrite)
        destination.parent.mkdir(parents=True, exist_ok=True)
        sweep(destination.parent)
        staging = make_staging(destination.parent)
        try:
            yield staging
            with _locked(destination.parent):
                require(destination)
                _complete(staging, destination)
                verify(staging)
                _move(staging, destination, overwrite=overwrite)
                _flush(destination.parent)
                _remove_old(staging, destination)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Reject a destination that `replace_folder` would reject, before work that takes long.

    Raises:
        OccupiedError, WriteError: As `replace_folder`.
    """
    destination = Path(os.path.realpath(path))
    with _reporting_write_errors(path, destination):
        _require_replaceable(destination, overwrite=overwrite)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`, after waiting for it.

    Another writer between carrying old files over and the move would mix two models in one folder.
    The system releases the lock when the process ends.
    """
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor locked
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reporting_write_errors(path: Path, destination: Path) -> Iterator[None]:
    """Raise failed writes as `WriteError`; errors about other places pass unchanged."""
    try:
        yield
    except Exception as error:
        write_error = to_write_error(error, path)
        if write_error is None or not _concerns(error, destination):
            raise
        raise write_error from error


def _concerns(error: Exception, destination: Path) -> bool:
    """Return whether the error is about the destination, a folder above it, or a staging folder."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str | bytes):  # a full disk is reported without a name
        return True
    file = Path(os.fsdecode(named))
    about_destination = destination in (file, *file.parents) or file in destination.parents
    return about_destination or is_in_staging(file)


def _require_replaceable(destination: Path, *, overwrite: bool) -> None:
    """Reject a destination from which something would be lost."""
    if destination.is_symlink():  # the end of a resolved path is a link only in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(destination))
    if not destination.exists():
        return
    if not destination.is_dir():
        raise _occupied(destination, "there is a file of that name")
    if destination.is_mount():
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(destination))
    if destination.samefile(os.curdir):  # the shell would stay in the removed folder
        what = "it is the working folder, which cannot be replaced by a new one"
        raise _occupied(destination, what, fix="name a folder in it")
    entries = sorted(destination.iterdir())
    if entries and not overwrite:
        raise _occupied(destination, "the folder is not empty")
    for entry in entries:
        kind = entry.lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):  # a link is carried over as a link
            raise _occupied(destination, f"the folder holds {quote(entry.name)}, no plain file")
    if not os.access(destination, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(destination))


def _occupied(
    destination: Path, what: str, *, fix: str = "choose another folder, or remove what is there"
) -> OccupiedError:
    return OccupiedError(what, where=one_line(destination), fix=fix)


def _complete(staging: Path, destination: Path) -> None:
    """Set the new files' mode, carry the old files over, and flush all to the disk."""
    mode = stat.S_IMODE(staging.stat().st_mode)  # it was made with 0777 less the umask
    for file in staging.iterdir():
        file.chmod(mode & 0o666)
    if destination.is_dir():
        staging.chmod(stat.S_IMODE(destination.stat().st_mode))
        for old in destination.iterdir():
            new = staging / old.name
            if not os.path.lexists(new):
                try:
                    os.link(old, new, follow_symlinks=False)
                except OSError:  # some file systems have no hard links
                    shutil.copy2(old, new, follow_symlinks=False)
    for file in staging.iterdir():
        if not file.is_symlink():
            _flush(file)
    _flush(staging)


def _move(staging: Path, destination: Path, *, overwrite: bool) -> None:
    """Rename the staging folder to the destination, or exchange the two."""
    try:
        staging.rename(destination)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        if not overwrite:
            raise _occupied(destination, "the folder was filled meanwhile") from error
        exchange_paths(staging, destination)


def _remove_old(old: Path, destination: Path) -> None:
    """Remove the old folder, after moving over files that appeared in it meanwhile."""
    if not old.exists():
        return
    with contextlib.suppress(OSError):  # the new folder is in place; leftovers are swept later
        for entry in old.iterdir():
            if not os.path.lexists(destination / entry.name):
                entry.rename(destination / entry.name)
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The staging folder, whose name holds the process id of its owner.


_NAME = re.compile(r"\.gpt1-(\d{1,9})-[0-9a-f]{8}\.partial")
_A_DAY = 24 * 60 * 60.0


def make_staging(parent: Path) -> Path:
    """Return a new, empty folder in `parent`, with mode 0777 less the umask."""
    staging = parent / f".gpt1-{os.getpid()}-{secrets.token_hex(4)}.partial"
    staging.mkdir()
    return staging


def is_in_staging(file: Path) -> bool:
    """Return whether `file` is a staging folder or lies in one."""
    return any(_NAME.fullmatch(part) for part in file.parts)


def sweep(parent: Path) -> None:
    """Remove staging folders in `parent` that are a day old and whose process has ended.

    A folder that cannot be examined or removed stays, without an error.
    """
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            named = _NAME.fullmatch(folder.name)
            if not named or _is_alive(int(named[1])):
                continue
            if time.time() - folder.lstat().st_mtime > _A_DAY:
                shutil.rmtree(folder, ignore_errors=True)


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


# The exchange of two folders.


_HERE = -100
"""AT_FDCWD: paths are relative to the working folder."""

_RENAME_EXCHANGE = 2

# The kernel is too old, or the file system cannot do it.
_UNABLE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange_paths(one: Path, other: Path) -> None:
    """Exchange the names of two folders in the same folder.

    On Linux this is one step. Elsewhere `other` is missing for a moment between two renames.

    Raises:
        OSError: Both have their old names.

    Source: rename(2), RENAME_EXCHANGE.
    """
    if _at_once(one, other):
        return
    aside = one.with_name(f"{one.name}.replaced")  # not a staging folder's name: never swept
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


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


# Errors of the file system.


_FULL = "free some space, or write to another disk"

_KNOWN: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file would be larger than is allowed", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "write to another place"),
    errno.EACCES: ("there is no permission to write", "change the folder's permissions"),
    errno.EPERM: ("there is no permission to write", "change the folder's permissions"),
    errno.ENOTDIR: ("a part of the path is no folder", "check the path"),
    errno.EEXIST: ("a part of the path is no folder", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.EBUSY: ("it is a mount point, which no folder can replace", "name a folder in it"),
    errno.ELOOP: ("the path is a circle of links", "correct the links"),
}
"""The meaning of an error number, and what the user can do."""


def to_write_error(error: BaseException, path: object) -> WriteError | None:
    """Return an error of the file system as a `WriteError`, None for any other error.

    An error of another library counts too if its text has Rust's words "(os error 28)". `path` was
    to be written.
    """
    if isinstance(error, CommandError):
        return None
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
    if number is None:
        return None
    reason = getattr(error, "strerror", None) or str(error)  # the latter has a staging file's name
    unknown = (f"it cannot be written: {' '.join(reason.split())}", "check the path")
    what, fix = _KNOWN.get(number, unknown)
    return WriteError(what, where=one_line(path), fix=fix)
