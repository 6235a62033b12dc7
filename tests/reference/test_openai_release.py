"""OpenAI's release as a folder: read whole, refused when it is not one, written to the byte."""

import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import openai_release, release_shapes
from reference.refusal import RefusedError, UnavailableError
from reference.surrogate import Surrogate

SIZES = {"n_positions": 7, "vocab_size": 11, "n_embd": 6, "n_layer": 2}
CONFIG = SIZES | {"n_head": 3, "model_type": "openai-gpt"}
SHARDS = [f"params_{index}.npy" for index in range(10)]
TOTAL = 1128
"""Parameters of a model of these sizes: 7*6 + 11*6 + 2 * (12*36 + 13*6)."""

RAGGED = [1, 0, 300, 5, 200, 41, 67, 500, 13, 1]
"""Lengths that cut through tensors, and one shard with nothing in it."""

Array = NDArray[np.float32]


@pytest.fixture
def tensors() -> list[Array]:
    """Return drawn tensors of those sizes, in the release's order and shapes."""
    generator = np.random.default_rng(20180611)
    shapes = release_shapes.gpt(**SIZES)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def folder(tmp_path: Path, tensors: list[Array]) -> Path:
    """Return a folder with those tensors in ragged shards, written with NumPy alone."""
    path = tmp_path / "release"
    path.mkdir()
    row = np.concatenate([tensor.reshape(-1) for tensor in tensors])
    for name, part in zip(SHARDS, np.split(row, np.cumsum(RAGGED)[:-1]), strict=True):
        np.save(path / name, part)
    shapes = [list(tensor.shape) for tensor in tensors]
    (path / "params_shapes.json").write_text(json.dumps(shapes), encoding="ascii")
    (path / "config.json").write_text(json.dumps(CONFIG), encoding="ascii")
    return path


def test_reads_every_tensor_in_its_place(folder: Path, tensors: list[Array]) -> None:
    """Bit for bit, whatever tensors the shards were cut through."""
    release = openai_release.read(folder)
    assert [tensor.shape for tensor in tensors] == [tensor.shape for tensor in release.tensors]
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in release.tensors]
    assert {np.dtype(np.float32)} == {tensor.dtype for tensor in release.tensors}
    assert (release.lengths, release.config) == (RAGGED, CONFIG)


def test_every_file_is_digested(folder: Path) -> None:
    """With the digests that other programs give it; the vocabulary goes along."""
    (folder / "vocab_40000.bpe").write_bytes(b"#version: 0.2\n" * 200_000)
    release = openai_release.read(folder)
    expected = [*SHARDS, "params_shapes.json", "config.json", "vocab_40000.bpe"]
    assert expected == [file.name for file in release.files]
    for file in release.files:
        data = (folder / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        assert git_id(folder / file.name) == file.git_blob


def git_id(path: Path) -> str:
    """Return the id that git itself gives a file."""
    command = ["git", "hash-object", "--no-filters", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_progress_is_told_shard_by_shard(folder: Path, tmp_path: Path) -> None:
    """Reading and writing alike."""
    seen: list[tuple[int, int]] = []
    release = openai_release.read(folder, lambda *done: seen.append(done))
    openai_release.write(
        tmp_path, release.tensors, config=CONFIG, on_file=lambda *done: seen.append(done)
    )
    assert [(index, 10) for index in range(1, 11)] * 2 == seen


def test_what_was_read_is_written_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Shards, shapes and digests; the shards are cut where the source's were."""
    release = openai_release.read(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    files = openai_release.write(
        copy, release.tensors, config=release.config, lengths=release.lengths
    )
    for name in [*SHARDS, "params_shapes.json"]:
        assert (folder / name).read_bytes() == (copy / name).read_bytes(), name
    again = openai_release.read(copy)
    assert list(again.files) == files
    assert release.config == again.config


def test_without_lengths_the_shards_are_ten_equal_parts(
    tensors: list[Array], tmp_path: Path
) -> None:
    """And the last is shorter."""
    openai_release.write(tmp_path, tensors, config=CONFIG)
    expected = [113] * 9 + [TOTAL - 9 * 113]
    assert expected == [len(np.load(tmp_path / name)) for name in SHARDS]


def test_a_tiny_surrogate_survives(
    tiny: Surrogate, released: Callable[..., list[Array]], tmp_path: Path
) -> None:
    """Twelve blocks, out and back, bit for bit; a transposed view is written as it reads."""
    tensors = released(tiny.tensors, 12)
    tensors[2] = np.ascontiguousarray(tensors[2].transpose(0, 2, 1)).transpose(0, 2, 1)
    openai_release.write(tmp_path, tensors, config=tiny.config)
    release = openai_release.read(tmp_path)
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in release.tensors]


def published_shapes() -> Path:
    """Return the released params_shapes.json; skip the test where it is not at hand."""
    vocabulary = os.environ.get("GPT1_VOCABULARY")
    if not vocabulary:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    return Path(vocabulary) / "params_shapes.json"


def test_the_published_shapes_are_written_to_the_byte() -> None:
    """As the release formats them, and as git knows them."""
    path = published_shapes()
    expected = path.read_bytes()
    shapes = release_shapes.parse(expected, str(path))
    assert release_shapes.gpt(**release_shapes.RELEASED_SIZES) == shapes
    assert expected == release_shapes.dump(shapes)


def test_the_published_shapes_have_their_published_id() -> None:
    """Which needs no file: the shapes are known, and their format is."""
    text = release_shapes.dump(release_shapes.gpt(**release_shapes.RELEASED_SIZES))
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False)
    expected = "29fac299ae848d7e447be84a33345edcf1b5353c"
    assert expected == blob.hexdigest()
    assert release_shapes.count(release_shapes.parse(text, "")) == 116_534_784


def refused(folder: Path, sentence: str) -> RefusedError:
    """Return the refusal that reading `folder` ends in; its message is of one line."""
    with pytest.raises(RefusedError, match=sentence) as caught:
        openai_release.read(folder)
    assert "\n" not in f"{caught.value.what}{caught.value.where}{caught.value.fix}"
    assert len(caught.value.what) < 200
    return caught.value


@pytest.mark.parametrize("name", [*SHARDS, "params_shapes.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    """Whichever it is."""
    (folder / name).unlink()
    refused(folder, f"there is no file {name}")


@pytest.mark.parametrize("name", ["params_10.npy", "params_00.npy", "PARAMS_3.NPY"])
def test_a_shard_too_many_is_named(name: str, folder: Path) -> None:
    """It may be the half of another release."""
    np.save(folder / "extra", np.zeros(3, np.float32))
    (folder / "extra.npy").rename(folder / name)
    refused(folder, f"{name} is no shard of the release")


def test_there_is_no_folder(tmp_path: Path) -> None:
    """Or there is a file in its place."""
    refused(tmp_path / "nowhere", "there is no such folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "there is no such folder")


def test_a_number_too_few_is_counted(folder: Path) -> None:
    """The shard is well formed, and short."""
    np.save(folder / "params_4.npy", np.load(folder / "params_4.npy")[:-1])
    refused(folder, "the shards hold 1,127 numbers, the shapes ask for 1,128")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_counted(value: float, folder: Path) -> None:
    """With the tensor they are in: the second of positions and tokens, here."""
    part = np.load(folder / "params_2.npy")
    part[60:63] = value
    np.save(folder / "params_2.npy", part)
    refused(folder, r"tensor 1 \[11, 6\] has 3 numbers that are NaN or infinite")


def test_a_minus_zero_and_the_smallest_number_stay(folder: Path) -> None:
    """They are numbers, and every bit of them counts."""
    part = np.load(folder / "params_2.npy")
    part[:2] = [-0.0, 1e-45]
    np.save(folder / "params_2.npy", part)
    first = openai_release.read(folder).tensors[0].reshape(-1)[1:3]
    assert part[:2].tobytes() == first.tobytes()


def without(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a config that lacks a field."""
    return {key: value for key, value in config.items() if key != name}


CONFIGS = {
    "not JSON": ("{", r"config\.json is not JSON"),
    "nested": ("[" * 100_000, r"config\.json is not JSON"),
    "a list": ("[]", r"config\.json is not a JSON object"),
    "NaN": (json.dumps(CONFIG | {"afn": float("nan")}), r"config\.json is not JSON"),
    "other layers": (json.dumps(CONFIG | {"n_layer": 3}), "says n_layer=3, the tensors say 2"),
    "other width": (json.dumps(CONFIG | {"n_embd": 12}), "says n_embd=12, the tensors say 6"),
    "no vocabulary": (json.dumps(without(CONFIG, "vocab_size")), "says vocab_size=None"),
    "huge": (json.dumps(CONFIG | {"n_positions": 10**3000}), "says n_positions=1000"),
    "too long": (" " * (1 << 20) + "{}", r"config\.json has 1,048,578 bytes"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_does_not_fit_is_refused(case: str, folder: Path) -> None:
    """Malformed, or of another model."""
    text, sentence = CONFIGS[case]
    (folder / "config.json").write_text(text, encoding="ascii")
    refused(folder, sentence)


def test_without_a_config_only_the_published_shapes_are_taken(folder: Path) -> None:
    """In no other is the number of heads known."""
    (folder / "config.json").unlink()
    refused(folder, "no config.json says how many heads")
    shapes = release_shapes.gpt(**release_shapes.RELEASED_SIZES)
    release_shapes.check_config(shapes, None, "")


def test_a_config_that_is_a_link_to_nothing_is_not_overlooked(folder: Path) -> None:
    """It is there, and it is broken."""
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("nowhere")
    refused(folder, r"config\.json is a symbolic link to nothing")


def test_what_does_not_fit_is_not_written(tensors: list[Array], tmp_path: Path) -> None:
    """Lengths of another model, another type of number, and shapes without their config."""
    for lengths in ([113] * 10, [TOTAL], [*[0] * 8, TOTAL + 1, -1], [*[0] * 9, float(TOTAL)]):
        with pytest.raises(RefusedError, match="shard lengths are not 10 numbers"):
            openai_release.write(tmp_path, tensors, config=CONFIG, lengths=lengths)
    with pytest.raises(RefusedError, match="no config"):
        openai_release.write(tmp_path, tensors, config=None)
    assert not list(tmp_path.iterdir())
    doubled = [tensor.astype(np.float64) for tensor in tensors]
    with pytest.raises(RefusedError, match="float64"):
        openai_release.write(tmp_path, doubled, config=CONFIG)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "cannot be")],
)
def test_a_folder_that_takes_nothing_is_named(
    code: int, sentence: str, tensors: list[Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, read-only, or broken."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnavailableError, match=sentence):
        openai_release.write(tmp_path, tensors, config=CONFIG)
