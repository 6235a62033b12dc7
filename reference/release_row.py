"""The one row of numbers that a release's ten shards make, cut into tensors and back."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from reference import npy_shard
from reference.npy_shard import Shard
from reference.plain_file import DigestedFile
from reference.refusal import RefusedError

Array = NDArray[np.float32]
OnFile = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_SCANNED = 1 << 18
"""Numbers looked at together when NaN is searched: they and the answers stay in the cache."""

_GET_AGAIN = "give a complete copy of the release's model folder"


def read(
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
        raise RefusedError(what, where=str(shards[0].path.parent), fix=_GET_AGAIN)
    row = np.empty(total, "<f4")
    ends = itertools.accumulate(shard.length for shard in shards)
    files = []
    for shard, end in zip(shards, ends, strict=True):
        files.append(npy_shard.read_into(shard, row[end - shard.length : end]))
        if on_file is not None:
            on_file(len(files), len(shards))
    return row.astype(np.float32, copy=False), files


def split(row: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
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
            raise RefusedError(what, where=where, fix=_GET_AGAIN)


def cuts(total: int, count: int, lengths: Sequence[int] | None, where: str) -> list[int]:
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
        raise RefusedError(what, where=where, fix="leave the manifest out, or restore it")
    return list(lengths)


def pieces(tensors: Sequence[Array], cuts: Sequence[int], where: str) -> Iterator[list[memoryview]]:
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
        raise RefusedError(what, where=where, fix="convert it to float32 first")
    return np.ascontiguousarray(tensor, "<f4").reshape(-1)
