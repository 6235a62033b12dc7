"""Which files of a folder are weights."""

from pathlib import Path

import pytest

from scratch_gpt.checkpoint.checkpoint import other_weight_files


@pytest.mark.parametrize(
    "name",
    [
        *("model-00001-of-00002.safetensors", "pytorch_model.bin", "x.PT", "params_3.npy"),
        *("PARAMS_3.NPY", "tf_model.h5", "rust_model.ot", "flax_model.msgpack", "a.npz"),
        *("params_shapes.json", ".metadata", "model.safetensors.index.json"),
    ],
)
def test_weights_are_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert other_weight_files(tmp_path, ()) == [name]
    assert other_weight_files(tmp_path, {name}) == []


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "README.md", "npy"])
def test_what_lies_beside_weights_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert other_weight_files(tmp_path, ()) == []


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert other_weight_files(tmp_path / "nothing", ()) == []
