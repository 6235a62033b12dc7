"""Fingerprints: equal where tensors are, to the bit; and what they say of what differs."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.core.fingerprints import (
    BUCKETS,
    CELLS,
    CHUNK,
    ROUNDING,
    Draws,
    Fingerprint,
    Fingerprints,
    Sketch,
    decoded,
    distance,
    encoded,
)

RUN = "ours/plain/float32"


def taken(tensor: Tensor, visible: Tensor | None = None) -> Fingerprint:
    fingerprints = Fingerprints(wanted=True)
    fingerprints.take(RUN, "h.0.attn.query", tensor, visible=visible)
    (found,) = fingerprints.taken
    return found


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def one_bit_more(tensor: Tensor, index: tuple[int, ...]) -> Tensor:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    changed = tensor.clone()
    changed.view(integers)[index] ^= 1
    return changed


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_tensors_have_equal_fingerprints(dtype: torch.dtype) -> None:
    """The norm is that of the numbers in float64."""
    tensor = drawn(3, CHUNK, dtype=dtype)
    found = taken(tensor)
    assert found == taken(tensor.clone())
    assert (found.shape, len(found.digest), len(decoded(found.sketch))) == ((3, CHUNK), 16, BUCKETS)
    assert found.norm is not None
    assert math.isclose(float(tensor.double().norm()), found.norm, rel_tol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("index", [(0, 0), (1, 3), (4, CHUNK - 1)])
def test_a_single_bit_is_seen_and_measured(dtype: torch.dtype, index: tuple[int, int]) -> None:
    """The digest is another, and sketches are as far apart as the two elements are."""
    tensor = drawn(5, CHUNK, dtype=dtype)
    changed = one_bit_more(tensor, index)
    one, other = taken(tensor), taken(changed)
    assert one.digest != other.digest
    apart = abs(float(tensor[index]) - float(changed[index]))
    assert one.norm is not None
    assert abs(apart - distance(one.sketch, other.sketch)) < 1e-15 * one.norm


def test_a_narrow_dtype_is_its_own_bytes() -> None:
    """bfloat16 and the same float32 numbers, or 0.0 and -0.0, have one sketch and two digests."""
    rows = drawn(7, 9, dtype=torch.bfloat16)
    for a, b in ((rows, rows.float()), (torch.zeros(3, 4), -torch.zeros(3, 4))):
        one, other = taken(a), taken(b)
        assert one.digest != other.digest
        assert one.norm == other.norm
        assert distance(one.sketch, other.sketch) == 0.0


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "apart": lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
    "offset": lambda x: torch.cat([x, x])[len(x) :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_elements_lie_does_not_matter(layout: str) -> None:
    tensor = drawn(2, 12, 90, 64)
    laid = LAYOUTS[layout](tensor)
    assert taken(tensor) == taken(laid)
    assert layout == "offset" or not laid.is_contiguous()
    one = drawn(1, 1, 64)
    assert taken(one.expand(2, 3, 64)) == taken(one.repeat(2, 3, 1))


def test_the_order_of_elements_and_the_shape_matter() -> None:
    square = drawn(8, 8)
    others = [square.T, square.reshape(4, 16), square.reshape(64), square.view(torch.int32)]
    assert len({taken(tensor).digest for tensor in (square, *others)}) == 5
    assert len({taken(torch.zeros(shape)).digest for shape in ((0,), (0, 4), (4, 0))}) == 3


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (1, 1, 1)])
def test_small_and_empty_tensors_have_one(shape: tuple[int, ...]) -> None:
    found = taken(torch.full(shape, 2.0))
    assert (shape, math.sqrt(4.0 * math.prod(shape))) == (found.shape, found.norm)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
def test_what_has_no_finite_norm_has_a_digest_alone(value: float) -> None:
    tensor = drawn(CHUNK + 5, dtype=torch.float64)
    tensor[CHUNK + 1] = value
    found = taken(tensor)
    assert (found.norm, found.sketch) == (None, "")
    assert found.digest == taken(tensor.clone()).digest != taken(-tensor).digest


def test_entries_that_do_not_count_are_nothing() -> None:
    """Values above the diagonal of scores, and rows of padding."""
    scores = drawn(2, 3, 5, 5)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    masked = taken(scores, causal)
    for filler in (-1e4, -1e9, -math.inf, math.nan):
        assert masked == taken(scores.masked_fill(~causal, filler), causal)
    assert masked == taken(scores.tril())
    assert masked != taken(one_bit_more(scores, (1, 2, 4, 4)), causal)
    assert masked == taken(one_bit_more(scores, (1, 2, 3, 4)), causal)
    rows, mask = drawn(2, 4, 3), torch.tensor([[False, True, True, True], [True] * 4])[:, :, None]
    assert taken(rows, mask) == taken(rows.masked_fill(~mask, 7.0), mask) != taken(rows)


def test_nothing_is_written_to_what_is_shown() -> None:
    tensor = drawn(2, 3, 5, 5).requires_grad_()
    before = tensor.detach().clone()
    taken(tensor * 1, torch.ones(5, 5, dtype=torch.bool).tril()[None, None])
    assert torch.equal(before, tensor.detach())
    assert tensor.grad is None


def test_what_is_not_wanted_is_not_taken() -> None:
    for fingerprints in (Fingerprints(), Fingerprints(wanted=True, select="h.1.*")):
        fingerprints.take(RUN, "h.0.attn", drawn(2))
        fingerprints.take_ids("ours/ids", "corpus", [[1]])
        assert fingerprints.taken == []


def test_a_key_is_its_first_four_fields() -> None:
    """Subject, dtype, mode and tap; a second tensor of the same key is left out."""
    fingerprints = Fingerprints(wanted=True)
    fingerprints.take("ours/plain/float64", "logits", drawn(2))
    fingerprints.take("ours/plain/float32", "logits", drawn(2))
    fingerprints.take("ours/plain/float32", "logits", drawn(3))
    fingerprints.take("huggingface/float32", "logits", drawn(2), beside="tiled")
    fingerprints.take("ours/tiled/float32", "logits", drawn(2), beside="tiled")
    assert [dataclasses.astuple(found)[:5] for found in fingerprints.taken] == [
        ("ours/plain", "float64", "float64", "logits", (2,)),
        ("ours/plain", "float32", "end-to-end", "logits", (2,)),
        ("huggingface/tiled", "float32", "per-op", "logits", (2,)),
        ("ours/tiled", "float32", "per-op", "logits", (2,)),
    ]


def test_places_fix_the_order() -> None:
    fingerprints = Fingerprints(wanted=True)
    fingerprints.keep_places(RUN, ["third", "second", "never"])
    for tap in ("second", "third", "fourth"):
        fingerprints.take(RUN, tap, drawn(2))
    fingerprints.keep_places(RUN, ["fourth", "third"])
    assert [found.tap for found in fingerprints.taken] == ["third", "second", "fourth"]
    assert {found.digest for found in fingerprints.taken} == {taken(drawn(2)).digest}


def test_ids_have_a_digest_alone() -> None:
    given = {
        "as they are": [[1, 2], [3]],
        "other ids": [[1, 2], [4]],
        "other order": [[2, 1], [3]],
        "other ends": [[1], [2, 3]],
        "no end": [[1, 2, 3]],
        "one text more": [[1, 2], [3], []],
    }
    fingerprints = Fingerprints(wanted=True)
    for tap, texts in given.items():
        fingerprints.take_ids("ours/fused/float32", tap, texts)
    fingerprints.take_ids("huggingface/float32", "as they are", iter([(1, 2), (3,)]))
    first, *others, theirs = fingerprints.taken
    expected = ("ours/fused", "float32", "exact", "as they are", (3,), None, "")
    fields = dataclasses.asdict(first)
    assert expected == tuple(value for key, value in fields.items() if key != "digest")
    assert first.digest == theirs.digest
    assert len(given) == len({found.digest for found in (first, *others)})


def test_digests_are_frozen() -> None:
    """These digests never change: reports of different years can be compared."""
    fingerprints = Fingerprints(wanted=True)
    fingerprints.take(RUN, "half", torch.arange(6).reshape(2, 3).to(torch.bfloat16))
    fingerprints.take(RUN, "whole", torch.arange(6).reshape(2, 3).double() / 7)
    fingerprints.take_ids(RUN, "ids", [[1, 2], [3]])
    assert [found.digest for found in fingerprints.taken] == [
        "8b36c525d0d26908",
        "0e6357c9cccec0bd",
        "d3a07d8b645950f5",
    ]


# Sketches.


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
    """Draws with other buckets, or other signs, in every chunk."""

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


def test_a_single_element_is_estimated_exactly(draws: Draws) -> None:
    made = np.zeros(2 * CHUNK)
    made[CHUNK + 5] = -3.0
    assert np.linalg.norm(sketched(made, draws).sums) == 3.0


def test_a_difference_is_estimated_from_two_sketches(draws: Draws) -> None:
    generator = np.random.Generator(np.random.Philox(1))
    one, other = generator.standard_normal((2, 5_000))
    other = one + 1e-9 * other
    estimate = distance(*(encoded(sketched(values, draws).sums) for values in (one, other)))
    true = np.linalg.norm(one - other)
    assert abs((estimate / true) ** 2 - 1.0) < 3 * SPREAD


@pytest.mark.parametrize("values", [np.ones(40 * CHUNK), np.arange(40.0 * CHUNK)])
def test_the_sums_are_good_to_their_rounding(values: Values, draws: Draws) -> None:
    """A million elements of which half moved by an ulp."""
    moved = np.nextafter(values, np.inf)
    moved[::2] = values[::2]
    estimate = np.linalg.norm(sketched(values, draws).sums - sketched(moved, draws).sums)
    assert 0.0 < estimate / sketched(values, draws).norm < ROUNDING


def test_what_is_drawn_is_frozen(draws: Draws) -> None:
    """Buckets and signs are these with every NumPy: reports of different years can be compared."""
    drawn = [part for number in (0, 1, 2) for part in draws.chunk(number)]
    whole = hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest()
    assert whole[:16] == "d3250d043f8e708d"


def test_draws_do_not_depend_on_the_order() -> None:
    late, early = Draws(), Draws()
    in_order = [early.chunk(number) for number in range(3)]
    for late_draw, early_draw in zip(late.chunk(2), in_order[2], strict=True):
        assert np.array_equal(late_draw, early_draw)
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


def test_a_sketch_is_written_and_read_to_the_bit(draws: Draws) -> None:
    """As 61 little-endian numbers in base64; anything else is an error."""
    sums = sketched(np.random.Generator(np.random.Philox(3)).standard_normal(999), draws).sums
    assert np.array_equal(sums, decoded(encoded(sums)))
    assert len(encoded(sums)) == 4 * math.ceil(8 * BUCKETS / 3)
    for text in ("", "AAAA", "no base64!", encoded(np.zeros(60))):
        with pytest.raises(ValueError, match=r"sketch has 61|base64|buffer size|padding"):
            decoded(text)
