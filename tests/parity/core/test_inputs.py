"""Token ids: drawn from a seed, given as text, given as rows."""

import hashlib
import struct

import pytest
import torch
from torch import Tensor

from parity.core.inputs import Inputs, digest, parse, seeded
from parity.errors import ExitCode, UsageError


@pytest.mark.parametrize(("batch", "time"), [(1, 3), (2, 37), (3, 1), (5, 512), (1, 4)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_drawn_ids_hold_the_edges_and_a_repeat(batch: int, time: int, seed: int) -> None:
    inputs = seeded(batch=batch, time=time, vocab_size=211, seed=seed)
    ids = inputs.token_ids
    assert (tuple(ids.shape), ids.dtype) == ((batch, time), torch.int64)
    assert {0, 210} <= set(ids.flatten().tolist())
    assert ids.unique().numel() < ids.numel()
    assert 0 <= int(ids.min()) <= int(ids.max()) < 211
    assert inputs.positions is None
    assert inputs.attention_mask is None


@pytest.mark.parametrize(
    ("batch", "time", "vocabulary", "wanted"),
    [
        *((1, 1, 211, {0}), (1, 2, 211, {0, 210}), (2, 1, 211, {0, 210}), (1, 3, 211, {0, 210})),
        (1, 4, 1, {0}),
    ],
)
def test_short_inputs_hold_what_they_can(
    batch: int, time: int, vocabulary: int, wanted: set[int]
) -> None:
    ids = seeded(batch=batch, time=time, vocab_size=vocabulary, seed=0).token_ids
    assert wanted == set(ids.flatten().tolist())


def test_the_edges_stand_apart() -> None:
    """At the start, one third and two thirds, so that positions differ too."""
    ids = seeded(batch=1, time=300, vocab_size=40_478, seed=3).token_ids[0]
    assert ids[[0, 100, 200]].tolist() == [0, 40_477, 40_477]


def test_the_seed_decides_the_ids() -> None:
    first, again, other = (
        seeded(batch=2, time=37, vocab_size=211, seed=seed).token_ids for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_vocabulary_is_used() -> None:
    ids = seeded(batch=100, time=211, vocab_size=211, seed=0).token_ids
    counts = torch.bincount(ids.flatten(), minlength=211)
    assert bool((counts > 0).all())
    assert int(counts.max()) < 200


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("481", [[481]]),
        ("481,4735,544", [[481, 4735, 544]]),
        ("1,2;3,4", [[1, 2], [3, 4]]),
        (" 1 , 2 ; 3 , 4 ", [[1, 2], [3, 4]]),
        ("7;7", [[7], [7]]),
    ],
)
def test_text_is_read_as_rows(text: str, ids: list[list[int]]) -> None:
    inputs = parse(text)
    assert torch.equal(torch.tensor(ids), inputs.token_ids)
    assert inputs.attention_mask is None


def test_shorter_rows_are_padded_and_masked() -> None:
    inputs = parse("481,4735,544;0;7,9")
    assert inputs.token_ids.tolist() == [[481, 4735, 544], [0, 0, 0], [7, 9, 0]]
    mask = [[True, True, True], [True, False, False], [True, True, False]]
    assert inputs.attention_mask.tolist() == mask
    assert inputs.token_ids.dtype is torch.int64
    assert inputs.attention_mask.dtype is torch.bool


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ";", "1,", ",1", "1,,2", "1;", ";1", "1;;2", "a", "1.5", "1e3", "0x10", "1 2"),
        *("nan", "9223372036854775808", "1,-9223372036854775809", "9" * 40),  # beyond int64
    ],
)
def test_what_is_no_list_of_ids_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not a whole number") as refusal:
        parse(text)
    assert refusal.value.exit_code == ExitCode.USAGE
    assert refusal.value.where == f"--token-ids {text!r}"
    assert "481,4735,544;12,7" in refusal.value.fix


def test_a_digest_is_over_shape_and_ids() -> None:
    """As int64, little-endian, whatever dtype and layout they have."""
    ids = torch.tensor([[1, 2, 3], [4, 5, 210]])
    content = b"[2, 3]\n" + struct.pack("<6q", 1, 2, 3, 4, 5, 210)
    expected = f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
    others = (ids.int(), ids.T.contiguous().T)
    assert {expected} == {digest([found]) for found in (ids, *others)}


IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([torch.tensor([[1, 2, 3, 5]])], id="an id"),
        pytest.param([IDS.reshape(2, 2)], id="a shape"),
        pytest.param([IDS.flip(1)], id="an order"),
        pytest.param([IDS, IDS], id="a tensor more"),
        pytest.param([IDS[:, :2], IDS[:, 2:]], id="two tensors of the same ids"),
        pytest.param([], id="none"),
    ],
)
def test_other_ids_have_another_digest(other: list[Tensor]) -> None:
    assert digest([IDS]) != digest(other)


def test_everything_given_has_its_digest() -> None:
    mask, positions = torch.tensor([[True, True, True, False]]), torch.tensor([[3, 4, 5, 6]])

    def digests(**other: Tensor) -> dict[str, str]:
        return Inputs(token_ids=IDS, **other).digests()

    assert digests() == {"ids": digest([IDS])}
    found = digests(positions=positions, attention_mask=mask)
    assert found == {
        "ids": digest([IDS]),
        "positions": digest([positions]),
        "attention_mask": digest([mask]),
    }
    assert len(set(found.values())) == 3
    assert found["attention_mask"] != digests(attention_mask=~mask)["attention_mask"]
