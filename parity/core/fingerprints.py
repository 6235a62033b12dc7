"""Fingerprints of tensors and ids, to compare runs on two machines without the tensors.

A digest shows whether anything changed, to the bit; a sketch shows by how much. A report holds them
with `--fingerprints`, since they cost time.
"""

import base64
import dataclasses
import fnmatch
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A sketch is a tensor in 61 numbers, from which its distance to another one can be estimated.
#
# A count sketch: every element goes, as it is or negated, into one of 61 buckets; which, and with
# what sign, is drawn for its place in the tensor. A sum is linear, so the difference of two
# sketches is the sketch of the difference, and the square of its length has the square of the
# difference's as its mean, whatever that looks like: one element, one column, or everywhere the
# same. What two elements of one bucket add to the square has either sign, and spreads it by about
# sqrt(2/61), 18 %.
#
# Signs are drawn for every element, buckets for every cell: the up to eight elements of a chunk
# that are a multiple of 4093 places apart. It is a prime, so that no column and no row of a tensor
# has many of its elements in one cell; and adding up cells first takes half the time, and rounds
# less.
#
# The draws are a fixed sequence: words of Philox, which NumPy promises to keep, and not its
# distributions, which it does not. Sums are float64, in the order of places, so that they are the
# same with every torch and processor.
#
# Source: Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams".


BUCKETS = 61
"""Numbers of a sketch."""

CELLS = 4_093
"""Cells of a chunk; a prime."""

CHUNK = 8 * CELLS
"""Elements that are summed at once: a chunk's sums are small, and so is their rounding.

torch splits larger tensors among threads, which on a busy machine wait for each other.
"""

ROUNDING = 1e-15
"""The precision of a sketch, over the norm: an estimate below it means nothing."""

_KEY = int.from_bytes(b"gpt1-parity", "little")

Sums = NDArray[np.float64]
"""A sketch, `[61]`."""


class Draws:
    """Signs of all elements and buckets of all cells, chunk by chunk, drawn once."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=_KEY)
        self._chunks: list[tuple[NDArray[np.int8], NDArray[np.uint8]]] = []

    def chunk(self, number: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
        """Return signs `[CHUNK]` and buckets `[CELLS]` from element `number * CHUNK` on.

        A sign is drawn from a bit, a bucket from a byte. 256 is no multiple of 61, so that twelve
        buckets are drawn a quarter more often; it adds a hundredth to the spread's square, and
        nothing to the mean.
        """
        while len(self._chunks) <= number:
            bits = np.unpackbits(self._bytes(CHUNK // 8), count=CHUNK)
            buckets = self._bytes(CELLS) % BUCKETS
            self._chunks.append((bits.astype(np.int8) * 2 - 1, buckets.astype(np.uint8)))
        return self._chunks[number]

    def _bytes(self, count: int) -> NDArray[np.uint8]:
        """Return bytes of whole words; the rest of the last word is dropped."""
        drawn = self._philox.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
        return drawn[:count]


class Sketch:
    """The sketch and the sum of squares of a tensor that comes in chunks."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._sums: list[Sums] = []
        self._squares: list[float] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Add the next elements, flat: `CHUNK` of them, except at the end."""
        signs, buckets = self._draws.chunk(len(self._sums))
        signed = np.zeros(-(-len(values) // CELLS) * CELLS)
        np.multiply(values, signs[: len(values)], out=signed[: len(values)])
        cells = signed.reshape(-1, CELLS).sum(axis=0)
        added = np.bincount(buckets, weights=cells, minlength=BUCKETS)
        self._sums.append(added.astype(np.float64, copy=False))
        self._squares.append(float(np.square(values).sum()))

    @property
    def norm(self) -> float:
        """The root of the sum of squares."""
        return float(np.sqrt(np.sum(self._squares)))

    @property
    def sums(self) -> Sums:
        """The buckets, `[61]`."""
        if not self._sums:
            return np.zeros(BUCKETS)
        # Down the columns NumPy adds one row after the other, on every processor alike.
        whole: Sums = np.sum(self._sums, axis=0)
        return whole


def encoded(sums: Sums) -> str:
    """Return a sketch as base64 of little-endian float64."""
    return base64.b64encode(sums.astype("<f8").tobytes()).decode("ascii")


def decoded(text: str) -> Sums:
    """Return the sketch that a text holds.

    Raises:
        ValueError: It is no base64, or does not hold 61 numbers.
    """
    held = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
    if len(held) != BUCKETS:
        message = f"a sketch has {BUCKETS} numbers, this one {len(held)}"
        raise ValueError(message)
    return held


def distance(one: str, other: str) -> float:
    """Return the estimated length of the difference of two tensors of one shape.

    It is given their encoded sketches, and is right to about 9 %, down to `ROUNDING` of their norm.

    Raises:
        ValueError: One of them is no sketch.
    """
    return float(np.linalg.norm(decoded(one) - decoded(other)))


DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The fingerprint of one tensor, or of the ids of one run; the first four fields are its key.

    Attributes:
        subject: `ours/` and the backend, `huggingface` or `oracle`. In mode per-op the references
            run once per backend and have its name too, as `huggingface/tiled`. The oracle's numbers
            are then the inputs of the operations, rounded to the checked dtype.
        dtype: Dtype of the run; `ids` where nothing was computed.
        mode: A `parity.core.results.Mode`.
        shape: The tensor's shape; for ids their number.
        digest: The first 16 hexadecimal digits of SHA-256, over dtype, shape and bytes in C order;
            entries that do not count are 0. Zeros of either sign differ.
        norm: The root of the sum of squares; None for ids, and for what is not finite.
        sketch: The sketch in base64; empty where there is no norm.
    """

    subject: str
    dtype: str
    mode: str
    tap: str
    shape: tuple[int, ...]
    digest: str
    norm: float | None = None
    sketch: str = ""


class Fingerprints:
    """Takes fingerprints of tensors, if they are wanted, of the taps that match a pattern.

    A key is taken once: a reference that runs again for another backend has the same fingerprints.
    """

    def __init__(self, *, wanted: bool = False, select: str = "*") -> None:
        self.wanted, self._select = wanted, select
        self._draws = Draws()
        self._taken: dict[tuple[str, str, str], Fingerprint | None] = {}

    @property
    def taken(self) -> list[Fingerprint]:
        """Every fingerprint, in the order in which their places were kept, else taken."""
        return [found for found in self._taken.values() if found is not None]

    def keep_places(self, run: str, taps: Iterable[str]) -> None:
        """Fix the order of taps of a run, such as `ours/plain/float32`, before they come."""
        for tap in taps:
            self._taken.setdefault((run, _own(run), tap))

    def take(
        self, run: str, tap: str, tensor: Tensor, *, beside: str = "", visible: Tensor | None = None
    ) -> None:
        """Take the fingerprint of a tensor of any float dtype and layout, on any device.

        `run` is subject and dtype: `ours/plain/float32`. `beside` is the backend in mode per-op; a
        reference gets its name. `visible` is False at entries that do not count.
        """
        mode = _own(run)
        if beside:
            side, _, dtype = run.partition("/")
            mode, run = "per-op", run if side == "ours" else f"{side}/{beside}/{dtype}"
        subject, _, dtype = run.rpartition("/")
        if not self._takes(run, mode, tap):
            return
        digest, sketch = self._measured(tensor.detach(), visible)
        finite = math.isfinite(sketch.norm)
        self._taken[run, mode, tap] = Fingerprint(
            subject=subject,
            dtype=dtype,
            mode=mode,
            tap=tap,
            shape=tuple(tensor.shape),
            digest=digest,
            norm=sketch.norm if finite else None,
            sketch=encoded(sketch.sums) if finite else "",
        )

    def take_ids(self, run: str, tap: str, texts: Iterable[Sequence[int]]) -> None:
        """Take the fingerprint of the ids of all texts, in order, each text's after its length.

        `run` is subject and dtype, `ours/fused/float32`; without a computation the dtype is `ids`.
        """
        subject, _, dtype = run.rpartition("/")
        if not self._takes(run, "exact", tap):
            return
        sha, count = hashlib.sha256(b"ids"), 0
        for ids in texts:
            sha.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
            count += len(ids)
        self._taken[run, "exact", tap] = Fingerprint(
            subject=subject,
            dtype=dtype,
            mode="exact",
            tap=tap,
            shape=(count,),
            digest=sha.hexdigest()[:DIGITS],
        )

    def _takes(self, run: str, mode: str, tap: str) -> bool:
        """Return whether a fingerprint is wanted under this key, and not taken yet."""
        wanted = self.wanted and fnmatch.fnmatchcase(tap, self._select)
        return wanted and self._taken.get((run, mode, tap)) is None

    def _measured(self, tensor: Tensor, visible: Tensor | None) -> tuple[str, Sketch]:
        name = str(tensor.dtype).removeprefix("torch.")
        sha = hashlib.sha256(f"{name} {list(tensor.shape)}".encode())
        sketch = Sketch(self._draws)
        with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite
            for chunk in _chunks(tensor.cpu(), visible):
                sha.update(chunk.view(torch.uint8).numpy().data)
                sketch.add(chunk.double().numpy())
        return sha.hexdigest()[:DIGITS], sketch


def _own(run: str) -> str:
    """Return the mode of a run that continues with its own numbers."""
    return "float64" if run.endswith("/float64") else "end-to-end"


def _chunks(tensor: Tensor, visible: Tensor | None) -> Iterator[Tensor]:
    """Yield a tensor's elements in C order, some at a time; 0 where an entry does not count."""
    flat = tensor.reshape(-1)  # a view wherever one will do, so its elements may lie apart
    hidden = None if visible is None else (~visible.cpu()).expand(tensor.shape).reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        chunk = flat[part].contiguous()
        yield chunk if hidden is None else chunk.masked_fill(hidden[part], 0.0)
