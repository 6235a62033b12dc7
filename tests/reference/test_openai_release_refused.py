"""OpenAI's release as a folder: what is not one is refused, and none such is written."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import openai_release
from reference.errors import RejectedError, UnavailableError

SIZES = {"n_positions": 7, "vocab_size": 11, "n_embd": 6, "n_layer": 2}
CONFIG = SIZES | {"n_head": 3, "model_type": "openai-gpt"}
SHARDS = [f"params_{index}.npy" for index in range(10)]
TOTAL = 1128
RAGGED = [1, 0, 300, 5, 200, 41, 67, 500, 13, 1]

Array = NDArray[np.float32]


@pytest.fixture
def tensors() -> list[Array]:
    generator = np.random.default_rng(20180611)
    shapes = openai_release.gpt_shapes(**SIZES)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def folder(tmp_path: Path, tensors: list[Array]) -> Path:
    path = tmp_path / "release"
    path.mkdir()
    openai_release.write_release(path, tensors, config=CONFIG, lengths=RAGGED)
    assert openai_release.read_release(path).config == CONFIG
    return path


def refused(folder: Path, sentence: str) -> RejectedError:
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.read_release(folder)
    assert "\n" not in f"{caught.value.what}{caught.value.where}{caught.value.fix}"
    assert len(caught.value.what) < 200
    return caught.value


@pytest.mark.parametrize("name", [*SHARDS, "params_shapes.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    refused(folder, f"there is no file {name}")


@pytest.mark.parametrize("name", ["params_10.npy", "params_00.npy", "PARAMS_3.NPY"])
def test_a_shard_too_many_is_named(name: str, folder: Path) -> None:
    """It may be the half of another release."""
    np.save(folder / "extra", np.zeros(3, np.float32))
    (folder / "extra.npy").rename(folder / name)
    refused(folder, f"{name} is no shard of the release")


def test_there_is_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "there is no such folder")


def test_a_number_too_few_is_counted(folder: Path) -> None:
    np.save(folder / "params_4.npy", np.load(folder / "params_4.npy")[:-1])
    refused(folder, "the shards hold 1,127 numbers, the shapes ask for 1,128")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_counted(value: float, folder: Path) -> None:
    part = np.load(folder / "params_2.npy")
    part[60:63] = value
    np.save(folder / "params_2.npy", part)
    refused(folder, r"tensor 1 \[11, 6\] has 3 numbers that are NaN or infinite")


CONFIGS = {
    "not JSON": ("{", r"config\.json is not JSON"),
    "nested": ("[" * 100_000, r"config\.json is not JSON"),
    "a list": ("[]", r"config\.json is not a JSON object"),
    "NaN": (json.dumps(CONFIG | {"afn": float("nan")}), r"config\.json is not JSON"),
    "of another model": (json.dumps(CONFIG | {"n_layer": 3}), "n_layer=3, the tensors say 2"),
    "too long": (" " * (1 << 20) + "{}", r"config\.json has 1,048,578 bytes"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_does_not_fit_is_refused(case: str, folder: Path) -> None:
    text, sentence = CONFIGS[case]
    (folder / "config.json").write_text(text, encoding="ascii")
    refused(folder, sentence)


def test_a_config_that_is_missing_is_not_made_up(folder: Path) -> None:
    """Only with the published shapes is one not needed; a dead link is no absence."""
    (folder / "config.json").unlink()
    refused(folder, "no config.json says how many heads")
    (folder / "config.json").symlink_to("nowhere")
    refused(folder, r"config\.json is a symbolic link to nothing")


def test_what_does_not_fit_is_not_written(tensors: list[Array], tmp_path: Path) -> None:
    for lengths in ([113] * 10, [TOTAL], [*[0] * 8, TOTAL + 1, -1], [*[0] * 9, float(TOTAL)]):
        with pytest.raises(RejectedError, match="shard lengths are not 10 numbers"):
            openai_release.write_release(tmp_path, tensors, config=CONFIG, lengths=lengths)
    with pytest.raises(RejectedError, match="no config"):
        openai_release.write_release(tmp_path, tensors, config=None)
    assert not list(tmp_path.iterdir())
    doubled = [tensor.astype(np.float64) for tensor in tensors]
    with pytest.raises(RejectedError, match="float64"):
        openai_release.write_release(tmp_path, doubled, config=CONFIG)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "cannot be")],
)
def test_a_folder_that_takes_nothing_is_named(
    code: int, sentence: str, tensors: list[Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnavailableError, match=sentence):
        openai_release.write_release(tmp_path, tensors, config=CONFIG)
