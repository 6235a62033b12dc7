"""What is timed: the shapes of attention, what each costs, and which are planned where."""

import dataclasses
from collections.abc import Iterator
from itertools import product

HEADS, HEAD_WIDTH = 12, 64

MOST_TOKENS = 32_768
"""Largest batch times time: what a GPU of 16 GB holds, and a laptop waits for."""

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element, by dtype."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One attention call.

    Attributes:
        batch: Rows of text.
        time: Tokens of each.
        dtype: Name of the dtype.
        backward: Whether the gradients of all three inputs are computed too.
    """

    batch: int
    time: int
    dtype: str = "float32"
    backward: bool = False

    @property
    def direction(self) -> str:
        """What is done, in words."""
        return "forward with backward" if self.backward else "forward"

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """`[batch head time head_width]`."""
        return self.batch, HEADS, self.time, HEAD_WIDTH

    @property
    def flops(self) -> int:
        """Useful operations: the two products over visible pairs, and four more backward.

        Whoever multiplies the masked half as well gets no credit for it, nor who computes the
        scores a second time on the way back.
        """
        pairs = self.batch * HEADS * self.time * (self.time + 1) // 2
        return (6 if self.backward else 2) * 2 * HEAD_WIDTH * pairs

    @property
    def bytes(self) -> int:
        """What must move at least: three inputs read and the context written; and their like.

        Backward reads the upstream gradient too, and writes three gradients.
        """
        tensors = 8 if self.backward else 4
        return tensors * self.batch * HEADS * self.time * HEAD_WIDTH * ITEMSIZE[self.dtype]

    def squares(self, count: int) -> int:
        """Return the bytes of so many `[batch head time time]` tensors."""
        return count * self.batch * HEADS * self.time**2 * ITEMSIZE[self.dtype]

    def too_large(self, squares: int, memory: int) -> str:
        """Return why this is not run; nothing where it is.

        Args:
            squares: How many whole matrices of scores the kernel holds at once.
            memory: Bytes that may be used.
        """
        if self.batch * self.time > MOST_TOKENS:
            return f"not planned: {self.batch} × {self.time} is more than {MOST_TOKENS} tokens"
        needed = self.squares(squares)
        if needed > memory:
            return f"not planned: its scores take {needed / 1e9:.1f} GB of {memory / 1e9:.1f} GB"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A product of axes: every combination is one timing.

    Attributes:
        subjects: Which kernels: all where empty, else those whose name starts so.
        dtypes: Names of dtypes.
        batches: Rows of text.
        times: Tokens of each row.
        backward: Forward alone, with backward, or both.
        threads: Threads on the CPU; 0 is all.
        caches: `warm`: called again at once; `cold`: after the caches were filled with else.
    """

    subjects: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    batches: tuple[int, ...] = (1,)
    times: tuple[int, ...] = (512,)
    backward: tuple[bool, ...] = (False,)
    threads: tuple[int, ...] = (0,)
    caches: tuple[str, ...] = ("warm",)


TIMES = (1, 7, 37, 64, 128, 192, 256, 384, 512)
"""Lengths of GPT-1, with ragged ones that fit no tile."""

LONG = (1024, 2048, 4096, 8192)
"""Lengths past GPT-1's, for the kernels alone."""

QUICK = ("tiled", "plain", "huggingface", "sdpa", "products")
"""Kernels that need no compiler."""

GRIDS = {
    "smoke": (
        Grid(subjects=QUICK, times=(37,), backward=(False, True)),
        Grid(subjects=QUICK, times=(37,), dtypes=("bfloat16",)),
        Grid(subjects=("plain", "tiled"), times=(37,), threads=(1,), caches=("cold",)),
    ),
    "default": (
        Grid(subjects=QUICK, batches=(1, 4), times=(1, 37, 128, 512)),
        Grid(subjects=QUICK, times=(128, 512), backward=(True,)),
        Grid(subjects=QUICK, dtypes=("bfloat16", "float16")),
        Grid(subjects=QUICK, threads=(1,)),
        Grid(subjects=QUICK, caches=("cold",)),
        Grid(subjects=("tiled", "sdpa-flash"), times=(2048,)),
        Grid(subjects=("compiled", "flex", "triton")),
    ),
    "whole": (
        Grid(
            dtypes=tuple(ITEMSIZE),
            batches=(1, 4, 64),
            times=(*TIMES, *LONG),
            backward=(False, True),
            threads=(0, 1),
            caches=("warm", "cold"),
        ),
    ),
}
"""What `--grid` can be: every way once, some that take minutes on two cores, and everything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One timing: who, at which shape, and how."""

    subject: str
    shape: Shape
    threads: int
    cache: str

    def __str__(self) -> str:
        """Return the name that pytest shows, and that -k selects by."""
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        return (
            f"{self.subject}-{shape.dtype}-{shape.batch}x{shape.time}-{direction}-"
            f"threads_{self.threads or 'all'}-{self.cache}"
        )


def timings(grid: str, subjects: list[str]) -> list[Timing]:
    """Return every timing of a grid once, those of one shape together."""
    found = {
        Timing(subject=subject, shape=shape, threads=threads, cache=cache): None
        for part in GRIDS[grid]
        for shape in _shapes(part)
        for threads, cache in product(part.threads, part.caches)
        for subject in subjects
        if not part.subjects or subject.startswith(part.subjects)
    }
    return list(found)


def _shapes(grid: Grid) -> Iterator[Shape]:
    axes = product(grid.dtypes, grid.batches, grid.times, grid.backward)
    for dtype, batch, time, backward in axes:
        yield Shape(batch=batch, time=time, dtype=dtype, backward=backward)
