"""Which of a repository's files are wanted, and what an index may name."""

import json
from pathlib import Path

import pytest

from reference import hub_cache
from reference.errors import RejectedError


@pytest.mark.parametrize("first", range(len(hub_cache.WEIGHTS)))
def test_the_first_form_that_is_there_is_taken(first: int) -> None:
    """Safetensors before pickles, whole files before shards."""
    names = {*hub_cache.WEIGHTS[first:], "tf_model.h5", "rust_model.ot", "README.md"}
    assert hub_cache.WEIGHTS[first] == hub_cache.weights(names)


def test_other_files_are_no_weights() -> None:
    """Those of other libraries, and those whose names only look alike."""
    assert (
        hub_cache.weights({"tf_model.h5", "model.safetensors.bak", "a/model.safetensors"}) is None
    )


def index(text: str, folder: Path) -> Path:
    """Write an index; return its path."""
    path = folder / "model.safetensors.index.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_shard_is_named_once(tmp_path: Path) -> None:
    """However many tensors it holds."""
    text = json.dumps(
        {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    )
    assert hub_cache.shards(index(text, tmp_path)) == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[]", "{}", "7", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {}}'),
        *('{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": "/etc/passwd"}}'),
        *(
            '{"weight_map": {"a": ""}}',
            '{"weight_map": {"a": ".."}}',
            '{"weight_map": {"a": "b/c"}}',
        ),
        *(
            '{"weight_map": {"a": "b\\\\c"}}',
            '{"weight_map": {"a": 7}}',
            '{"weight_map": {"a": null}}',
        ),
    ],
    ids=lambda text: text[:32],
)
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """Malformed, empty, or naming what lies outside its folder."""
    with pytest.raises(RejectedError, match=r"model\.safetensors\.index\.json"):
        hub_cache.shards(index(text, tmp_path))
