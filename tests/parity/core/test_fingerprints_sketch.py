"""Sketches tell how far two tensors are apart, wherever they differ."""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from parity.core.fingerprints import (
    BUCKETS,
    CELLS,
    CHUNK,
    ROUNDING,
    Draws,
    Sketch,
    decoded,
    distance,
    encoded,
)

Values = NDArray[np.float64]
Pattern = Callable[[np.random.Generator, int], Values]

SPREAD = math.sqrt(2 / BUCKETS)
"""Of the square of an estimate, where many elements differ: 18 %."""
SIZES = (BUCKETS * 64, 48 * 1_024, 3 * CHUNK + 7)


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws()


def sketched(values: Values, draws: Draws) -> Sketch:
    sketch = Sketch(draws)
    for start in range(0, len(values), CHUNK):
        sketch.add(values[start : start + CHUNK])
    return sketch


def every(step: int) -> Pattern:
    """A column: equal differences at every `step`-th place."""

    def pattern(generator: np.random.Generator, size: int) -> Values:
        made = np.zeros(size)
        made[int(generator.integers(step)) % size :: step] = 1.0
        return made

    return pattern


def row(generator: np.random.Generator, size: int) -> Values:
    """A row of a matrix: differences in 48 neighbors."""
    made = np.zeros(size)
    start = int(generator.integers(size - 48))
    made[start : start + 48] = generator.standard_normal(48)
    return made


def constant(generator: np.random.Generator, size: int) -> Values:
    """The same difference everywhere but for the last few."""
    made = np.ones(size)
    made[size - int(generator.integers(64)) :] = 0.0
    return made


PATTERNS: Mapping[str, Pattern] = {
    "everywhere": lambda generator, size: generator.standard_normal(size),
    "constant": constant,
    "one row": row,
    **{f"every {step}": every(step) for step in (2, 48, 61, 64, 122, 61 * 7, 61 * 64, 300, 768)},
}


def squares(pattern: Pattern, size: int, draws: Draws, count: int) -> Values:
    """Squares of estimates over those of the true lengths, for differences of one pattern."""
    generator = np.random.Generator(np.random.Philox(size))
    made = [pattern(generator, size) for _ in range(count)]
    return np.array(
        [(np.linalg.norm(sketched(d, draws).sums) / np.linalg.norm(d)) ** 2 for d in made]
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_estimate_is_right_within_its_spread(pattern: str, size: int, draws: Draws) -> None:
    """Each of twenty differences is estimated within four spreads, wherever it is."""
    assert np.abs(squares(PATTERNS[pattern], size, draws, 20) - 1.0).max() < 4 * SPREAD


@pytest.mark.parametrize("pattern", ["everywhere", "one row", "every 61", "every 427"])
def test_the_square_has_no_bias(pattern: str, draws: Draws) -> None:
    """The mean of a thousand is 1, and their spread is about the documented one."""
    found = squares(PATTERNS[pattern], SIZES[0], draws, 1_000)
    if pattern == "everywhere":
        assert abs(found.mean() - 1.0) < 4 * SPREAD / math.sqrt(len(found))
    assert found.std() < 1.3 * SPREAD


class Altered(Draws):
    def __init__(
        self, buckets: NDArray[np.uint8] | None = None, signs: NDArray[np.int8] | None = None
    ) -> None:
        super().__init__()
        self._instead = signs, buckets

    def chunk(self, number: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
        (signs, buckets), drawn = self._instead, super().chunk(number)
        return drawn[0] if signs is None else signs, drawn[1] if buckets is None else buckets


def test_buckets_by_turns_would_be_blind() -> None:
    """Place modulo 61 puts a column in one bucket, and loses much of it there."""
    by_turns = Altered(buckets=(np.arange(CELLS) % BUCKETS).astype(np.uint8))
    assert squares(PATTERNS["every 61"], SIZES[0], by_turns, 20).min() < 0.1
    assert np.abs(squares(PATTERNS["everywhere"], SIZES[0], by_turns, 20) - 1.0).max() < 4 * SPREAD


def test_without_signs_a_constant_would_be_overrated() -> None:
    """Signs that are all alike add up what should cancel."""
    alike = Altered(signs=np.ones(CHUNK, dtype=np.int8))
    assert squares(PATTERNS["constant"], SIZES[0], alike, 5).min() > 10


def test_a_single_element_is_told_exactly(draws: Draws) -> None:
    made = np.zeros(2 * CHUNK)
    made[CHUNK + 5] = -3.0
    assert np.linalg.norm(sketched(made, draws).sums) == 3.0


def test_a_difference_is_told_from_two_sketches(draws: Draws) -> None:
    generator = np.random.Generator(np.random.Philox(1))
    one, other = generator.standard_normal((2, 5_000))
    other = one + 1e-9 * other
    told = distance(*(encoded(sketched(values, draws).sums) for values in (one, other)))
    true = np.linalg.norm(one - other)
    assert abs((told / true) ** 2 - 1.0) < 3 * SPREAD


@pytest.mark.parametrize("values", [np.ones(40 * CHUNK), np.arange(40.0 * CHUNK)])
def test_the_sums_are_good_to_their_rounding(values: Values, draws: Draws) -> None:
    """A million elements of which half moved by an ulp."""
    moved = np.nextafter(values, np.inf)
    moved[::2] = values[::2]
    told = np.linalg.norm(sketched(values, draws).sums - sketched(moved, draws).sums)
    assert 0.0 < told / sketched(values, draws).norm < ROUNDING


def test_the_norm_is_the_root_of_all_squares(draws: Draws) -> None:
    values = np.random.Generator(np.random.Philox(2)).standard_normal(CHUNK + 9)
    assert math.isclose(np.linalg.norm(values), sketched(values, draws).norm, rel_tol=1e-14)
    assert sketched(np.zeros(0), draws).norm == 0.0
    assert list(sketched(np.zeros(0), draws).sums) == [0.0] * BUCKETS


def test_what_is_drawn_is_frozen(draws: Draws) -> None:
    """Buckets and signs are these with every NumPy: reports of different years can be compared."""
    drawn = [part for number in (0, 1, 2) for part in draws.chunk(number)]
    whole = hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()
    assert whole[:16] == "d3250d043f8e708d"


def test_draws_do_not_depend_on_who_asks_first() -> None:
    late, early = Draws(), Draws()
    in_order = [early.chunk(number) for number in range(3)]
    for asked, known in zip(late.chunk(2), in_order[2], strict=True):
        assert np.array_equal(asked, known)
    for one, other in itertools.combinations(in_order, 2):
        assert not np.array_equal(one[0], other[0])


def test_every_bucket_is_used_and_signs_are_even(draws: Draws) -> None:
    """No bucket is used twice as often as it should be; as many signs are 1 as -1."""
    signs, buckets = draws.chunk(0)
    counts = np.bincount(buckets, minlength=BUCKETS) * BUCKETS / CELLS
    assert (signs.shape, buckets.shape, counts.shape) == ((CHUNK,), (CELLS,), (BUCKETS,))
    assert 0.6 < counts.min() <= counts.max() < 1.7
    assert {-1, 1} == set(signs.tolist())
    assert abs(int(signs.sum())) < 4 * math.sqrt(CHUNK)


def test_a_sketch_survives_being_written(draws: Draws) -> None:
    sums = sketched(np.random.Generator(np.random.Philox(3)).standard_normal(999), draws).sums
    assert np.array_equal(sums, decoded(encoded(sums)))
    assert len(encoded(sums)) == 4 * math.ceil(8 * BUCKETS / 3)


@pytest.mark.parametrize("text", ["", "AAAA", "no base64!", encoded(np.zeros(60))])
def test_what_is_no_sketch_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sketch has 61|base64|buffer size|padding"):
        decoded(text)
