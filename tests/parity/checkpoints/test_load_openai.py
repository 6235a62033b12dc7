"""The release's shards as weights: named by their order, and theirs the claim to be published."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parity.checkpoints import load
from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Standing, Weights
from parity.errors import ExitCode, ParityError
from reference import openai_release, published

Listed = Sequence[NDArray[np.float32]]


@pytest.fixture
def listed(weights: Weights) -> Listed:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.RELEASE)
    return list(named.values())


@pytest.fixture
def folder(tmp_path: Path, listed: Listed, weights: Weights) -> Path:
    openai_release.write_release(tmp_path, listed, config=dict(weights.config))
    return tmp_path


def refusal(folder: Path) -> ParityError:
    with pytest.raises(ParityError) as caught:
        load_weights(str(folder))
    assert caught.value.exit_code is ExitCode.REFUSED, caught.value
    return caught.value


def test_shards_are_read_to_the_bit(folder: Path, weights: Weights) -> None:
    found = load_weights(str(folder))
    for name, array in weights.tensors.items():
        assert np.array_equal(array.view(np.uint32), found.tensors[name].view(np.uint32)), name
    assert found.provenance.sha256 == weights.provenance.sha256
    names = {file.name for file in found.provenance.files}
    assert names == {path.name for path in folder.iterdir()}
    assert all(len(str(file.git_blob)) == 40 for file in found.provenance.files)
    assert found.provenance.standing is Standing.UNKNOWN
    assert sum(shard.length for shard in found.shards or ()) == sum(
        array.size for array in weights.tensors.values()
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "params_3.npy").unlink(),
        lambda folder: (folder / "params_shapes.json").unlink(),
        lambda folder: (folder / "params_3.npy").write_bytes(b""),
        lambda folder: (folder / "params_shapes.json").write_text("[]"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: np.save(folder / "params_3.npy", np.zeros(3, np.float32)),
        lambda folder: np.save(folder / "params_9.npy", np.full(9, np.nan, np.float32)),
    ],
    ids=["shard", "shapes", "empty", "no shapes", "no heads", "short", "nan"],
)
def test_an_unsound_release_is_refused(change: Callable[[Path], object], folder: Path) -> None:
    change(folder)
    refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_layer": 11}, "n_layer"),
        ({"n_embd": 42}, "n_embd"),
        ({"n_head": 4}, "multiple of n_head"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"made_up": 1}, "made_up"),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused(
    change: dict[str, Any], said: str, folder: Path, weights: Weights
) -> None:
    text = json.dumps(dict(weights.config) | change)
    (folder / "config.json").write_text(text, encoding="utf-8")
    assert said in refusal(folder).what


@pytest.mark.parametrize("twice", [True, False])
def test_a_config_without_its_number_of_heads_is_refused(*, twice: bool, folder: Path) -> None:
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8").replace('"n_head": 3,', "")
    if twice:
        text = text.replace("{", '{"n_head": 3, "n_head": 7,', 1)
    path.write_text(text, encoding="utf-8")
    assert "n_head" in refusal(folder).what


def test_blocks_in_another_order_are_other_weights(
    folder: Path, listed: Listed, weights: Weights
) -> None:
    swapped = [*listed[:2], *listed[14:26], *listed[2:14], *listed[26:]]
    openai_release.write_release(folder, swapped, config=dict(weights.config))
    found = load_weights(str(folder))
    assert np.array_equal(found.tensors["h.0.ln_1.bias"], weights.tensors["h.1.ln_1.bias"])
    assert found.provenance.sha256 != weights.provenance.sha256


def test_bare_shards_must_be_the_published_ones(
    folder: Path, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a config they claim it: other bytes are refused, the published ones known."""
    release = openai_release.read_release(folder)
    bare = openai_release.Release(
        tensors=release.tensors,
        config=None,
        files=[file for file in release.files if file.name != "config.json"],
        lengths=release.lengths,
        headers=release.headers,
    )
    monkeypatch.setattr(openai_release, "read_release", lambda _folder: bare)
    monkeypatch.setattr(load.huggingface_files, "check_vocabulary", lambda *_: None)
    found = load.read_openai(folder, source="shards")
    assert found.fields["n_head"] == 12
    assert {file.standing for file in found.files} == {Standing.DIFFERS}
    blobs = {file.name: file.git_blob for file in bare.files}
    for name, blob in blobs.items():
        monkeypatch.setitem(published.GIT_BLOBS, name, blob)
    files = load.read_openai(folder, source="shards").files
    assert {file.standing for file in files} == {Standing.KNOWN}
    assert len(listed) == 146


@pytest.mark.parametrize("name", ["params_shapes.json", "params_0.npy", "params_7.npy"])
def test_what_was_meant_as_a_release_is_read_as_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert load.is_openai_folder(tmp_path)
    assert "params_" in refusal(tmp_path).what
