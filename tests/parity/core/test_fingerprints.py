"""Fingerprints: equal where tensors are, to the bit; and what they say of what differs."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.core.fingerprints import BUCKETS, CHUNK, Fingerprint, Fingerprints, decoded, distance

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
    tensor = drawn(3, CHUNK, dtype=dtype)
    found = taken(tensor)
    assert found == taken(tensor.clone())
    assert (found.shape, len(found.digest), len(decoded(found.sketch))) == ((3, CHUNK), 16, BUCKETS)


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


def test_the_norm_is_that_of_the_numbers() -> None:
    for dtype in DTYPES:
        tensor = drawn(40, 1_000, dtype=dtype)
        norm = taken(tensor).norm
        assert norm is not None
        assert math.isclose(float(tensor.double().norm()), norm, rel_tol=1e-13)


def test_a_narrow_dtype_is_its_own_bytes() -> None:
    """bfloat16 and the same numbers in float32 have one sketch and two digests."""
    narrow = taken(drawn(7, 9, dtype=torch.bfloat16))
    wide = taken(drawn(7, 9, dtype=torch.bfloat16).float())
    assert narrow.digest != wide.digest
    assert (narrow.norm, narrow.sketch) == (wide.norm, wide.sketch)


def test_zeros_of_either_sign_differ_in_bits_alone() -> None:
    one, other = taken(torch.zeros(3, 4)), taken(-torch.zeros(3, 4))
    assert one.digest != other.digest
    assert (other.norm, distance(one.sketch, other.sketch)) == (0.0, 0.0)


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


def test_elements_that_are_one_are_many() -> None:
    one = drawn(1, 1, 64)
    assert taken(one.expand(2, 3, 64)) == taken(one.repeat(2, 3, 1))


def test_the_order_of_elements_matters() -> None:
    square = drawn(8, 8)
    others = [square.T, square.reshape(4, 16), square.reshape(64), square.view(torch.int32)]
    assert len({taken(tensor).digest for tensor in (square, *others)}) == 5


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (1, 1, 1)])
def test_small_and_empty_tensors_have_one(shape: tuple[int, ...]) -> None:
    found = taken(torch.full(shape, 2.0))
    assert (shape, math.sqrt(4.0 * math.prod(shape))) == (found.shape, found.norm)


def test_empty_tensors_differ_by_their_shape() -> None:
    assert len({taken(torch.zeros(shape)).digest for shape in ((0,), (0, 4), (4, 0))}) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
def test_what_has_no_finite_norm_has_a_digest_alone(value: float) -> None:
    tensor = drawn(CHUNK + 5, dtype=torch.float64)
    tensor[CHUNK + 1] = value
    found = taken(tensor)
    assert (found.norm, found.sketch) == (None, "")
    assert found.digest == taken(tensor.clone()).digest != taken(-tensor).digest


def test_entries_that_do_not_count_are_nothing() -> None:
    """Values above the diagonal of scores do not count; those on or below it do."""
    scores = drawn(2, 3, 5, 5)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    masked = taken(scores, causal)
    for filler in (-1e4, -1e9, -math.inf, math.nan):
        assert masked == taken(scores.masked_fill(~causal, filler), causal)
    assert masked == taken(scores.tril())
    assert masked != taken(one_bit_more(scores, (1, 2, 4, 4)), causal)
    assert masked == taken(one_bit_more(scores, (1, 2, 3, 4)), causal)


def test_rows_of_padding_do_not_count() -> None:
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
    keys = [dataclasses.astuple(found)[:5] for found in fingerprints.taken]
    assert keys == [
        ("ours/plain", "float64", "float64", "logits", (2,)),
        ("ours/plain", "float32", "end-to-end", "logits", (2,)),
        ("huggingface/tiled", "float32", "per-op", "logits", (2,)),
        ("ours/tiled", "float32", "per-op", "logits", (2,)),
    ]


def test_a_place_is_kept_until_it_is_taken() -> None:
    fingerprints = Fingerprints(wanted=True)
    fingerprints.keep_places(RUN, ["third", "second", "never"])
    for tap in ("second", "third", "fourth"):
        fingerprints.take(RUN, tap, drawn(2))
    fingerprints.keep_places(RUN, ["fourth", "third"])
    assert [found.tap for found in fingerprints.taken] == ["third", "second", "fourth"]
    assert [taken(drawn(2)).digest] * 3 == [found.digest for found in fingerprints.taken]


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
    said = dataclasses.asdict(first)
    assert expected == tuple(value for key, value in said.items() if key != "digest")
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
