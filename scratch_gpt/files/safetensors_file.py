"""One safetensors file, read whole or refused.

The library's `pread` backend reads into memory of the tensors' own. A mapped file would be
faster by a copy, and would kill the process where somebody truncates it meanwhile.
"""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scratch_gpt.files.finite import not_finite
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.safetensors_header import Header, read_header
from scratch_gpt.files.shown import one_line, shown


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


def read(path: Path) -> SafetensorsFile:
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
    with opened(path) as file:
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
            f"its metadata says that it was written for {shown(layout)}, not for PyTorch",
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
    count = not_finite(tensor)
    if count:
        raise CheckpointError(
            f"tensor {shown(name)} holds NaN or infinity in {count} of {tensor.numel()} numbers",
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
