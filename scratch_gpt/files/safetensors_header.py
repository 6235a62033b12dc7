"""The header of a safetensors file, read for one purpose: to refuse a file that is not sound.

A file is eight bytes with the header's length, little end first; the header, a JSON object that
gives each tensor's dtype, shape and place; and the tensors' bytes, one after the other without a
gap. The safetensors library reads the tensors; it accepts some headers that the specification
forbids, and what it says of others names neither tensor nor cause.

Source: the format's description in the safetensors project's README.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from scratch_gpt.files import strict_json
from scratch_gpt.files.file_kinds import ADVICE, HEAD, kind_of
from scratch_gpt.files.refusal import CheckpointError, EmptyCheckpointError
from scratch_gpt.files.shown import one_line, shown

LARGEST_HEADER = 100_000_000
MOST_TENSORS = 10_000
LONGEST_NAME = 1_024
MOST_AXES = 64  # torch has no tensor of more

ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes per element, by dtype; types of eight bits and less, and complex ones, hold no GPT-1."""

_DAMAGED = "download or write it again"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: bytes `begin` to `end` of what follows the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Header:
    """A sound header.

    Attributes:
        entries: Name to entry, in the order of the tensors' bytes.
        metadata: Free text by key.
        text: The file's bytes before the first tensor.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    text: bytes


def read_header(file: BinaryIO, path: Path) -> Header:
    """Return the header of an open safetensors file.

    Args:
        file: The open file, at its beginning.
        path: Its name, for messages.

    Raises:
        CheckpointError: It is no safetensors file, or an unsound one.
        EmptyCheckpointError: It holds no tensor.
    """
    size = os.fstat(file.fileno()).st_size
    text = _header_text(file, path, size)
    try:
        fields = _fields(text[8:])
        metadata = _metadata(fields.pop("__metadata__", {}))
        entries = _entries(fields)
        _check_places(entries, size - len(text))
    except ValueError as error:
        raise CheckpointError(str(error), where=one_line(path), fix=_DAMAGED) from error
    if not entries:
        raise EmptyCheckpointError(
            "it holds no tensors", where=one_line(path), fix="give a file that holds weights"
        )
    return Header(entries, metadata, text)


def _header_text(file: BinaryIO, path: Path, size: int) -> bytes:
    """Return the length and the header, or refuse a length that cannot be one."""
    head = file.read(HEAD)
    length = int.from_bytes(head[:8], "little")
    kind = kind_of(head)
    neither = "it is truncated or not safetensors"
    problems = (
        (kind is not None, f"this is {kind}, not a safetensors file"),
        (len(head) < 8, f"it has {size} bytes: too few to be a safetensors file"),  # noqa: PLR2004
        (length == 0, f"its header has length 0: {neither}"),
        (length > LARGEST_HEADER, f"implausible header length {length}: it is not safetensors"),
        (length > size - 8, f"its header has {length} bytes, {size - 8} follow: {neither}"),
        (head[8:9] != b"{", "its header does not begin with '{': it is not safetensors"),
    )
    for refused, what in problems:
        if refused:
            fix = ADVICE[kind] if kind else _DAMAGED
            raise CheckpointError(what, where=one_line(path), fix=fix)
    file.seek(0)
    return file.read(8 + length)


def _fields(text: bytes) -> dict[str, Any]:
    try:
        # Spaces may pad the header at its end, nothing else may.
        fields = strict_json.loads(text.rstrip(b" "))
    except ValueError as error:
        raise ValueError(f"its header is not sound JSON: {error}") from error
    if not text.rstrip(b" ").endswith(b"}"):
        raise ValueError("its header does not end with '}'")
    return dict(fields)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("its metadata is not text by key")
    return found


def _entries(fields: dict[str, Any]) -> dict[str, Entry]:
    """Return the tensors' entries in the order of their bytes."""
    if len(fields) > MOST_TENSORS:
        raise ValueError(f"it holds {len(fields)} tensors; the limit is {MOST_TENSORS}")
    found = {name: _entry(name, described) for name, described in fields.items()}
    return dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)))


def _entry(name: str, described: object) -> Entry:
    """Return one tensor's entry, or raise what is wrong with it."""
    tensor = f"tensor {shown(name)}"
    if not name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        limit = f"1 to {LONGEST_NAME} bytes of printable text"
        raise ValueError(f"{tensor} has an unfit name; it must be {limit}")
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{tensor} is not described by dtype, shape and data_offsets alone")
    dtype, shape, places = (described[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ValueError(f"{tensor} has the dtype {shown(dtype)}, which is not one of {_known()}")
    if not _counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"{tensor} has the impossible shape {shown(shape)}")
    if not _counts(places) or len(places) != 2 or places[0] > places[1]:  # noqa: PLR2004 - a pair
        raise ValueError(f"{tensor} has the impossible data_offsets {shown(places)}")
    begin, end = places
    needed = math.prod(shape) * ITEM_SIZES[dtype]
    if needed != end - begin:
        stated = f"dtype {dtype} and shape {shown(shape)} take {needed} bytes"
        raise ValueError(f"{tensor}: {stated}, its data_offsets span {end - begin}")
    return Entry(dtype, tuple(shape), begin, end)


def _counts(found: object) -> bool:
    """Return whether `found` is a list of whole numbers that fit into 63 bits."""
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in found)


def _known() -> str:
    return ", ".join(ITEM_SIZES)


def _check_places(entries: dict[str, Entry], have: int) -> None:
    """Refuse tensors that overlap, leave a gap, or do not end where the file does."""
    reached = 0
    for name, entry in entries.items():
        if entry.begin != reached:
            fault = "overlaps the one before it" if entry.begin < reached else "follows a hole"
            raise ValueError(f"tensor {shown(name)} {fault}")
        reached = entry.end
    if have < reached:
        raise ValueError(f"its data is truncated: expected {reached} bytes, have {have}")
    if have > reached:
        raise ValueError(f"{have - reached} bytes follow the last tensor")
