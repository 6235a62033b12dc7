"""The manifest is all of it, or refused."""

import json
from collections.abc import Callable

import pytest

from scratch_gpt.data.dataset import Manifest
from scratch_gpt.errors import CheckpointError

KEYS = [
    *(["format"], ["recipe"], ["tokens"], ["validation"], ["unknown"], ["characters"]),
    *(["replaced"], ["sha256"], ["sampled_sha256"], ["sources"]),
    *(["recipe", name] for name in ("vocabulary", "pretokenizer", "vocab_size", "errors")),
    *(["recipe", "validation_fraction"], ["sources", 0], ["sources", 0, "name"]),
    *(["sources", 0, "length"], ["sources", 0, "sha256"]),
]


def test_comes_back_as_it_was_written(prepared: Callable) -> None:
    file = prepared() / "manifest.json"
    manifest = Manifest.read(file)
    assert manifest.text == file.read_text("utf-8")
    assert (manifest.sources[0].name, manifest.sources[0].length) == ("corpus/a.txt", 91)
    assert manifest.recipe.validation_fraction == 0.2


@pytest.mark.parametrize("keys", KEYS, ids=str)
@pytest.mark.parametrize("value", [None, -1, True, [[]], {}, 1.5], ids=repr)
def test_a_value_of_another_kind_is_refused(
    keys: list[str | int], value: object, prepared: Callable, edit: Callable
) -> None:
    file = prepared() / "manifest.json"
    edit(file, keys, value)
    with pytest.raises(CheckpointError) as refusal:
        Manifest.read(file)
    assert "\n" not in refusal.value.what


@pytest.mark.parametrize("keys", [keys for keys in KEYS if isinstance(keys[-1], str)], ids=str)
def test_each_field_must_be_there(keys: list[str], prepared: Callable) -> None:
    file = prepared() / "manifest.json"
    content = json.loads(file.read_bytes())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner["more"] = inner.pop(keys[-1])
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=r"missing or unknown: .*'more'"):
        Manifest.read(file)


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
def test_what_follows_from_the_rest_must_follow(
    keys: list[str], value: object, prepared: Callable, edit: Callable
) -> None:
    file = prepared() / "manifest.json"
    edit(file, keys, value)
    with pytest.raises(CheckpointError, match="contradicts the other fields"):
        Manifest.read(file)


@pytest.mark.parametrize("length", [0, 1, 40, 400])
def test_half_a_manifest_is_refused(length: int, prepared: Callable) -> None:
    file = prepared() / "manifest.json"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"^manifest\.json: Expecting|Unterminated"):
        Manifest.read(file)
