"""Read a safetensors file whole, or reject it.

The safetensors library reads the file. A second look at the header and the numbers rejects what the
library lets pass: repeated or unknown keys, other bytes around the header, names that no message
can show, dtypes that hold no GPT-1, too many tensors, and numbers that are not finite.

A file is the header's length in eight bytes, little-endian; the header, a JSON object with the
dtype, shape and position of each tensor; and the tensors' bytes without a gap.

Source: the format's description in the safetensors project's README.
"""

import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import (
    ADVICE,
    HEAD,
    LARGEST_HEADER,
    identity,
    kind_of_file,
    open_regular,
    require_unchanged,
)
from scratch_gpt.errors import CheckpointError, EmptyCheckpointError, one_line, quote

MOST_TENSORS = 10_000
LONGEST_NAME = 1_024
_MOST_AXES = 64  # of a tensor of torch

_DTYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64"),
)
"""The dtypes that are read; types of less than eight bits, and complex ones, hold no GPT-1."""

_LAYOUTS = ("pt", "np")
"""Values of the metadata's `format` with PyTorch's layout; other frameworks may transpose."""

_DAMAGED = "download or write it again"


@dataclasses.dataclass(frozen=True)
class SafetensorsFile:
    """The contents of a file, the digest of its bytes, and their number."""

    tensors: dict[str, Tensor]
    """In the file's dtype, contiguous, each with memory of its own, in the order of their bytes.
    Every float is finite."""
    metadata: dict[str, str]
    sha256: str
    size: int


def read_safetensors(path: Path) -> SafetensorsFile:
    """Return the contents of the safetensors file at `path`, a regular file or a link to one.

    The digest is of the very bytes that were read; a second thread computes it meanwhile.

    Raises:
        CheckpointError: It is not a regular file, not a sound safetensors file, holds a number
            that is not finite, or changed while it was read.
        EmptyCheckpointError: It holds no tensor.
    """
    if sys.byteorder != "little":
        raise CheckpointError(
            "this machine is big-endian, the file little-endian",
            where=one_line(path),
            fix="read it on another machine",
        )
    with open_regular(path) as file:
        before = identity(os.fstat(file.fileno()))
        try:
            found = _read(file, path)
        except CheckpointError:
            require_unchanged(path, before)
            raise
        require_unchanged(path, before)
    return found


@dataclasses.dataclass(frozen=True)
class OpenSafetensors:
    """A file whose header was accepted, and whose tensors are read one by one.

    Attributes:
        names: In the order of the tensors' bytes.
        read: Returns one tensor, finite or not, with memory of its own. Raises CheckpointError if
            it cannot be read, or if the file changed since it was opened.
    """

    names: list[str]
    metadata: dict[str, str]
    read: Callable[[str], Tensor]


def open_safetensors(path: Path) -> OpenSafetensors:
    """Return the safetensors file at `path`, open; no tensor is read yet.

    Raises:
        CheckpointError: It is not a regular file, or its header is not sound.
        EmptyCheckpointError: It holds no tensor.
    """
    with open_regular(path) as file:
        before = identity(os.fstat(file.fileno()))
        _require_kind(file.read(HEAD), path)
        try:
            library = safe_open(path, framework="pt", backend="pread")
        except (SafetensorError, OSError, RuntimeError, TypeError, MemoryError) as error:
            raise CheckpointError(
                _library_error(error), where=one_line(path), fix=_DAMAGED
            ) from error
        file.seek(0)
        metadata, names = _second_look(file.read(int.from_bytes(file.read(8), "little")), path)

    def read(name: str) -> Tensor:
        try:
            tensor: Tensor = library.get_tensor(name)  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError, RuntimeError, TypeError, MemoryError) as error:
            require_unchanged(path, before)
            raise CheckpointError(
                _library_error(error), where=one_line(path), fix=_DAMAGED
            ) from error
        require_unchanged(path, before)
        return tensor

    return OpenSafetensors(names, metadata, read)


def _read(file: BinaryIO, path: Path) -> SafetensorsFile:
    _require_kind(file.read(HEAD), path)
    tensors: dict[str, Tensor] = {}
    try:
        # The backend reads into memory of the tensors' own. Mapping the file saves a copy, but
        # kills this process if another one truncates the file meanwhile.
        with safe_open(path, framework="pt", backend="pread") as library:
            file.seek(0)
            length = file.read(8)
            header = length + file.read(int.from_bytes(length, "little"))
            metadata, names = _second_look(header[8:], path)
            digest = hashlib.sha256(header)
            with ThreadPoolExecutor(max_workers=1) as hasher:  # one: it hashes in their order
                for name in names:
                    tensors[name] = library.get_tensor(name)
                    hasher.submit(digest.update, _bytes_of(tensors[name]))
                    _require_finite(name, tensors[name], path)
    except (SafetensorError, OSError, RuntimeError, TypeError, MemoryError) as error:
        raise CheckpointError(_library_error(error), where=one_line(path), fix=_DAMAGED) from error
    size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    return SafetensorsFile(tensors, metadata, digest.hexdigest(), size)


def _require_kind(head: bytes, path: Path) -> None:
    """Reject a file that is recognizably something else, or whose header does not fit in memory."""
    length = int.from_bytes(head[:8], "little")
    kind = kind_of_file(head)
    if kind:
        what = f"this is {kind}, not a safetensors file"
    elif len(head) < 8:  # noqa: PLR2004 - the length's own bytes
        what = f"it has {len(head)} bytes: too few for a safetensors file"
    elif length > LARGEST_HEADER:
        what = (
            f"implausible header length {length}, the limit is {LARGEST_HEADER}: it is not a "
            "safetensors file"
        )
    else:
        return
    raise CheckpointError(what, where=one_line(path), fix=ADVICE[kind] if kind else _DAMAGED)


def _library_error(error: Exception) -> str:
    text = " ".join(str(error).split())
    truncated = any(sign in text for sign in ("not fully covered", "invalid header length"))
    hint = "it is truncated, or has bytes that no tensor has; " if truncated else ""
    return f"{hint}the safetensors library cannot read it: {text}"


def _second_look(header: bytes, path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the metadata, and the names in the order of the tensors' bytes.

    The library has accepted the header.
    """
    try:
        fields = _fields(header.rstrip(b" "))  # the format's only padding
        metadata: dict[str, str] = dict(fields.pop("__metadata__", {}))
        _check_entries(fields)
    except ValueError as error:
        raise CheckpointError(str(error), where=one_line(path), fix=_DAMAGED) from error
    if not fields:
        raise EmptyCheckpointError(
            "it holds no tensors", where=one_line(path), fix="give a file that holds weights"
        )
    layout = metadata.get("format", "pt")
    if layout not in _LAYOUTS:
        raise CheckpointError(
            f"its metadata says that it was written for {quote(layout)}, not for PyTorch",
            where=one_line(path),
            fix="save it from PyTorch, where the layout is known",
        )
    return metadata, sorted(fields, key=lambda name: fields[name]["data_offsets"])


def _fields(text: bytes) -> dict[str, Any]:
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise ValueError("its header is not '{...}' alone")
    return dict(strict_io.load_strict_json(text))


def _check_entries(entries: dict[str, dict[str, Any]]) -> None:
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"it holds {len(entries)} tensors; the limit is {MOST_TENSORS}")
    for name, entry in entries.items():
        tensor = f"tensor {quote(name)}"
        if not name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            limit = f"1 to {LONGEST_NAME} bytes of printable text"
            raise ValueError(f"{tensor} has an invalid name; it must be {limit}")
        if set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{tensor} is not described by dtype, shape and data_offsets alone")
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{tensor} is {entry['dtype']}, not one of {', '.join(_DTYPES)}")
        if len(entry["shape"]) > _MOST_AXES:
            raise ValueError(f"{tensor} has {len(entry['shape'])} axes; the limit is {_MOST_AXES}")


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the tensor's memory, which equals its bytes in the file."""
    memory = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(memory)  # type: ignore[arg-type] # NumPy declares it for Python 3.12 only


def _require_finite(name: str, tensor: Tensor, path: Path) -> None:
    if count := count_not_finite(tensor):
        raise CheckpointError(
            f"tensor {quote(name)} holds NaN or infinity in {count} of {tensor.numel()} numbers",
            where=one_line(path),
            fix="nothing can be computed from it; use a checkpoint from before it diverged",
        )


def count_not_finite(tensor: Tensor) -> int:
    """Return how many elements are NaN or infinite; integers and booleans never are.

    The minimum and the maximum are finite exactly if every element is. They take one pass and no
    memory.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return 0
    if all(math.isfinite(extreme) for extreme in torch.aminmax(tensor)):
        return 0
    return tensor.numel() - int(torch.isfinite(tensor).sum())
