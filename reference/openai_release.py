"""OpenAI's release of GPT-1 as a folder: read whole, and written back to the byte.

    params_0.npy … params_9.npy   all numbers in one row, cut into ten without regard to tensors
    params_shapes.json            the tensors' shapes, in order
    config.json                   not in the release: written beside other shapes, read if there
    encoder_bpe_40000.json, vocab_40000.bpe   the vocabulary, digested here and not read

Blocks that were swapped, or shards under each other's names, show in no shape. They show in the
digests, which every file is returned with.

Source: openai/finetune-transformer-lm, model/ and train.py:404-411.
"""

import dataclasses
import io
import itertools
import json
import math
import os
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from reference.errors import RejectedError, UnavailableError
from reference.files import (
    DigestedFile,
    digest_file,
    digest_path,
    open_plain,
    read_bytes,
    write_bytes,
)

# One shard of OpenAI's release: an `.npy` file with a row of float32 numbers.
#
# Everything is checked before memory is asked for. Only little-endian float32 is read: the release
# has nothing else, and a copy that was byte-swapped on the way is no copy of it.


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


def inspect_shard(path: Path) -> Shard:
    """Read the header of a shard, and nothing after it.

    Raises:
        RefusedError: It is no `.npy` file of one row of little-endian float32, or its size is not
            what the header says.
        UnavailableError: It cannot be read.
    """
    with open_plain(path) as (file, size):
        start = file.read(_LONGEST_HEADER) or b""
    _refuse_disguise(path, start, size)
    shape, fortran_order, dtype, header = _header(path, start)
    if dtype != _DTYPE or dtype.hasobject:
        what = f"{path.name} holds {dtype.str!r}, not little-endian float32 ('<f4')"
        raise RejectedError(what, where=str(path), fix="save it again as float32 with this order")
    if len(shape) != 1 or fortran_order or not 0 <= shape[0] < _BEYOND:
        order = ", in Fortran order" if fortran_order else ""
        what = f"{path.name} has shape {_short(shape)}{order}, where the release has one flat row"
        raise RejectedError(what, where=str(path), fix=_GET_AGAIN)
    expected = len(header) + shape[0] * _DTYPE.itemsize
    if size != expected:
        state = "truncated" if size < expected else "too long"
        what = f"{path.name} is {state}: {size:,} bytes, where its header promises {expected:,}"
        raise RejectedError(what, where=str(path), fix=_GET_AGAIN)
    return Shard(path=path, length=shape[0], header=header)


def read_shard_into(shard: Shard, row: NDArray[np.float32]) -> DigestedFile:
    """Fill `row` `[length]` with the numbers of `shard`; return the file's digests.

    Raises:
        RefusedError: The file changed since it was inspected.
        UnavailableError: It cannot be read.
    """
    view = row.view(np.uint8).data
    with open_plain(shard.path) as (file, _):
        header = file.read(len(shard.header))
        done = 0
        while done < view.nbytes and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
            done += count
        rest = file.read(1)
    if header != shard.header or done != view.nbytes or rest:
        what = f"{shard.path.name} changed while it was read"
        raise RejectedError(
            what, where=str(shard.path), fix="try again when nothing writes to the folder"
        )
    return digest_file(shard.path.name, shard.header, view)


def npy_header(length: int) -> bytes:
    """Return what NumPy writes today before one row of `length` float32 numbers."""
    stream = io.BytesIO()
    described = {"descr": _DTYPE.str, "fortran_order": False, "shape": (length,)}
    npy.write_array_header_1_0(stream, described)
    return stream.getvalue()


def check_npy_header(text: str, length: int, where: str) -> bytes:
    """Return the bytes of a header that was kept as text, if it announces `length` numbers.

    NumPy has padded headers to 16, then to 64 bytes: a shard of another year has another header.

    Raises:
        RefusedError: It announces anything else.
    """
    start = text.encode("latin-1", errors="replace")
    shape, fortran_order, dtype, found = _header(Path(where), start)
    if (shape, fortran_order, dtype, found) != ((length,), False, _DTYPE, start):
        what = f"a shard's header does not announce {length:,} float32 numbers"
        raise RejectedError(what, where=where, fix="leave the headers out, or restore the manifest")
    return start


def _refuse_disguise(path: Path, start: bytes, size: int) -> None:
    """Refuse what is not `.npy` at all, by the name of what it is."""
    if start.startswith(npy.MAGIC_PREFIX):
        return
    unknown = f"no .npy file ({size:,} bytes)" if size else "empty", _GET_AGAIN
    found = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    known = (words for prefix, words in _DISGUISES.items() if found.startswith(prefix))
    what, fix = next(known, unknown)
    raise RejectedError(f"{path.name} is {what}", where=str(path), fix=fix)


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


def _malformed(path: Path, error: Exception) -> RejectedError:
    what = f"{path.name} has a malformed .npy header ({type(error).__name__})"
    return RejectedError(what, where=str(path), fix=_GET_AGAIN)


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) < 40 else f"{text[:36]}...)"  # noqa: PLR2004 - room in one line


# The one row of numbers that a release's ten shards make, cut into tensors and back.


Array = NDArray[np.float32]
OnFile = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_SCANNED = 1 << 18
"""Numbers looked at together when NaN is searched: they and the answers stay in the cache."""

_DOWNLOAD_AGAIN = "give a complete copy of the release's model folder"


def read_row(
    shards: Sequence[Shard], due: int, on_file: OnFile | None
) -> tuple[Array, list[DigestedFile]]:
    """Return the row of `due` numbers, and the digests of the files it was read from.

    Raises:
        RefusedError: The shards hold another count of numbers, or changed since inspected.
        UnavailableError: One cannot be read.
    """
    total = sum(shard.length for shard in shards)
    if total != due:
        what = f"the shards hold {total:,} numbers, the shapes ask for {due:,}"
        raise RejectedError(what, where=str(shards[0].path.parent), fix=_DOWNLOAD_AGAIN)
    row = np.empty(total, "<f4")
    ends = itertools.accumulate(shard.length for shard in shards)
    files = []
    for shard, end in zip(shards, ends, strict=True):
        files.append(read_shard_into(shard, row[end - shard.length : end]))
        if on_file is not None:
            on_file(len(files), len(shards))
    return row.astype(np.float32, copy=False), files


def split_row(row: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return the tensors that lie one after another in `row`, as views of it."""
    ends = itertools.accumulate(math.prod(shape) for shape in shapes)
    return [
        row[end - math.prod(shape) : end].reshape(shape)
        for shape, end in zip(shapes, ends, strict=True)
    ]


def refuse_non_finite(tensors: Sequence[Array], where: str) -> None:
    """Look at every number.

    Raises:
        RefusedError: Some are NaN or infinite; the first such tensor is named, with their count.
    """
    for index, tensor in enumerate(tensors):
        flat = tensor.reshape(-1)
        pieces = (flat[start : start + _SCANNED] for start in range(0, flat.size, _SCANNED))
        bad = sum(piece.size - int(np.count_nonzero(np.isfinite(piece))) for piece in pieces)
        if bad:
            what = (
                f"tensor {index} {list(tensor.shape)} has {bad:,} numbers that are NaN or infinite"
            )
            raise RejectedError(what, where=where, fix=_DOWNLOAD_AGAIN)


def row_cuts(total: int, count: int, lengths: Sequence[int] | None, where: str) -> list[int]:
    """Return how many numbers go into each of `count` shards: `lengths`, or equal parts.

    Raises:
        RefusedError: `lengths` are not `count` numbers that make `total`.
    """
    if lengths is None:
        part = -(-total // count)
        return [min(part, max(0, total - index * part)) for index in range(count)]
    sound = all(type(length) is int and length >= 0 for length in lengths)
    if not sound or len(lengths) != count or sum(lengths) != total:
        what = f"the manifest's shard lengths are not {count} numbers that make {total:,}"
        raise RejectedError(what, where=where, fix="leave the manifest out, or restore it")
    return list(lengths)


def row_pieces(
    tensors: Sequence[Array], cuts: Sequence[int], where: str
) -> Iterator[list[memoryview]]:
    """Yield, for each cut, the bytes of its numbers as views of the tensors they come from.

    Raises:
        RefusedError: A tensor is not float32.
    """
    index = offset = 0
    for cut in cuts:
        parts: list[memoryview] = []
        wanted = cut
        while wanted:
            flat = _flat(tensors[index], where)[offset : offset + wanted]
            parts.append(flat.view(np.uint8).data)
            wanted, offset = wanted - flat.size, offset + flat.size
            if offset == tensors[index].size:
                index, offset = index + 1, 0
        yield parts


def _flat(tensor: Array, where: str) -> Array:
    """Return the little-endian numbers of `tensor` in one row, without a copy where they lie so."""
    if tensor.dtype != np.float32:
        what = f"a tensor is {tensor.dtype}, and the release holds float32"
        raise RejectedError(what, where=where, fix="convert it to float32 first")
    return np.ascontiguousarray(tensor, "<f4").reshape(-1)


# The shapes of OpenAI's release: `params_shapes.json`, and what a GPT-1's must be.


Shape = tuple[int, ...]

SHAPES_FILE = "params_shapes.json"
PER_BLOCK = 12
"""Tensors of one block; before the first stand positions and tokens."""

RELEASED_SIZES = {"n_positions": 512, "vocab_size": 40_478, "n_embd": 768, "n_layer": 12}
RELEASED_HEADS = 12
"""Of the published model. In no tensor's shape: other shapes need a config to say it."""

_FIX = "give the params_shapes.json that belongs to these shards"


def gpt_shapes(*, n_positions: int, vocab_size: int, n_embd: int, n_layer: int) -> list[Shape]:
    """Return every shape of a GPT-1 of these sizes, in the release's order.

    Positions `[n_positions, width]` come first, then tokens `[vocab, width]`, then the blocks, in
    which each matrix is a convolution of width one: `[1, in, out]`.

    Source: openai/finetune-transformer-lm, model/params_shapes.json and train.py:404-411.
    """
    width, inner = n_embd, 4 * n_embd
    block: list[Shape] = [
        *((1, width, 3 * width), (3 * width,), (1, width, width), (width,)),
        *((width,), (width,)),
        *((1, width, inner), (inner,), (1, inner, width), (width,)),
        *((width,), (width,)),
    ]
    return [(n_positions, width), (vocab_size, width), *block * n_layer]


def parse_shapes(text: bytes, where: str) -> list[Shape]:
    """Return the shapes that `params_shapes.json` lists.

    Raises:
        RefusedError: It is not JSON, no list of lists of positive integers, or not a GPT-1's.
    """
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{SHAPES_FILE} is not JSON ({type(error).__name__})"
        raise RejectedError(what, where=where, fix=_FIX) from error
    if not isinstance(listed, list) or not all(map(_is_shape, listed)):
        what = f"{SHAPES_FILE} is not a list of lists of positive integers"
        raise RejectedError(what, where=where, fix=_FIX)
    shapes = [tuple(shape) for shape in listed]
    shape_sizes(shapes, where)
    return shapes


def dump_shapes(shapes: Sequence[Shape]) -> bytes:
    """Return `params_shapes.json` as the release writes it: one line, no newline at its end."""
    return json.dumps(shapes).encode()


def shape_sizes(shapes: Sequence[Shape], where: str) -> dict[str, int]:
    """Return the sizes, in Hugging Face's field names, of the GPT-1 that has these shapes.

    Raises:
        RefusedError: No GPT-1 has them.
    """
    n_layer, left = divmod(len(shapes) - 2, PER_BLOCK)
    if n_layer < 1 or left:
        what = f"there are {len(shapes)} tensors, where a GPT-1 has 2 and {PER_BLOCK} a block"
        raise RejectedError(what, where=where, fix=_FIX)
    found = {
        "n_positions": shapes[0][0],
        "vocab_size": shapes[1][0],
        "n_embd": shapes[0][-1],
        "n_layer": n_layer,
    }
    for index, (shape, due) in enumerate(zip(shapes, gpt_shapes(**found), strict=True)):
        if shape != due:
            what = f"tensor {index} has shape {list(shape)!s:.60}, where {list(due)} is due"
            raise RejectedError(what, where=where, fix=_FIX)
    return found


def count_parameters(shapes: Sequence[Shape]) -> int:
    """Return the number of parameters of all shapes together."""
    return sum(math.prod(shape) for shape in shapes)


def check_config(shapes: Sequence[Shape], config: Mapping[str, Any] | None, where: str) -> None:
    """Hold a config against the shapes; without one, hold the shapes against the published ones.

    Raises:
        RefusedError: A size differs, or no config says how many heads these shapes have.
    """
    found = shape_sizes(shapes, where)
    if config is None:
        if found == RELEASED_SIZES:
            return
        what = (
            "no config.json says how many heads there are, and these are not the published shapes"
        )
        raise RejectedError(what, where=where, fix="put the model's config.json beside the shards")
    for name, size in found.items():
        said = config.get(name)
        if said != size or isinstance(said, bool):
            what = f"config.json says {name}={said!r:.40}, the tensors say {size}"
            raise RejectedError(what, where=where, fix="give the config.json of these shards")


def _is_shape(entry: object) -> bool:
    """Return whether `entry` is a list of positive integers; `true` is none."""
    return (
        isinstance(entry, list)
        and bool(entry)
        and all(type(size) is int and size > 0 for size in entry)
    )


SHARDS = tuple(f"params_{index}.npy" for index in range(10))
CONFIG = "config.json"
VOCABULARY = ("encoder_bpe_40000.json", "vocab_40000.bpe")

_SHARD_NAME = re.compile(r"params_\d+\.npy", re.IGNORECASE)
_LARGEST_JSON = 1 << 20
_OPENAI_RELEASE_GET_AGAIN = "give a complete copy of the release's model folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """What a release's folder holds.

    Attributes:
        tensors: In the release's order and shapes, matrices `[1, in, out]`; positions first, then
            tokens, then twelve a block. Float32 views of one buffer, writable.
        config: Fields of `config.json`; None where there is none, and then the shapes are the
            published ones.
        files: Every file that was read, with its digests.
        lengths: How many numbers each shard holds, as `write` takes them.
        headers: What stands before the numbers of each shard, as `write` takes it: bytes as text
            of the same code points, which JSON can keep.
    """

    tensors: Sequence[Array]
    config: Mapping[str, Any] | None
    files: Sequence[DigestedFile]
    lengths: Sequence[int]
    headers: Sequence[str]


def read_release(folder: Path, on_file: OnFile | None = None) -> Release:
    """Read a release. Memory: its numbers once, and nothing of that size besides.

    Args:
        folder: Where the files lie.
        on_file: Called as the shards are read.

    Raises:
        RefusedError: A file is missing, superfluous, damaged or not what it is called; shards,
            shapes and config do not fit each other; or a number is NaN or infinite.
        UnavailableError: A file cannot be read.
    """
    folder = Path(folder)
    _refuse_strangers(folder)
    text = read_bytes(folder / SHAPES_FILE, _LARGEST_JSON)
    shapes = parse_shapes(text, str(folder / SHAPES_FILE))
    config_text = _config_text(folder / CONFIG)
    config = None if config_text is None else _config(config_text, folder / CONFIG)
    check_config(shapes, config, str(folder))
    shards = [inspect_shard(folder / name) for name in SHARDS]
    row, files = read_row(shards, count_parameters(shapes), on_file)
    tensors = split_row(row, shapes)
    refuse_non_finite(tensors, str(folder))
    files.append(digest_file(SHAPES_FILE, text))
    if config_text is not None:
        files.append(digest_file(CONFIG, config_text))
    files += [digest_path(folder / name) for name in VOCABULARY if (folder / name).exists()]
    lengths = [shard.length for shard in shards]
    headers = [shard.header.decode("latin-1") for shard in shards]
    return Release(tensors=tensors, config=config, files=files, lengths=lengths, headers=headers)


def write_release(  # noqa: PLR0913 - what it can be told is all there is to tell
    folder: Path,
    tensors: Sequence[Array],
    *,
    config: Mapping[str, Any] | None,
    lengths: Sequence[int] | None = None,
    headers: Sequence[str] | None = None,
    on_file: OnFile | None = None,
) -> list[DigestedFile]:
    """Write shards, shapes and config into `folder`, which exists; its other files stay.

    A release that was read is written to the same bytes, given its lengths, and its headers where
    they are not those that NumPy writes today. Nothing is synced or renamed into place here.

    Args:
        folder: Where to write.
        tensors: In the release's order and shapes, as `Release.tensors`.
        config: Fields for `config.json`; None writes none, for the published shapes alone.
        lengths: Numbers in each of the ten shards; None cuts ten equal ones, the last shorter.
        headers: Of each of the ten shards, as in `Release`; None are those of NumPy.
        on_file: Called as the shards are written.

    Returns:
        Every file written, with its digests.

    Raises:
        RefusedError: Tensors, config and lengths do not fit each other.
        UnavailableError: The folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    shapes = [tensor.shape for tensor in tensors]
    check_config(shapes, config, str(folder))
    cuts = row_cuts(count_parameters(shapes), len(SHARDS), lengths, str(folder))
    starts = _headers(cuts, headers, str(folder))
    files: list[DigestedFile] = []
    pieces = row_pieces(tensors, cuts, str(folder))
    for name, start, parts in zip(SHARDS, starts, pieces, strict=True):
        files.append(write_bytes(folder / name, [start, *parts]))
        if on_file is not None:
            on_file(len(files), len(SHARDS))
    files.append(write_bytes(folder / SHAPES_FILE, [dump_shapes(shapes)]))
    if config is not None:
        text = json.dumps(dict(config), indent=2, sort_keys=True, allow_nan=False) + "\n"
        files.append(write_bytes(folder / CONFIG, [text.encode()]))
    return files


def _refuse_strangers(folder: Path) -> None:
    """Refuse a folder that is none, and shards beyond the ten."""
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "there is no such folder"
        raise RejectedError(what, where=str(folder), fix=_OPENAI_RELEASE_GET_AGAIN) from error
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror}"
        raise UnavailableError(what, where=str(folder), fix="check its permissions") from error
    strangers = sorted(name for name in names if _SHARD_NAME.fullmatch(name) and name not in SHARDS)
    if strangers:
        what = f"{strangers[0]} is no shard of the release, which has {SHARDS[0]} to {SHARDS[-1]}"
        raise RejectedError(what, where=str(folder), fix="remove it, or give the whole release")


def _headers(cuts: Sequence[int], headers: Sequence[str] | None, where: str) -> list[bytes]:
    """Return what is written before the numbers of each shard."""
    if headers is None:
        return [npy_header(cut) for cut in cuts]
    if len(headers) != len(cuts):
        what = f"there are {len(headers)} headers for {len(cuts)} shards"
        raise RejectedError(what, where=where, fix="leave the headers out, or restore the manifest")
    given = zip(headers, cuts, strict=True)
    return [check_npy_header(text, cut, where) for text, cut in given]


def _config_text(path: Path) -> bytes | None:
    """Return the bytes of config.json, None where there is none; a dangling link is refused."""
    return read_bytes(path, _LARGEST_JSON) if os.path.lexists(path) else None


def _config(text: bytes, path: Path) -> dict[str, Any]:
    """Return the fields of config.json."""
    fix = "put the model's own config.json beside the shards"
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = f"{CONFIG} is not JSON ({type(error).__name__})"
        raise RejectedError(what, where=str(path), fix=fix) from error
    if not isinstance(fields, dict):
        raise RejectedError(f"{CONFIG} is not a JSON object", where=str(path), fix=fix)
    return fields


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which JSON has not."""
    raise ValueError(name)
