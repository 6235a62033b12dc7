"""Prepared text is opened as it was written, or refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt.data import TokenData, dataset
from scratch_gpt.data.dataset import Recipe
from scratch_gpt.errors import CheckpointError

Prepared = Callable[..., Path]


def test_opens_both_parts(prepared: Callable) -> None:
    data = TokenData.open(prepared())
    assert list(range(100, 119)) == data.train.tolist()
    assert list(range(119, 123)) == data.validation.tolist()
    assert data.manifest.train == 19
    data.verify()


def test_nothing_can_be_written(prepared: Callable) -> None:
    data = TokenData.open(str(prepared()))
    for part in (data.train, data.validation):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 7


@pytest.mark.parametrize(("vocab_size", "width"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_or_four(vocab_size: int, width: int, recipe: Recipe) -> None:
    assert width == dataclasses.replace(recipe, vocab_size=vocab_size).bytes_per_token
    expected = (vocab_size - 1).to_bytes(width, "little") + bytes(width)
    assert expected == dataset.token_bytes([vocab_size - 1, 0], width)


def test_large_ids_come_back(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.write_bytes(dataset.token_bytes([70_000, 3], 4))
    assert dataset.map_tokens(path, tokens=2, bytes_per_token=4).tolist() == [70_000, 3]


def test_nothing_is_mapped_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.touch()
    assert not dataset.map_tokens(path, tokens=0, bytes_per_token=2).shape[0]


@pytest.mark.parametrize("change", [-1, 1, -2, 2])
def test_another_length_is_refused(change: int, prepared: Callable) -> None:
    folder = prepared()
    path = folder / "tokens.bin"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(CheckpointError, match=f"has {46 + change} bytes, and 23 tokens take 46"):
        TokenData.open(folder)


def test_an_edited_file_is_refused(prepared: Callable) -> None:
    folder = prepared()
    path = folder / "tokens.bin"
    content = bytearray(path.read_bytes())
    content[31] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="bytes are not those that were prepared"):
        TokenData.open(folder)


def test_an_edit_between_samples_is_found_by_reading_all(prepared: Callable) -> None:
    folder = prepared(ids=[7] * 1_000_000)
    path = folder / "tokens.bin"
    with path.open("r+b") as file:
        file.seek(6_000)  # beyond the first block, before the second
        file.write(b"\x01")
    data = TokenData.open(folder)
    with pytest.raises(CheckpointError, match="bytes are not those that were prepared"):
        data.verify()


@pytest.mark.parametrize("place", [0, 4_095, 7_827, 2_000_000 - 4_096, 1_999_999])
def test_blocks_all_over_a_large_file_are_looked_at(place: int, tmp_path: Path) -> None:
    """The first, the second, the last."""
    path = tmp_path / "tokens.bin"
    path.write_bytes(bytes(2_000_000))
    before = dataset.sampled_sha256(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    assert before != dataset.sampled_sha256(path)


def test_the_length_is_in_the_sample(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    digests = set()
    for size in (0, 1, 4_096, 4_097, 1 << 20, (1 << 20) + 1, 2_000_000):
        path.write_bytes(bytes(size))
        digests.add(dataset.sampled_sha256(path))
    assert len(digests) == 7


@pytest.mark.parametrize("name", ["tokens.bin", "manifest.json"])
def test_a_missing_file_is_named(name: str, prepared: Callable) -> None:
    folder = prepared()
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="no such file") as refusal:
        TokenData.open(folder)
    assert str(folder / name) == refusal.value.where


@dataclasses.dataclass
class Other:
    digest: str
    pretokenizer: str
    vocab_size: int


def test_another_tokenizer_is_refused(prepared: Callable, recipe: Recipe) -> None:
    data = TokenData.open(prepared())
    data.require(Other(recipe.vocabulary, "huggingface", 300))
    with pytest.raises(CheckpointError, match="another tokenizer") as refusal:
        data.require(Other("ffff", "original", 300))
    assert "vocabulary 5eed5eed5eed..." in refusal.value.what
    assert "not 'ffff'; pretokenizer 'huggingface', not 'original'" in refusal.value.what
    assert "vocab_size" not in refusal.value.what


def test_rows_come_straight_from_the_file(prepared: Callable) -> None:
    data = TokenData.open(prepared())
    assert isinstance(data.train, np.memmap)
    assert isinstance(data.validation, np.memmap)
