"""Tensors in files, by the files' own names and one at a time, whatever model they belong to.

Safetensors, `.npz`, and files of torch.save, which alone are read whole. Every number is returned
as it is, finite or not.
"""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from parity.checkpoints import huggingface_files, torch_file
from parity.checkpoints.weights import FileDigest
from parity.errors import InputRejectedError
from reference.files import digest_path
from scratch_gpt.checkpoint import safetensors, strict_io
from scratch_gpt.checkpoint.safetensors import LONGEST_NAME, MOST_TENSORS
from scratch_gpt.errors import quote

SUFFIXES = (*huggingface_files.READERS, ".npz")
"""Suffixes of the files that are read."""


_DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
"""The dtypes that are read, as from a safetensors file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """Tensors by name.

    Attributes:
        read: Returns one tensor, contiguous and on the CPU.
        metadata: Texts of a safetensors file.
        notes: What was not read, a sentence each.
    """

    names: Sequence[str]
    read: Callable[[str], Tensor]
    files: Sequence[FileDigest] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()


def open_tensors(path: Path) -> TensorFiles:
    """Return the tensors of a file, an index, or a folder with weights in one of the usual forms.

    Raises:
        InputRejectedError: A file is no sound file of tensors, or two hold the same name.
        EnvironmentUnfitError: A file cannot be read, or does not fit in memory.
    """
    parts = [_open(file) for file in huggingface_files.weight_files(path)]
    owner = {name: part for part in parts for name in part.names}
    if len(owner) != sum(len(part.names) for part in parts):
        raise _rejected(path, "two of its files hold the same name", "write the files again")
    return TensorFiles(
        names=list(owner),
        read=lambda name: owner[name].read(name),
        files=[file for part in parts for file in part.files],
        metadata={key: text for part in parts for key, text in part.metadata.items()},
        notes=[note for part in parts for note in part.notes],
    )


def _open(path: Path) -> TensorFiles:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        found = safetensors.open_safetensors(path)
        return TensorFiles(
            names=found.names, read=found.read, files=[_digest(path)], metadata=found.metadata
        )
    if suffix == ".npz":
        return _open_npz(path)
    if suffix not in huggingface_files.READERS:
        what = f"no file of tensors has names like {path.name}"
        raise _rejected(path, what, f"give a file ending in {', '.join(SUFFIXES)}")
    tensors, digest, notes = torch_file.read_torch_file(path, any_model=True)
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            what = f"{quote(name)} is of {tensor.dtype}, which is not read"
            raise _rejected(path, what, "save real numbers of 16 bits or more, or integers")
    return TensorFiles(names=list(tensors), read=tensors.__getitem__, files=[digest], notes=notes)


def _digest(path: Path) -> FileDigest:
    return FileDigest(**dataclasses.asdict(digest_path(path)))


_ADVICE = "write it with numpy.savez(FILE, **arrays), arrays of numbers alone"
_ROOM = 1 << 20
_MOST_PACKED = 200
"""Times that a file may grow unpacked, beside `_ROOM` bytes; zeros alone are packed tighter."""


def _open_npz(path: Path) -> TensorFiles:
    """Return the arrays of an `.npz` file; no pickle in it is loaded."""
    with strict_io.open_regular(path) as file:
        before = strict_io.identity(os.fstat(file.fileno()))
        kind = strict_io.kind_of_file(file.read(strict_io.HEAD))
        size = file.seek(0, os.SEEK_END)
    if kind != "a zip archive":
        what = f"this is {kind}" if kind else "it is no whole .npz archive"
        raise _rejected(path, what, _ADVICE)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _rejected(path, f"it is no whole .npz archive: {error}", _ADVICE) from error
    entries = archive.infolist()
    names = [entry.filename.removesuffix(".npy") for entry in entries]
    unfit = [n for n in names if not 0 < len(n) <= LONGEST_NAME or not n.isprintable()]
    others = [entry.filename for entry in entries if not entry.filename.endswith(".npy")]
    if unfit or others or len(set(names)) != len(names) or not 0 < len(names) <= MOST_TENSORS:
        what = (
            f"the entry {quote((unfit or others)[0])} is no array with a printable name"
            if unfit or others
            else f"its {len(names)} entries are not 1 to {MOST_TENSORS} arrays of different names"
        )
        raise _rejected(path, what, _ADVICE)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_PACKED * size + _ROOM:
        what = f"it holds {size:,} bytes and unpacks to {unpacked:,}"
        raise _rejected(path, what, "write it with numpy.savez")
    # numpy.load looks up `a.npy` as `a` too, and returns bytes for an entry that is no array.
    members = dict(zip(names, entries, strict=True))

    def read(name: str) -> Tensor:
        strict_io.require_memory(
            2 * members[name].file_size,
            f"the array {quote(name)}",
            where=str(path),
            fix="save less in it",
        )
        try:
            with archive.open(members[name]) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
                more = member.read(1)  # at the end the checksum is compared
        except Exception as error:  # whatever NumPy raises for a damaged entry
            strict_io.require_unchanged(path, before)
            what = f"the array {quote(name)} cannot be read: {' '.join(str(error).split())[:200]}"
            raise _rejected(path, what, _ADVICE) from error
        strict_io.require_unchanged(path, before)
        if more:
            raise _rejected(path, f"other bytes follow the array {quote(name)}", _ADVICE)
        return _tensor(path, name, array)

    return TensorFiles(names=names, read=read, files=[_digest(path)])


def _tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Return an array of numbers as a tensor, in this machine's byte order."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # noqa: PLR2004 - of ml_dtypes
        what = f"{quote(name)} has no dtype that NumPy knows: .npz cannot hold bfloat16"
        raise _rejected(path, what, "write a .safetensors file, or float32")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:  # noqa: PLR2004 - bytes
        what = f"{quote(name)} is an array of {array.dtype}, not of numbers that torch has"
        raise _rejected(path, what, _ADVICE)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(native)


def _rejected(path: Path, what: str, fix: str) -> InputRejectedError:
    return InputRejectedError(f"{path.name}: {what}", where=str(path), fix=fix)
