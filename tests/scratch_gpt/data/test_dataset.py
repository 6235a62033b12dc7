"""Prepared text and its manifest are read as written or rejected; the unigram loss."""

import dataclasses
import functools
import json
import math
import operator
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scratch_gpt.data import TokenData, dataset
from scratch_gpt.data.dataset import Manifest, Recipe, unigram_loss
from scratch_gpt.errors import CheckpointError

pytestmark = pytest.mark.once


def set_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x01")


def test_both_parts_are_opened(prepared: Callable) -> None:
    data = TokenData.open(prepared())
    assert list(range(100, 119)) == data.train.tolist()
    assert list(range(119, 123)) == data.validation.tolist()
    assert data.manifest.train == 19
    data.verify()


def test_tokens_are_mapped_read_only(prepared: Callable) -> None:
    data = TokenData.open(str(prepared()))
    for part in (data.train, data.validation):
        assert isinstance(part, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 7


@pytest.mark.parametrize(("vocab_size", "width"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_or_four(vocab_size: int, width: int, recipe: Recipe) -> None:
    assert width == dataclasses.replace(recipe, vocab_size=vocab_size).bytes_per_token
    expected = (vocab_size - 1).to_bytes(width, "little") + bytes(width)
    assert expected == dataset.token_bytes([vocab_size - 1, 0], width)


@pytest.mark.parametrize("ids", [[70_000, 3], []], ids=["large", "none"])
def test_tokens_are_read_back(ids: list[int], tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.write_bytes(dataset.token_bytes(ids, 4))
    assert ids == dataset.map_tokens(path, tokens=len(ids), bytes_per_token=4).tolist()


@pytest.mark.parametrize("change", [-1, 1, -2, 2])
def test_another_length_is_rejected(change: int, prepared: Callable) -> None:
    folder = prepared()
    path = folder / "tokens.bin"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(CheckpointError, match=f"has {46 + change} bytes, and 23 tokens take 46"):
        TokenData.open(folder)


def test_an_edited_file_is_rejected(prepared: Callable) -> None:
    folder = prepared()
    set_byte(folder / "tokens.bin", 31)
    with pytest.raises(CheckpointError, match="bytes are not those that were prepared"):
        TokenData.open(folder)


def test_an_edit_between_samples_is_found_by_reading_all(prepared: Callable) -> None:
    folder = prepared(ids=[7] * 1_000_000)
    set_byte(folder / "tokens.bin", 6_000)  # beyond the first block, before the second
    data = TokenData.open(folder)
    with pytest.raises(CheckpointError, match="bytes are not those that were prepared"):
        data.verify()


@pytest.mark.parametrize("place", [0, 4_095, 7_827, 2_000_000 - 4_096, 1_999_999])
def test_blocks_all_over_a_large_file_are_sampled(place: int, tmp_path: Path) -> None:
    """The first, the second, the last."""
    path = tmp_path / "tokens.bin"
    path.write_bytes(bytes(2_000_000))
    before = dataset.sampled_sha256(path)
    set_byte(path, place)
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
    with pytest.raises(CheckpointError, match="no such file") as rejection:
        TokenData.open(folder)
    assert str(folder / name) == rejection.value.where


def test_another_tokenizer_is_rejected(prepared: Callable, recipe: Recipe) -> None:
    data = TokenData.open(prepared())
    same = {"digest": recipe.vocabulary, "pretokenizer": "huggingface", "vocab_size": 300}
    data.require(SimpleNamespace(**same))
    other = SimpleNamespace(**(same | {"digest": "ffff", "pretokenizer": "original"}))
    with pytest.raises(CheckpointError, match="another tokenizer") as rejection:
        data.require(other)
    assert "vocabulary 5eed5eed5eed..." in rejection.value.what
    assert "not 'ffff'; pretokenizer 'huggingface', not 'original'" in rejection.value.what
    assert "vocab_size" not in rejection.value.what


KEYS = [
    *(["format"], ["recipe"], ["tokens"], ["validation"], ["unknown"], ["characters"]),
    *(["replaced"], ["sha256"], ["sampled_sha256"], ["sources"]),
    *(["recipe", name] for name in ("vocabulary", "pretokenizer", "vocab_size", "errors")),
    *(["recipe", "validation_fraction"], ["sources", 0], ["sources", 0, "name"]),
    *(["sources", 0, "length"], ["sources", 0, "sha256"]),
]


@pytest.fixture
def manifest(prepared: Callable) -> Path:
    return prepared() / "manifest.json"


def edit(file: Path, keys: list[Any], change: Callable[[Any, Any], None]) -> None:
    """Change a JSON file: call `change` with the innermost object and the last of the keys."""
    content = json.loads(file.read_bytes())
    change(functools.reduce(operator.getitem, keys[:-1], content), keys[-1])
    file.write_text(json.dumps(content), "utf-8")


def test_a_manifest_is_read_back(manifest: Path) -> None:
    found = Manifest.read(manifest)
    assert found.text == manifest.read_text("utf-8")
    assert (found.sources[0].name, found.sources[0].length) == ("corpus/a.txt", 91)
    assert found.recipe.validation_fraction == 0.2


@pytest.mark.parametrize("keys", KEYS, ids=str)
@pytest.mark.parametrize("value", [None, -1, True, [[]], {}, 1.5], ids=repr)
def test_a_wrong_type_is_rejected(keys: list[Any], value: object, manifest: Path) -> None:
    edit(manifest, keys, lambda inner, key: operator.setitem(inner, key, value))
    with pytest.raises(CheckpointError) as rejection:
        Manifest.read(manifest)
    assert "\n" not in rejection.value.what


@pytest.mark.parametrize("keys", [keys for keys in KEYS if isinstance(keys[-1], str)], ids=str)
def test_a_missing_or_unknown_field_is_rejected(keys: list[Any], manifest: Path) -> None:
    edit(manifest, keys, lambda inner, key: inner.update(more=inner.pop(key)))
    with pytest.raises(CheckpointError, match=r"missing or unknown: .*'more'"):
        Manifest.read(manifest)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["format"], 2),
        (["recipe", "errors"], "ignore"),
        (["recipe", "vocab_size"], 0),
        (["recipe", "vocab_size"], (1 << 32) + 1),
        (["recipe", "validation_fraction"], 1.0),
        (["recipe", "validation_fraction"], 0.3),
        (["tokens"], 30),
        (["validation"], 5),
        (["unknown"], 24),
        (["replaced"], 91),
    ],
    ids=str,
)
def test_contradictions_are_rejected(keys: list[Any], value: object, manifest: Path) -> None:
    edit(manifest, keys, lambda inner, key: operator.setitem(inner, key, value))
    with pytest.raises(CheckpointError, match="contradicts the other fields"):
        Manifest.read(manifest)


@pytest.mark.parametrize("length", [0, 1, 40, 400])
def test_half_a_manifest_is_rejected(length: int, manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"^manifest\.json: Expecting|Unterminated"):
        Manifest.read(manifest)


def test_the_unigram_loss_by_hand() -> None:
    """Four training tokens and a vocabulary of three make shares of 4, 2 and 1 in seven."""
    train, validation = np.array([0, 0, 0, 1], "<u2"), np.array([0, 1, 2, 2], "<u2")
    expected = -sum(math.log(share / 7) for share in (4, 2, 1, 1)) / 4
    assert math.isclose(expected, unigram_loss(train, validation, vocab_size=3))


def test_a_mapped_file_is_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.Philox(key=3).random_raw(1_000) % 50
    train, validation = tokens[:900].astype("<u4"), tokens[900:].astype("<u4")
    whole = unigram_loss(train, validation, vocab_size=50)
    monkeypatch.setattr(dataset, "_CHUNK", 7)
    assert whole == unigram_loss(train, validation, vocab_size=50)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([0, 7], [0], "id 7 is outside a vocabulary of 7"),
        ([0], [], "there is no validation token"),
    ],
)
def test_invalid_tokens_have_no_loss(train: list[int], validation: list[int], message: str) -> None:
    parts = np.array(train, "<u2"), np.array(validation, "<u2")
    with pytest.raises(ValueError, match=message):
        unigram_loss(*parts, vocab_size=7)
