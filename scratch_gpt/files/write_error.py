"""What a file system refused while something was written, and what the user can do."""

import errno
import re

from scratch_gpt.files.shown import one_line

_FULL = "free some space, or write to another disk"

_KNOWN: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file would be larger than is allowed", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "write to another place"),
    errno.EACCES: ("there is no permission to write", "change the folder's permissions"),
    errno.EPERM: ("there is no permission to write", "change the folder's permissions"),
    errno.ENOTDIR: ("a part of the path is no folder", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("the path is a circle of links", "mend the links"),
}
"""What an error number means to somebody who saves a model, and the way out."""


class WriteError(OSError):
    """Something could not be written; what stood there before is as it was.

    Attributes:
        what: What happened, in one line.
        where: The file or folder.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class OccupiedError(WriteError):
    """The destination holds what would have to be removed, and was left alone."""


def write_error(error: BaseException, path: object) -> WriteError | None:
    """Return what `error` means where it came from the file system, None where it did not.

    Args:
        error: An `OSError`, or another library's error whose text ends as Rust's do:
            "(os error 28)".
        path: What was to be written.
    """
    if isinstance(error, WriteError):
        return None
    number = error.errno if isinstance(error, OSError) else _number_in(str(error))
    if number is None:
        return None
    unknown = (f"it cannot be written: {' '.join(str(error).split())}", "check the path")
    what, fix = _KNOWN.get(number, unknown)
    return WriteError(what, where=one_line(path), fix=fix)


def _number_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None
