"""Token ids: drawn from a seed, given as text, given as rows."""

import hashlib
import struct

import pytest
import torch
from torch import Tensor

from parity.core.inputs import Inputs, digest, from_rows, parse, seeded
from parity.errors import ExitCode, UsageError


@pytest.mark.parametrize(("batch", "time"), [(1, 3), (2, 37), (3, 1), (5, 512), (1, 4)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_drawn_ids_hold_the_edges_and_a_repeat(batch: int, time: int, seed: int) -> None:
    """The first id, the last id, and one that stands twice; all within the vocabulary."""
    inputs = seeded(batch=batch, time=time, vocab_size=211, seed=seed)
    ids = inputs.token_ids
    expected = ((batch, time), torch.int64)
    assert expected == (tuple(ids.shape), ids.dtype)
    assert {0, 210} <= set(ids.flatten().tolist())
    assert ids.unique().numel() < ids.numel()
    assert 0 <= int(ids.min()) <= int(ids.max()) < 211
    assert inputs.positions is None
    assert inputs.attention_mask is None


@pytest.mark.parametrize(
    ("batch", "time", "wanted"),
    [(1, 1, {0}), (1, 2, {0, 210}), (2, 1, {0, 210}), (1, 3, {0, 210})],
)
def test_what_is_too_short_holds_what_it_can(batch: int, time: int, wanted: set[int]) -> None:
    """One id is the first; two are the first and the last."""
    ids = seeded(batch=batch, time=time, vocab_size=211, seed=0).token_ids
    assert wanted == set(ids.flatten().tolist())


def test_the_edges_stand_apart() -> None:
    """Not side by side: first, one third, two thirds, so that positions differ too."""
    ids = seeded(batch=1, time=300, vocab_size=40_478, seed=3).token_ids[0]
    expected = [0, 40_477, 40_477]
    assert expected == ids[[0, 100, 200]].tolist()


def test_the_seed_decides_the_ids() -> None:
    """The same one gives the same ids, another one others."""
    first, again, other = (
        seeded(batch=2, time=37, vocab_size=211, seed=seed).token_ids for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_vocabulary_is_used() -> None:
    """Over many draws every id comes up, none more often than chance allows."""
    ids = seeded(batch=100, time=211, vocab_size=211, seed=0).token_ids
    counts = torch.bincount(ids.flatten(), minlength=211)
    assert bool((counts > 0).all())
    assert int(counts.max()) < 200


def test_a_vocabulary_of_one_has_one_id() -> None:
    """First and last are the same there."""
    ids = seeded(batch=1, time=4, vocab_size=1, seed=0).token_ids
    expected = [[0, 0, 0, 0]]
    assert expected == ids.tolist()


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
    """Commas between ids, semicolons between rows; rows of one length need no mask."""
    inputs = parse(text)
    assert torch.equal(torch.tensor(ids), inputs.token_ids)
    assert inputs.attention_mask is None


def test_shorter_rows_are_padded_and_masked() -> None:
    """On the right, with an id that exists; the mask is False there and nowhere else."""
    inputs = parse("481,4735,544;12;7,9")
    expected = [[481, 4735, 544], [12, 0, 0], [7, 9, 0]]
    assert expected == inputs.token_ids.tolist()
    expected = [[True, True, True], [True, False, False], [True, True, False]]
    assert expected == inputs.attention_mask.tolist()
    expected = (torch.int64, torch.bool)
    assert expected == (inputs.token_ids.dtype, inputs.attention_mask.dtype)


def test_the_id_of_padding_is_no_padding_by_itself() -> None:
    """Id 0 counts where it was given."""
    inputs = from_rows([[0, 5, 0], [0]])
    expected = [[True, True, True], [True, False, False]]
    assert expected == inputs.attention_mask.tolist()


@pytest.mark.parametrize(
    "text",
    ["", " ", ";", "1,", ",1", "1,,2", "1;", ";1", "1;;2", "a", "1.5", "1e3", "0x10", "1 2", "nan"],
)
def test_what_is_no_list_of_ids_is_a_usage_error(text: str) -> None:
    """It repeats what was given and shows what would do."""
    with pytest.raises(UsageError, match="not a whole number") as refusal:
        parse(text)
    expected = (ExitCode.USAGE, f"--token-ids {text!r}")
    assert expected == (refusal.value.exit_code, refusal.value.where)
    assert "481,4735,544;12,7" in refusal.value.fix


@pytest.mark.parametrize("text", ["9223372036854775808", "1,-9223372036854775809", "9" * 40])
def test_an_id_that_no_tensor_holds_is_a_usage_error(text: str) -> None:
    """64 bits are what there is, and no vocabulary is as large."""
    with pytest.raises(UsageError):
        parse(text)


def test_a_digest_is_over_shape_and_ids() -> None:
    """Of int64, little-endian, whatever the dtype and layout that they came in."""
    ids = torch.tensor([[1, 2, 3], [4, 5, 210]])
    content = b"[2, 3]\n" + struct.pack("<6q", 1, 2, 3, 4, 5, 210)
    expected = f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"
    others = (ids.int(), ids.T.contiguous().T)
    assert {expected} == {digest([found]) for found in (ids, *others)}


IDS = torch.tensor([[1, 2, 3, 4]])
OTHER = {
    "an id": [torch.tensor([[1, 2, 3, 5]])],
    "a shape": [IDS.reshape(2, 2)],
    "an order": [IDS.flip(1)],
    "a tensor more": [IDS, IDS],
    "two of the same ids": [IDS[:, :2], IDS[:, 2:]],
    "none": [],
}


@pytest.mark.parametrize("other", OTHER)
def test_other_ids_have_another_digest(other: str) -> None:
    """So have the same ids cut into other tensors."""
    assert digest([IDS]) != digest(OTHER[other])


def test_everything_given_has_its_digest() -> None:
    """Positions and a mask only where there are such; each by itself."""
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
