"""Read untrusted files: open only regular ones, recognize formats, parse JSON strictly."""

import contextlib
import dataclasses
import json
import math
import os
import stat
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from scratch_gpt.errors import (
    CheckpointError,
    EnvironmentUnfitError,
    UnreadableError,
    one_line,
    quote,
)

# Open a file.


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
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or the target of a link, for reading; never wait.

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
    """Return the error of a path that could not be opened."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        what, fix = "it is a link to a file that does not exist", "mend the link or fetch the file"
    elif isinstance(error, FileNotFoundError):
        what, fix = "there is no such file", "check the path"
    elif isinstance(error, PermissionError):
        what, fix = "it may not be read", "change its permissions"
    else:
        reason = getattr(error, "strerror", None) or str(error)
        what, fix = f"it cannot be opened: {reason}", "check the path"
    kind = UnreadableError if isinstance(error, PermissionError) else CheckpointError
    return kind(what, where=one_line(path), fix=fix)


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes if a file is written or replaced, for `require_unchanged`."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def require_unchanged(path: Path, before: tuple[int, int, int, int]) -> None:
    """Require a file that was not written, replaced or removed since `before` was taken.

    Raises:
        CheckpointError: It was.
    """
    try:
        unchanged = identity(path.stat()) == before
    except OSError:
        unchanged = False
    if not unchanged:
        raise CheckpointError(
            "it changed while it was read",
            where=one_line(path),
            fix="wait until the process that writes it has finished, then read it again",
        )


# Compare a file's size with what is expected, before anything of it is read.


_MOST_TIMES = 10
_ROOM = 1 << 28


def require_plausible_size(paths: Iterable[Path], needed: int) -> None:
    """Require files that are together not far larger than `needed` bytes, and fit in memory.

    A training checkpoint may have the moments too, in float64: six times the bytes of the weights.
    A path without a file counts nothing; its reader reports it.

    Raises:
        CheckpointError: They have more than ten times `needed`, and 256 MiB.
        EnvironmentUnfitError: They have more bytes than this machine has memory.
    """
    sizes: dict[Path, int] = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            sizes[path] = path.stat().st_size
    total, where = sum(sizes.values()), one_line(max(sizes, key=sizes.__getitem__, default=""))
    if total > (limit := _MOST_TIMES * needed + _ROOM):
        raise CheckpointError(
            f"the weights have {total:,} bytes, the limit for this config is {limit:,}: its model "
            f"takes {needed:,} in float32",
            where=where,
            fix="check that file and config.json belong together; save the model's tensors alone",
        )
    require_memory(total, f"reading {total:,} bytes", where=where, fix="use another machine")


def require_memory(needed: int, what: str, *, where: str, fix: str) -> None:
    """Require a machine with `needed` bytes of memory; `what` needs at least these.

    Raises:
        EnvironmentUnfitError: It has less. Whether the memory is free is not tested.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return
    if needed > memory:
        gib = 1 << 30
        raise EnvironmentUnfitError(
            f"{what} takes at least {needed / gib:,.1f} GiB of memory; this machine has "
            f"{memory / gib:,.1f} GiB",
            where=where,
            fix=fix,
        )


# Recognize a file by its first bytes, for a message better than "not safetensors".


HEAD = 512
"""How many of a file's first bytes `kind_of_file` needs."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/", "a Git LFS pointer"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "gzip data"),
    (257, b"ustar", "a tar archive"),
    *((0, b"\x80" + bytes([protocol]), "a pickle") for protocol in range(2, 6)),
)
"""Offset, bytes there, and the kind that has them."""

_PAGE_OPENINGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")

ADVICE = {
    "a Git LFS pointer": "run git lfs pull in its repository",
    "an HTML page": "download it again: a login or error page was saved in its place",
    "a pickle": "a pickle can run code and is never opened here; convert it to safetensors",
    "a zip archive": "a PyTorch .bin is one: convert it to safetensors",
    "a NumPy array": "give the folder of the release whose shard it is",
    "a tar archive": "unpack it first",
    "gzip data": "unpack it first",
}
"""What the user can do, by kind."""

LARGEST_HEADER = 4_000_000
"""Bytes of the largest header of a safetensors file that is read: ten thousand tensors take 2 MB.

Parsed, a hostile header takes 24 times its size.
"""


def kind_of_file(first_bytes: bytes) -> str | None:
    """Return the kind of a file, a key of `ADVICE`, or None if it is not recognized.

    A safetensors file gives None, even if its header's length begins like a pickle. `first_bytes`
    are the file's first `HEAD` bytes, or all of a shorter file.
    """
    length = int.from_bytes(first_bytes[:8], "little")
    if first_bytes[8:9] == b"{" and 0 < length <= LARGEST_HEADER:  # it begins as safetensors does
        return None
    if first_bytes.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_OPENINGS):
        return "an HTML page"
    return next(
        (kind for at, magic, kind in _MAGIC if first_bytes[at : at + len(magic)] == magic), None
    )


# Strict JSON: Python's reader accepts more than the specification.


def load_strict_json(text: bytes) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the value of a JSON text.

    Raises:
        ValueError: It is not UTF-8 or not JSON, repeats a key within one object, holds a number
            that is not finite, or is nested deeper than Python's stack; the message is one line.

    Source: RFC 8259, by which keys "SHOULD be unique"; here they must be.
    """
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_reject_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        places = {name: place for place, (name, _) in enumerate(pairs)}  # the last of each
        twice = next(name for place, (name, _) in enumerate(pairs) if places[name] != place)
        raise ValueError(f"the key {quote(twice)} occurs twice")
    return found


def _reject_constant(literal: str) -> float:
    raise ValueError(f"{literal} is not JSON")


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"the number {quote(literal)} is too large")
    return value


# Dataclasses from JSON.


T = TypeVar("T")


def dataclass_from_json(kind: type[T], value: object) -> T:
    """Return the dataclass of a JSON object, which must have every field and no other.

    Fields are `str`, `bool`, numbers that are not negative, dataclasses, or tuples of one of
    these; in JSON a tuple is an array.

    Raises:
        ValueError: A field is missing, unknown, negative or of another type; the message names it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"the {kind.__name__.lower()} is not an object")  # noqa: TRY004 - of a file
    types = typing.get_type_hints(kind)
    if differing := sorted(types.keys() ^ value.keys()):
        raise ValueError(f"missing or unknown: {', '.join(map(quote, differing))}")
    return kind(**{name: _field(name, types[name], value[name]) for name in types})


def _field(name: str, kind: Any, value: object) -> object:  # noqa: ANN401 - any annotation
    if dataclasses.is_dataclass(kind):
        return dataclass_from_json(typing.cast("type[object]", kind), value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_field(name, typing.get_args(kind)[0], item) for item in value)
    if type(value) is not kind or (isinstance(value, int | float) and value < 0):
        raise ValueError(f"{name} is {quote(value)}")
    return value
