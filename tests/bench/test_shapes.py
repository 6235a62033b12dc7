"""Costs of shapes, and the size of the grids."""

import pytest

from bench.kernels import ATTENTION_KERNELS
from bench.shapes import LONG, MOST_TOKENS, TIMES, Shape, timings


def test_operations_are_those_of_visible_pairs() -> None:
    """Two products of 2 x 64 operations per visible pair; backward four more."""
    pairs = sum(12 * (query + 1) for _row in range(2) for query in range(5))
    assert Shape(batch=2, time=5).flops == 2 * 128 * pairs
    assert Shape(batch=2, time=5, backward=True).flops == 6 * 128 * pairs


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_bytes_are_those_of_the_tensors(dtype: str, size: int) -> None:
    """Three are read and one written; backward reads one more and writes three more."""
    numel = 2 * 12 * 5 * 64
    assert 4 * numel * size == Shape(batch=2, time=5, dtype=dtype).bytes
    assert 8 * numel * size == Shape(batch=2, time=5, dtype=dtype, backward=True).bytes


def test_shapes_that_are_too_large_have_a_reason() -> None:
    square = 12 * 512 * 512 * 4
    shape = Shape(batch=1, time=512)
    assert "tokens" in Shape(batch=2, time=MOST_TOKENS).too_large(0, 1)
    assert "GB" in shape.too_large(1, square - 1)
    assert not shape.too_large(1, square)


@pytest.mark.parametrize(("grid", "count"), [("smoke", 29), ("default", 132), ("whole", 12_168)])
def test_grids_have_as_many_timings_as_is_documented(grid: str, count: int) -> None:
    """Update docs/performance.md with these numbers."""
    found = timings(grid, list(ATTENTION_KERNELS))
    assert (count, count) == (len(found), len({str(timing) for timing in found}))


def test_the_whole_grid_is_complete() -> None:
    found = timings("whole", list(ATTENTION_KERNELS))
    assert set(ATTENTION_KERNELS) == {timing.kernel for timing in found}
    assert {*TIMES, *LONG} == {timing.shape.time for timing in found}
    assert {1, 4, 64} == {timing.shape.batch for timing in found}
    assert {"float32", "bfloat16", "float16"} == {timing.shape.dtype for timing in found}
    assert {False, True} == {timing.shape.backward for timing in found}
    assert {(0, "warm"), (0, "cold"), (1, "warm"), (1, "cold")} == {
        (timing.threads, timing.cache) for timing in found
    }


def test_timings_of_one_shape_are_adjacent() -> None:
    seen = [timing.shape for timing in timings("whole", ["a", "b"])]
    changes = [shape for shape, before in zip(seen, [None, *seen], strict=False) if shape != before]
    assert len(set(changes)) == len(changes)
