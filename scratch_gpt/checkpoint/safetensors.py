"""The header of a safetensors file, read for one purpose: to refuse a file that is not sound.

A file is eight bytes with the header's length, little end first; the header, a JSON object that
gives each tensor's dtype, shape and place; and the tensors' bytes, one after the other without a
gap. The safetensors library reads the tensors; it accepts some headers that the specification
forbids, and what it says of others names neither tensor nor cause.

Source: the format's description in the safetensors project's README.
"""

import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import ADVICE, HEAD, kind_of_file, open_regular
from scratch_gpt.errors import CheckpointError, EmptyCheckpointError, one_line, quote

# Whether every number of a tensor is one.


def count_not_finite(tensor: Tensor) -> int:
    """Return how many elements are NaN or infinite; integers and truths never are.

    Least and largest are both finite exactly where every element is, and they are found in one
    pass that allocates nothing.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return 0
    if all(math.isfinite(extreme) for extreme in torch.aminmax(tensor)):
        return 0
    return tensor.numel() - int(torch.isfinite(tensor).sum())


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
class TensorEntry:
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

    entries: dict[str, TensorEntry]
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
    kind = kind_of_file(head)
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
        fields = strict_io.load_strict_json(text.rstrip(b" "))
    except ValueError as error:
        raise ValueError(f"its header is not sound JSON: {error}") from error
    if not text.rstrip(b" ").endswith(b"}"):
        raise ValueError("its header does not end with '}'")
    return dict(fields)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("its metadata is not text by key")
    return found


def _entries(fields: dict[str, Any]) -> dict[str, TensorEntry]:
    """Return the tensors' entries in the order of their bytes."""
    if len(fields) > MOST_TENSORS:
        raise ValueError(f"it holds {len(fields)} tensors; the limit is {MOST_TENSORS}")
    found = {name: _entry(name, described) for name, described in fields.items()}
    return dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)))


def _entry(name: str, described: object) -> TensorEntry:
    """Return one tensor's entry, or raise what is wrong with it."""
    tensor = f"tensor {quote(name)}"
    if not name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        limit = f"1 to {LONGEST_NAME} bytes of printable text"
        raise ValueError(f"{tensor} has an unfit name; it must be {limit}")
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{tensor} is not described by dtype, shape and data_offsets alone")
    dtype, shape, places = (described[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ValueError(f"{tensor} has the dtype {quote(dtype)}, which is not one of {_known()}")
    if not _counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"{tensor} has the impossible shape {quote(shape)}")
    if not _counts(places) or len(places) != 2 or places[0] > places[1]:  # noqa: PLR2004 - a pair
        raise ValueError(f"{tensor} has the impossible data_offsets {quote(places)}")
    begin, end = places
    needed = math.prod(shape) * ITEM_SIZES[dtype]
    if needed != end - begin:
        stated = f"dtype {dtype} and shape {quote(shape)} take {needed} bytes"
        raise ValueError(f"{tensor}: {stated}, its data_offsets span {end - begin}")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _counts(found: object) -> bool:
    """Return whether `found` is a list of whole numbers that fit into 63 bits."""
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in found)


def _known() -> str:
    return ", ".join(ITEM_SIZES)


def _check_places(entries: dict[str, TensorEntry], have: int) -> None:
    """Refuse tensors that overlap, leave a gap, or do not end where the file does."""
    reached = 0
    for name, entry in entries.items():
        if entry.begin != reached:
            fault = "overlaps the one before it" if entry.begin < reached else "follows a hole"
            raise ValueError(f"tensor {quote(name)} {fault}")
        reached = entry.end
    if have < reached:
        raise ValueError(f"its data is truncated: expected {reached} bytes, have {have}")
    if have > reached:
        raise ValueError(f"{have - reached} bytes follow the last tensor")


# One safetensors file, read whole or refused.
#
# The library's `pread` backend reads into memory of the tensors' own. A mapped file would be
# faster by a copy, and would kill the process where somebody truncates it meanwhile.


@dataclasses.dataclass(frozen=True)
class SafetensorsFile:
    """A sound file's contents.

    Attributes:
        tensors: Name to tensor in the file's dtype, contiguous, each with memory of its own, in
            the order of their bytes. Every float is finite.
        metadata: Free text by key.
        sha256: Digest of the file's bytes.
        size: The file's length in bytes.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    size: int


def read_safetensors(path: Path) -> SafetensorsFile:
    """Return what the safetensors file at `path` holds.

    The digest is taken of the very bytes that were read, in a second thread meanwhile.

    Args:
        path: A regular file, or a link to one.

    Raises:
        CheckpointError: It is no regular file, no safetensors file or an unsound one, holds a
            number that is not finite, or changed while it was read.
        EmptyCheckpointError: It holds no tensor.
    """
    if sys.byteorder != "little":
        raise CheckpointError(
            "this machine stores numbers big end first, the file little end first",
            where=one_line(path),
            fix="read it on another machine",
        )
    with open_regular(path) as file:
        before = _identity(os.fstat(file.fileno()))
        try:
            tensors, header, digest = _contents(file, path)
        except CheckpointError:
            _require_unchanged(path, before)
            raise
        _require_unchanged(path, before)
    size = len(header.text) + sum(tensor.nbytes for tensor in tensors.values())
    return SafetensorsFile(tensors, header.metadata, digest, size)


def _contents(file: BinaryIO, path: Path) -> tuple[dict[str, Tensor], Header, str]:
    """Return the tensors, the header, and the digest of both."""
    header = read_header(file, path)
    _require_layout(header, path)
    digest = hashlib.sha256(header.text)
    tensors = {}
    with ThreadPoolExecutor(max_workers=1) as hasher:  # one: bytes are hashed in their order
        for name, tensor in _tensors(path, header):
            tensors[name] = tensor
            hasher.submit(digest.update, _bytes_of(tensor))
            _require_finite(name, tensor, path)
    return tensors, header, digest.hexdigest()


_LAYOUTS = ("pt", "np")
"""Values of the metadata's `format` under which tensors are laid out as PyTorch has them."""


def _require_layout(header: Header, path: Path) -> None:
    """Refuse a file that another framework wrote for itself: its matrices may lie otherwise."""
    layout = header.metadata.get("format", "pt")
    if layout not in _LAYOUTS:
        raise CheckpointError(
            f"its metadata says that it was written for {quote(layout)}, not for PyTorch",
            where=one_line(path),
            fix="save it from PyTorch, where the layout is known",
        )


def _tensors(path: Path, header: Header) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the order of their bytes, as the library reads them."""
    try:
        with safe_open(path, framework="pt", backend="pread") as library:
            for name in header.entries:
                yield name, library.get_tensor(name)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"the safetensors library cannot read it: {' '.join(str(error).split())}",
            where=one_line(path),
            fix="download or write it again",
        ) from error


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the tensor's memory, which is what the file holds."""
    memory = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(memory)  # type: ignore[arg-type] # NumPy tells it to Python 3.12 only


def _require_finite(name: str, tensor: Tensor, path: Path) -> None:
    count = count_not_finite(tensor)
    if count:
        raise CheckpointError(
            f"tensor {quote(name)} holds NaN or infinity in {count} of {tensor.numel()} numbers",
            where=one_line(path),
            fix="nothing can be computed from it; use a checkpoint from before it diverged",
        )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _require_unchanged(path: Path, before: tuple[int, int, int, int]) -> None:
    """Refuse a file that was written to, replaced or removed since `before` was taken."""
    try:
        unchanged = _identity(path.stat()) == before
    except OSError:
        unchanged = False
    if not unchanged:
        raise CheckpointError(
            "it changed while it was read",
            where=one_line(path),
            fix="wait until whatever writes it has finished, then read it again",
        )
