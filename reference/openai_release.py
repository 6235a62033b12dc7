"""OpenAI's release of GPT-1 as a folder: read whole, and written back to the byte.

    params_0.npy … params_9.npy   all numbers in one row, cut into ten without regard to tensors
    params_shapes.json            the tensors' shapes, in order
    config.json                   not in the release: required beside other shapes, else optional
    encoder_bpe_40000.json, vocab_40000.bpe   the vocabulary; only its digests are taken

No shape shows that two blocks or two shards were swapped. The digests show it: every file is
returned with its own.

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
    require_memory,
    write_bytes,
)

Array = NDArray[np.float32]
Shape = tuple[int, ...]
OnFile = Callable[[int, int], None]
"""Called with (files done, files in all)."""

SHARDS = tuple(f"params_{index}.npy" for index in range(10))
SHAPES_FILE = "params_shapes.json"
CONFIG = "config.json"
VOCABULARY = ("encoder_bpe_40000.json", "vocab_40000.bpe")

RELEASED_SIZES = {"n_positions": 512, "vocab_size": 40_478, "n_embd": 768, "n_layer": 12}
_PER_BLOCK = 12
"""Tensors of one block; positions and tokens come before the first."""

_SHARD_NAME = re.compile(r"params_\d+\.npy", re.IGNORECASE)
_LARGEST_JSON = 1 << 20
_SCANNED = 1 << 18
"""Numbers searched for NaN at a time: they and the answers stay in the processor's cache."""

_WHOLE_FOLDER = "give a complete copy of the release's model folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """Contents of a release's folder.

    `tensors` are in the release's order and shapes: positions, tokens, then twelve a block, in
    which matrices are `[1, in, out]`. They are writable float32 views of one buffer.
    """

    tensors: Sequence[Array]
    config: Mapping[str, Any] | None  # None without a config.json, for the published shapes alone
    files: Sequence[DigestedFile]
    lengths: Sequence[int]  # numbers of each shard
    headers: Sequence[str]  # of each shard, as latin-1 text, which JSON can hold


def read_release(folder: Path, on_file: OnFile | None = None) -> Release:
    """Return a release. It takes the memory of its numbers and of one shard.

    Raises:
        RejectedError: A file is missing, superfluous, damaged or of another kind; shards, shapes
            and config disagree; or a number is NaN or infinite.
        UnavailableError: A file cannot be read, or this machine has too little memory.
    """
    folder = Path(folder)
    _check_names(folder)
    shapes_text = read_bytes(folder / SHAPES_FILE, _LARGEST_JSON)
    shapes = parse_shapes(shapes_text, str(folder / SHAPES_FILE))
    config, config_text = None, None
    if os.path.lexists(folder / CONFIG):  # a dangling link is an error, not an absence
        config_text = read_bytes(folder / CONFIG, _LARGEST_JSON)
        fix = "put the model's own config.json beside the shards"
        where = str(folder / CONFIG)
        config = _parse_json(config_text, CONFIG, where, fix)
        if not isinstance(config, dict):
            raise RejectedError(f"{CONFIG} is not a JSON object", where=where, fix=fix)
    check_config(shapes, config, str(folder))
    shards = [inspect_shard(folder / name) for name in SHARDS]
    total, due = sum(shard.length for shard in shards), count_parameters(shapes)
    if total != due:
        what = f"the shards hold {total:,} numbers, the shapes ask for {due:,}"
        raise RejectedError(what, where=str(folder), fix=_WHOLE_FOLDER)
    require_memory(total * _DTYPE.itemsize, str(folder))
    row = np.empty(total, np.float32)
    files = []
    for shard, part in zip(shards, _split(row, [s.length for s in shards]), strict=True):
        files.append(read_shard(shard, part))
        if on_file is not None:
            on_file(len(files), len(shards))
    parts = _split(row, [math.prod(shape) for shape in shapes])
    tensors = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    _check_finite(tensors, str(folder))
    files.append(digest_file(SHAPES_FILE, shapes_text))
    if config_text is not None:
        files.append(digest_file(CONFIG, config_text))
    files += [digest_path(folder / name) for name in VOCABULARY if (folder / name).exists()]
    return Release(
        tensors=tensors,
        config=config,
        files=files,
        lengths=[shard.length for shard in shards],
        headers=[shard.header.decode("latin-1") for shard in shards],
    )


def write_release(  # noqa: PLR0913 - each names one part of the folder
    folder: Path,
    tensors: Sequence[Array],
    *,
    config: Mapping[str, Any] | None,
    lengths: Sequence[int] | None = None,
    headers: Sequence[str] | None = None,
    on_file: OnFile | None = None,
) -> list[DigestedFile]:
    """Write shards, shapes and config into an existing folder; return the digests of each.

    With the lengths and headers of a `Release` its bytes are written again. By default the ten
    shards are of equal length, the last one shorter, with the headers of today's NumPy. Nothing is
    synced or renamed here, and other files of the folder stay.

    Raises:
        RejectedError: Tensors, config, lengths and headers disagree.
        UnavailableError: The folder cannot be written to, or the disk is full.
    """
    folder, where = Path(folder), str(folder)
    shapes = [tensor.shape for tensor in tensors]
    check_config(shapes, config, where)
    total = count_parameters(shapes)
    if lengths is None:
        part = -(-total // len(SHARDS))
        lengths = [min(part, max(0, total - index * part)) for index in range(len(SHARDS))]
    sound = all(type(length) is int and length >= 0 for length in lengths)
    if not sound or len(lengths) != len(SHARDS) or sum(lengths) != total:
        what = f"the manifest's shard lengths are not {len(SHARDS)} numbers that make {total:,}"
        raise RejectedError(what, where=where, fix="leave the manifest out, or restore it")
    if headers is not None and len(headers) != len(SHARDS):
        what = f"there are {len(headers)} headers for {len(SHARDS)} shards"
        raise RejectedError(what, where=where, fix="leave the headers out, or restore the manifest")
    starts = (
        [npy_header(length) for length in lengths]
        if headers is None
        else [_check_header(*pair, where) for pair in zip(headers, lengths, strict=True)]
    )
    files: list[DigestedFile] = []
    rows = _shard_rows(tensors, lengths, where)
    for name, start, parts in zip(SHARDS, starts, rows, strict=True):
        files.append(write_bytes(folder / name, [start, *parts]))
        if on_file is not None:
            on_file(len(files), len(SHARDS))
    files.append(write_bytes(folder / SHAPES_FILE, [dump_shapes(shapes)]))
    if config is not None:
        text = json.dumps(dict(config), indent=2, sort_keys=True, allow_nan=False) + "\n"
        files.append(write_bytes(folder / CONFIG, [text.encode()]))
    return files


def _split(row: Array, lengths: Sequence[int]) -> list[Array]:
    """Return views of consecutive parts of these lengths."""
    return np.split(row, list(itertools.accumulate(lengths))[:-1])


def _check_names(folder: Path) -> None:
    """Require a folder without a shard beyond the ten."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "there is no such folder"
        raise RejectedError(what, where=str(folder), fix=_WHOLE_FOLDER) from error
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror}"
        raise UnavailableError(what, where=str(folder), fix="check its permissions") from error
    for name in names:
        if _SHARD_NAME.fullmatch(name) and name not in SHARDS:
            what = f"{name} is no shard of the release, which has {SHARDS[0]} to {SHARDS[-1]}"
            raise RejectedError(what, where=str(folder), fix="remove it, or give the whole release")


def _parse_json(text: bytes, name: str, where: str, fix: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of a JSON file; NaN and Infinity are not JSON."""

    def refuse_constant(literal: str) -> None:
        raise ValueError(literal)

    try:
        return json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        what = f"{name} is not JSON ({type(error).__name__})"
        raise RejectedError(what, where=where, fix=fix) from error


def _check_finite(tensors: Sequence[Array], where: str) -> None:
    """Require finite numbers; an error names the first tensor with others, and their count."""
    for index, tensor in enumerate(tensors):
        flat = tensor.reshape(-1)
        pieces = (flat[start : start + _SCANNED] for start in range(0, flat.size, _SCANNED))
        bad = sum(piece.size - int(np.count_nonzero(np.isfinite(piece))) for piece in pieces)
        if bad:
            shape = list(tensor.shape)
            what = f"tensor {index} {shape} has {bad:,} numbers that are NaN or infinite"
            raise RejectedError(what, where=where, fix=_WHOLE_FOLDER)


def _shard_rows(
    tensors: Sequence[Array], lengths: Sequence[int], where: str
) -> Iterator[list[memoryview]]:
    """Yield the bytes of each shard's numbers, as views of the tensors, which must be float32."""
    index = offset = 0
    for length in lengths:
        parts: list[memoryview] = []
        wanted = length
        while wanted:
            tensor = tensors[index]
            if tensor.dtype != np.float32:
                what = f"a tensor is {tensor.dtype}, and the release holds float32"
                raise RejectedError(what, where=where, fix="convert it to float32 first")
            flat = np.ascontiguousarray(tensor, "<f4").reshape(-1)[offset : offset + wanted]
            parts.append(flat.view(np.uint8).data)
            wanted, offset = wanted - flat.size, offset + flat.size
            if offset == tensor.size:
                index, offset = index + 1, 0
        yield parts


# The shapes: `params_shapes.json`, and those that a GPT-1 has.

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
        RejectedError: It is not JSON, no list of lists of positive integers, or not a GPT-1's.
    """
    listed = _parse_json(text, SHAPES_FILE, where, _FIX)
    if not isinstance(listed, list) or not all(
        isinstance(entry, list)
        and bool(entry)
        and all(type(size) is int and size > 0 for size in entry)  # `true` is no size
        for entry in listed
    ):
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
        RejectedError: No GPT-1 has them.
    """
    n_layer, left = divmod(len(shapes) - 2, _PER_BLOCK)
    if n_layer < 1 or left:
        what = f"there are {len(shapes)} tensors, where a GPT-1 has 2 and {_PER_BLOCK} a block"
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
    """Compare a config with the shapes, or without one the shapes with the published ones.

    Raises:
        RejectedError: A size differs, or no config gives the number of heads of these shapes.
    """
    found = shape_sizes(shapes, where)
    if config is None:
        if found == RELEASED_SIZES:
            return
        what = "no config.json gives the number of heads, and the shapes are not the published ones"
        raise RejectedError(what, where=where, fix="put the model's config.json beside the shards")
    for name, size in found.items():
        given = config.get(name)
        if given != size or isinstance(given, bool):
            what = f"config.json has {name}={given!r:.40}, the tensors have {size}"
            raise RejectedError(what, where=where, fix="give the config.json of these shards")


# A shard: an `.npy` file with a row of float32 numbers.
#
# The header is checked before memory is allocated. Only little-endian float32 is read: the release
# has nothing else, and a byte-swapped copy is no copy of it.

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LONGEST_HEADER = 4096
"""In bytes. The header of one row of float32 takes 128."""

_MALFORMED = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, SyntaxError, TypeError, ValueError),
)
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
"""Other files under a shard's name, by their first bytes: the kind, and the fix."""

_BLANK = b"\xef\xbb\xbf \t\r\n"
_ONE_LINE = 40
_GET_AGAIN = "get the file again: it is damaged, or not one of the release's shards"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file whose size agrees with its header."""

    path: Path
    length: int  # of its float32 numbers
    header: bytes  # all bytes before them


def inspect_shard(path: Path) -> Shard:
    """Return a shard's length and header; its numbers are not read.

    Raises:
        RejectedError: It is no `.npy` file of one row of little-endian float32, or its size
            differs from the header's.
        UnavailableError: It cannot be read.
    """
    with open_plain(path) as (file, size):
        start = file.read(_LONGEST_HEADER) or b""
    if not start.startswith(npy.MAGIC_PREFIX):
        kinds = [kind for mark, kind in _DISGUISES.items() if start.lstrip(_BLANK).startswith(mark)]
        unknown = (f"no .npy file ({size:,} bytes)" if size else "empty", _GET_AGAIN)
        what, fix = (*kinds, unknown)[0]
        raise RejectedError(f"{path.name} is {what}", where=str(path), fix=fix)
    shape, fortran_order, dtype, header = _header(path, start)
    if dtype != _DTYPE or dtype.hasobject:
        what = f"{path.name} holds {dtype.str!r}, not little-endian float32 ('<f4')"
        raise RejectedError(what, where=str(path), fix="save it again as float32 with this order")
    if len(shape) != 1 or fortran_order or not 0 <= shape[0] < _BEYOND:
        order = ", in Fortran order" if fortran_order else ""
        text = str(shape) if len(str(shape)) < _ONE_LINE else f"{str(shape)[: _ONE_LINE - 4]}...)"
        what = f"{path.name} has shape {text}{order}, where the release has one flat row"
        raise RejectedError(what, where=str(path), fix=_GET_AGAIN)
    expected = len(header) + shape[0] * _DTYPE.itemsize
    if size != expected:
        state = "truncated" if size < expected else "too long"
        what = f"{path.name} is {state}: {size:,} bytes, where its header promises {expected:,}"
        raise RejectedError(what, where=str(path), fix=_GET_AGAIN)
    return Shard(path=path, length=shape[0], header=header)


def read_shard(shard: Shard, row: Array) -> DigestedFile:
    """Fill `row` `[length]` with the numbers of `shard`; return the file's digests.

    Raises:
        RejectedError: The file changed since it was inspected.
        UnavailableError: It cannot be read.
    """
    changed = RejectedError(
        f"{shard.path.name} changed while it was read",
        where=str(shard.path),
        fix="try again when nothing writes to the folder",
    )
    with open_plain(shard.path) as (file, size):
        try:
            numbers = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise changed from error
        file.seek(0)
        header = file.read(len(shard.header))
    found = (numbers.dtype, numbers.shape, header, size)
    if found != (_DTYPE, (shard.length,), shard.header, len(header) + numbers.nbytes):
        raise changed
    row[:] = numbers
    return digest_file(shard.path.name, shard.header, numbers.view(np.uint8).data)


def npy_header(length: int) -> bytes:
    """Return the header that NumPy writes today for one row of `length` float32 numbers."""
    stream = io.BytesIO()
    described = {"descr": _DTYPE.str, "fortran_order": False, "shape": (length,)}
    npy.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _check_header(text: str, length: int, where: str) -> bytes:
    """Return the bytes of a header kept as text, which must announce `length` numbers.

    NumPy has padded headers to 16, then to 64 bytes: older shards have other headers.
    """
    start = text.encode("latin-1", errors="replace")
    shape, fortran_order, dtype, found = _header(Path(where), start)
    if (shape, fortran_order, dtype, found) != ((length,), False, _DTYPE, start):
        what = f"a shard's header does not announce {length:,} float32 numbers"
        raise RejectedError(what, where=where, fix="leave the headers out, or restore the manifest")
    return start


def _header(path: Path, start: bytes) -> tuple[Shape, bool, np.dtype, bytes]:
    """Return shape, Fortran order, dtype and the header's bytes; only `start` is parsed."""
    stream = io.BytesIO(start)
    try:
        read = _HEADERS[npy.read_magic(stream)]
        shape, fortran_order, dtype = read(stream, max_header_size=_LONGEST_HEADER)
    # The header is a Python literal; a hostile one can fail with any of these.
    except (*_MALFORMED, tokenize.TokenError) as error:
        what = f"{path.name} has a malformed .npy header ({type(error).__name__})"
        raise RejectedError(what, where=str(path), fix=_GET_AGAIN) from error
    return shape, fortran_order, dtype, start[: stream.tell()]
