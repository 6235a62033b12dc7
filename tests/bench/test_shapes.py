"""Costs counted by hand, and how many timings the grids have."""

import pytest

from bench.kernels import ATTENTION_KERNELS
from bench.shapes import LONG, MOST_TOKENS, TIMES, Shape, timings


@pytest.mark.parametrize("backward", [False, True])
def test_operations_are_those_of_visible_pairs(backward: bool) -> None:  # noqa: FBT001
    """Two products of 2 x 64 operations for each pair that a query sees; backward four more."""
    pairs = sum(12 * (query + 1) for _row in range(2) for query in range(5))
    products = 6 if backward else 2
    assert products * 128 * pairs == Shape(batch=2, time=5, backward=backward).flops


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_bytes_are_those_of_the_tensors(dtype: str, size: int) -> None:
    """Three read and one written; backward one more read and three more written."""
    numel = 2 * 12 * 5 * 64
    assert 4 * numel * size == Shape(batch=2, time=5, dtype=dtype).bytes
    assert 8 * numel * size == Shape(batch=2, time=5, dtype=dtype, backward=True).bytes


def test_what_is_too_large_says_so() -> None:
    """More tokens than planned, or scores beyond the memory; what fits says nothing."""
    square = 12 * 512 * 512 * 4
    shape = Shape(batch=1, time=512)
    assert "tokens" in Shape(batch=2, time=MOST_TOKENS).too_large(0, 1)
    assert "GB" in shape.too_large(1, square - 1)
    assert not shape.too_large(1, square)


@pytest.mark.parametrize(("grid", "count"), [("smoke", 29), ("default", 132), ("whole", 12_168)])
def test_grids_have_as_many_timings_as_is_documented(grid: str, count: int) -> None:
    """None twice; one kernel more moves these numbers, and the README's with them."""
    found = timings(grid, list(ATTENTION_KERNELS))
    assert (count, count) == (len(found), len({str(timing) for timing in found}))


def test_the_whole_grid_is_all_of_it() -> None:
    """Every kernel, length, batch, dtype, direction, thread count and cache."""
    found = timings("whole", list(ATTENTION_KERNELS))
    assert set(ATTENTION_KERNELS) == {timing.kernel for timing in found}
    assert {*TIMES, *LONG} == {timing.shape.time for timing in found}
    assert {1, 4, 64} == {timing.shape.batch for timing in found}
    assert {"float32", "bfloat16", "float16"} == {timing.shape.dtype for timing in found}
    assert {False, True} == {timing.shape.backward for timing in found}
    assert {(0, "warm"), (0, "cold"), (1, "warm"), (1, "cold")} == {
        (timing.threads, timing.cache) for timing in found
    }


def test_one_shape_stays_together() -> None:
    """Its truth is computed once: no shape comes again after another."""
    seen = [timing.shape for timing in timings("whole", ["a", "b"])]
    changes = [shape for shape, before in zip(seen, [None, *seen], strict=False) if shape != before]
    assert len(set(changes)) == len(changes)
