"""A tensor in 61 numbers, from which its distance to another one can be told without either.

A count sketch: every element goes, as it is or negated, into one of 61 buckets; which, and with
what sign, is drawn for its place in the tensor. A sum is linear, so the difference of two sketches
is the sketch of the difference, and the square of its length has the square of the difference's as
its mean, whatever that looks like: one element, one column, or everywhere the same. What two
elements of one bucket add to the square has either sign, and spreads it by about sqrt(2/61), 18 %.

Signs are drawn for every element, buckets for every cell: the up to eight elements of a chunk that
are a multiple of 4093 places apart. It is a prime, so that no column and no row of a tensor has
many of its elements in one cell; and adding up cells first takes half the time, and rounds less.

What is drawn is a fixed sequence: words of Philox as they come, which NumPy promises to keep, and
not its distributions, which it does not. Sums are float64, in the order of places, so that neither
torch nor a processor's vectors have a part in them.

Source: Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams".
"""

import base64

import numpy as np
from numpy.typing import NDArray

BUCKETS = 61
"""Numbers of a sketch."""

CELLS = 4_093
"""Cells of a chunk; a prime."""

CHUNK = 8 * CELLS
"""Elements that are summed at once: a chunk's sums are small, and so is their rounding.

It is less than what torch would cut among threads, which on a busy machine wait for each other.
"""

ROUNDING = 1e-15
"""What sketches themselves are good to: below it, over the norm, an estimate says nothing."""

_KEY = int.from_bytes(b"gpt1-parity", "little")

Sums = NDArray[np.float64]
"""A sketch, `[61]`."""


class Draws:
    """Signs of all elements and buckets of all cells, chunk by chunk, drawn once."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=_KEY)
        self._chunks: list[tuple[NDArray[np.int8], NDArray[np.uint8]]] = []

    def chunk(self, number: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
        """Return signs `[CHUNK]` and buckets `[CELLS]` from element `number * CHUNK` on."""
        while len(self._chunks) <= number:
            self._chunks.append(self._next())
        return self._chunks[number]

    def _next(self) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
        """Draw another chunk: a bit a sign, a byte a bucket.

        256 is no multiple of 61, so that twelve buckets are drawn a quarter more often; it adds a
        hundredth to the spread's square, and nothing to the mean.
        """
        bits = np.unpackbits(self._bytes(CHUNK // 8), count=CHUNK)
        buckets = self._bytes(CELLS) % BUCKETS
        return bits.astype(np.int8) * 2 - 1, buckets.astype(np.uint8)

    def _bytes(self, count: int) -> NDArray[np.uint8]:
        """Return as many bytes of whole words; what is left of the last word is let go."""
        drawn = self._philox.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
        return drawn[:count]


class Sketch:
    """A sketch and a sum of squares being made of a tensor that comes in chunks.

    Args:
        draws: Signs and buckets; shared by all tensors.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._sums: list[Sums] = []
        self._squares: list[float] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Take the next elements, flat: `CHUNK` of them, but at the end."""
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
    """Return the estimated length of the difference of two tensors, from their sketches.

    It is good to about 9 %, and down to about `ROUNDING` of their norm.

    Args:
        one: A sketch, encoded.
        other: Another, of a tensor of the same shape.

    Raises:
        ValueError: One of them is no sketch.
    """
    return float(np.linalg.norm(decoded(one) - decoded(other)))
