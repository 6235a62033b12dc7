"""One shard of OpenAI's release: an `.npy` file with a row of float32 numbers.

Everything is checked before memory is asked for. Only little-endian float32 is read: the release
has nothing else, and a copy that was byte-swapped on the way is no copy of it.
"""

import dataclasses
import io
import tokenize
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from reference.plain_file import DigestedFile, digested, opened
from reference.refusal import RefusedError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LONGEST_HEADER = 4096
"""In bytes. The header of one row of float32 takes 128."""

_DTYPE = np.dtype("<f4")
_BEYOND = 1 << 60
"""More numbers than any file holds."""

_DISGUISES = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file it points to", "git lfs pull"),
    b"<": ("a web page, not numbers", "download the file itself, and look at what comes back"),
    b"PK\x03\x04": ("a zip archive (.npz, or PyTorch's), not .npy", "give the release's shards"),
    b"\x80": ("a pickle; it is never run", "give the release's shards"),
    b"\x1f\x8b": ("gzip-compressed", "decompress it"),
}
"""What else is found under the name, by its first bytes: what it is, and what to do."""

_GET_AGAIN = "get the file again: it is damaged, or not one of the release's shards"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard whose header was read and holds against the file's size.

    Attributes:
        path: The file.
        length: Count of its float32 numbers.
        header: All bytes before them.
    """

    path: Path
    length: int
    header: bytes


def inspect(path: Path) -> Shard:
    """Read the header of a shard, and nothing after it.

    Raises:
        RefusedError: It is no `.npy` file of one row of little-endian float32, or its size is not
            what the header says.
        UnavailableError: It cannot be read.
    """
    with opened(path) as (file, size):
        start = file.read(_LONGEST_HEADER) or b""
    _refuse_disguise(path, start, size)
    shape, fortran_order, dtype, header = _header(path, start)
    if dtype != _DTYPE or dtype.hasobject:
        what = f"{path.name} holds {dtype.str!r}, not little-endian float32 ('<f4')"
        raise RefusedError(what, where=str(path), fix="save it again as float32 with this order")
    if len(shape) != 1 or fortran_order or not 0 <= shape[0] < _BEYOND:
        order = ", in Fortran order" if fortran_order else ""
        what = f"{path.name} has shape {_short(shape)}{order}, where the release has one flat row"
        raise RefusedError(what, where=str(path), fix=_GET_AGAIN)
    expected = len(header) + shape[0] * _DTYPE.itemsize
    if size != expected:
        state = "truncated" if size < expected else "too long"
        what = f"{path.name} is {state}: {size:,} bytes, where its header promises {expected:,}"
        raise RefusedError(what, where=str(path), fix=_GET_AGAIN)
    return Shard(path=path, length=shape[0], header=header)


def read_into(shard: Shard, row: NDArray[np.float32]) -> DigestedFile:
    """Fill `row` `[length]` with the numbers of `shard`; return the file's digests.

    Raises:
        RefusedError: The file changed since it was inspected.
        UnavailableError: It cannot be read.
    """
    view = row.view(np.uint8).data
    with opened(shard.path) as (file, _):
        header = file.read(len(shard.header))
        done = 0
        while done < view.nbytes and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
            done += count
        rest = file.read(1)
    if header != shard.header or done != view.nbytes or rest:
        what = f"{shard.path.name} changed while it was read"
        raise RefusedError(
            what, where=str(shard.path), fix="try again when nothing writes to the folder"
        )
    return digested(shard.path.name, shard.header, view)


def header(length: int) -> bytes:
    """Return what NumPy writes today before one row of `length` float32 numbers."""
    stream = io.BytesIO()
    described = {"descr": _DTYPE.str, "fortran_order": False, "shape": (length,)}
    npy.write_array_header_1_0(stream, described)
    return stream.getvalue()


def checked_header(text: str, length: int, where: str) -> bytes:
    """Return the bytes of a header that was kept as text, if it announces `length` numbers.

    NumPy has padded headers to 16, then to 64 bytes: a shard of another year has another header.

    Raises:
        RefusedError: It announces anything else.
    """
    start = text.encode("latin-1", errors="replace")
    shape, fortran_order, dtype, found = _header(Path(where), start)
    if (shape, fortran_order, dtype, found) != ((length,), False, _DTYPE, start):
        what = f"a shard's header does not announce {length:,} float32 numbers"
        raise RefusedError(what, where=where, fix="leave the headers out, or restore the manifest")
    return start


def _refuse_disguise(path: Path, start: bytes, size: int) -> None:
    """Refuse what is not `.npy` at all, by the name of what it is."""
    if start.startswith(npy.MAGIC_PREFIX):
        return
    unknown = f"no .npy file ({size:,} bytes)" if size else "empty", _GET_AGAIN
    found = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    known = (words for prefix, words in _DISGUISES.items() if found.startswith(prefix))
    what, fix = next(known, unknown)
    raise RefusedError(f"{path.name} is {what}", where=str(path), fix=fix)


def _header(path: Path, start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, bytes]:
    """Return shape, Fortran order, dtype and the header's bytes; `start` is all that is parsed."""
    stream = io.BytesIO(start)
    try:
        read = _HEADERS[npy.read_magic(stream)]
        shape, fortran_order, dtype = read(stream, max_header_size=_LONGEST_HEADER)
    # The header is a Python literal, and a hostile one fails in whichever way it likes.
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError) as error:
        raise _malformed(path, error) from error
    except (AttributeError, SyntaxError, ValueError, tokenize.TokenError) as error:
        raise _malformed(path, error) from error
    return shape, fortran_order, dtype, start[: stream.tell()]


def _malformed(path: Path, error: Exception) -> RefusedError:
    what = f"{path.name} has a malformed .npy header ({type(error).__name__})"
    return RefusedError(what, where=str(path), fix=_GET_AGAIN)


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) < 40 else f"{text[:36]}...)"  # noqa: PLR2004 - room in one line
