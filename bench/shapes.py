"""The shapes of attention that are timed, their cost, and the grids of `pytest bench`."""

import dataclasses
from itertools import product

HEADS, HEAD_WIDTH = 12, 64

MOST_TOKENS = 32_768
"""Largest batch times time that is planned: it fits a GPU of 16 GB."""

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element, by dtype."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One attention call; `backward` includes the gradients of all three inputs."""

    batch: int
    time: int
    dtype: str = "float32"
    backward: bool = False

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "forward with backward" if self.backward else "forward"

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """`[batch head time head_width]`."""
        return self.batch, HEADS, self.time, HEAD_WIDTH

    @property
    def flops(self) -> int:
        """Useful operations: two products over the visible pairs; four more backward.

        Products of the masked half and recomputed scores do not count.
        """
        pairs = self.batch * HEADS * self.time * (self.time + 1) // 2
        return (6 if self.backward else 2) * 2 * HEAD_WIDTH * pairs

    @property
    def bytes(self) -> int:
        """Least memory traffic: three inputs read, the context written.

        Backward also reads the upstream gradient and writes three gradients.
        """
        tensors = 8 if self.backward else 4
        return tensors * self.batch * HEADS * self.time * HEAD_WIDTH * ITEMSIZE[self.dtype]

    def too_large(self, matrices: int, memory: int) -> str:
        """Return why a kernel is not run at this shape; empty if it is.

        It holds `matrices` score matrices `[batch head time time]`, and may use `memory` bytes.
        """
        if self.batch * self.time > MOST_TOKENS:
            return f"{self.batch} × {self.time} is more than {MOST_TOKENS} tokens"
        needed = matrices * self.batch * HEADS * self.time**2 * ITEMSIZE[self.dtype]
        if needed > memory:
            return f"its scores take {needed / 1e9:.1f} GB of {memory / 1e9:.1f} GB"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A product of axes: every combination is one timing."""

    kernels: tuple[str, ...] = ()  # prefixes of kernel names; empty for all
    dtypes: tuple[str, ...] = ("float32",)
    batches: tuple[int, ...] = (1,)
    times: tuple[int, ...] = (512,)
    backward: tuple[bool, ...] = (False,)
    threads: tuple[int, ...] = (0,)  # on the CPU; 0 is all
    caches: tuple[str, ...] = ("warm",)  # "cold" flushes the caches before each call


TIMES = (1, 7, 37, 64, 128, 192, 256, 384, 512)
"""Lengths up to GPT-1's 512; some are no multiple of a tile."""

LONG = (1024, 2048, 4096, 8192)
"""Lengths beyond GPT-1's, for the kernels only."""

QUICK = ("kernel", "tiled", "plain", "huggingface", "sdpa", "products")
"""Prefixes of kernels that need no compiler; `kernel` is a user's own."""

GRIDS = {
    "smoke": (
        Grid(kernels=QUICK, times=(37,), backward=(False, True)),
        Grid(kernels=QUICK, times=(37,), dtypes=("bfloat16",)),
        Grid(kernels=("kernel", "plain", "tiled"), times=(37,), threads=(1,), caches=("cold",)),
    ),
    "default": (
        Grid(kernels=QUICK, batches=(1, 4), times=(1, 37, 128, 512)),
        Grid(kernels=QUICK, times=(128, 512), backward=(True,)),
        Grid(kernels=QUICK, dtypes=("bfloat16", "float16")),
        Grid(kernels=QUICK, threads=(1,)),
        Grid(kernels=QUICK, caches=("cold",)),
        Grid(kernels=("kernel", "tiled", "sdpa-flash"), times=(2048,)),
        Grid(kernels=("compiled", "flex", "triton")),
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
"""The values of `--grid`: a smoke test, a selection (minutes on two cores), and everything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One timing of a kernel at a shape."""

    kernel: str
    shape: Shape
    threads: int
    cache: str

    def __str__(self) -> str:
        """Return the test id."""
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        return (
            f"{self.kernel}-{shape.dtype}-{shape.batch}x{shape.time}-{direction}-"
            f"threads_{self.threads or 'all'}-{self.cache}"
        )


def timings(grid: str, kernels: list[str]) -> list[Timing]:
    """Return every timing of a grid once; those of one shape are adjacent."""
    found: dict[Timing, None] = {}
    for part in GRIDS[grid]:
        axes = product(part.dtypes, part.batches, part.times, part.backward)
        for dtype, batch, time, backward in axes:
            shape = Shape(batch=batch, time=time, dtype=dtype, backward=backward)
            for threads, cache, kernel in product(part.threads, part.caches, kernels):
                if not part.kernels or kernel.startswith(part.kernels):
                    found[Timing(kernel=kernel, shape=shape, threads=threads, cache=cache)] = None
    return list(found)
