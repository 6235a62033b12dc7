"""OpenAI's release as a folder: read whole, refused when it is not one, written to the byte."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import openai_release
from reference.errors import RejectedError
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
    generator = np.random.default_rng(20180611)
    shapes = openai_release.gpt_shapes(**SIZES)
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
    release = openai_release.read_release(folder)
    assert [tensor.shape for tensor in tensors] == [tensor.shape for tensor in release.tensors]
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in release.tensors]
    assert {np.dtype(np.float32)} == {tensor.dtype for tensor in release.tensors}
    assert (release.lengths, release.config) == (RAGGED, CONFIG)


def test_every_file_is_digested(folder: Path) -> None:
    (folder / "vocab_40000.bpe").write_bytes(b"#version: 0.2\n" * 200_000)
    release = openai_release.read_release(folder)
    expected = [*SHARDS, "params_shapes.json", "config.json", "vocab_40000.bpe"]
    assert expected == [file.name for file in release.files]
    for file in release.files:
        data = (folder / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        assert git_id(folder / file.name) == file.git_blob


def git_id(path: Path) -> str:
    command = ["git", "hash-object", "--no-filters", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_progress_is_told_shard_by_shard(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    release = openai_release.read_release(folder, lambda *done: seen.append(done))
    openai_release.write_release(
        tmp_path, release.tensors, config=CONFIG, on_file=lambda *done: seen.append(done)
    )
    assert [(index, 10) for index in range(1, 11)] * 2 == seen


def test_what_was_read_is_written_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    release = openai_release.read_release(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    files = openai_release.write_release(
        copy, release.tensors, config=release.config, lengths=release.lengths
    )
    for name in [*SHARDS, "params_shapes.json"]:
        assert (folder / name).read_bytes() == (copy / name).read_bytes(), name
    again = openai_release.read_release(copy)
    assert list(again.files) == files
    assert release.config == again.config


def aligned(length: int) -> bytes:
    """Return a header as NumPy wrote it before 1.14: padded to 16 bytes."""
    literal = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({length},), }}"
    padding = -(len(literal) + 11) % 16
    text = literal + " " * padding + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_the_headers_of_another_year_come_back(
    folder: Path, tensors: list[Array], tmp_path: Path
) -> None:
    row = np.concatenate([tensor.reshape(-1) for tensor in tensors])
    for name, part in zip(SHARDS, np.split(row, np.cumsum(RAGGED)[:-1]), strict=True):
        (folder / name).write_bytes(aligned(part.size) + part.tobytes())
    release = openai_release.read_release(folder)
    headers = json.loads(json.dumps(release.headers))
    openai_release.write_release(
        tmp_path, release.tensors, config=CONFIG, lengths=release.lengths, headers=headers
    )
    assert len(headers[2]) == 80
    for name in SHARDS:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_headers_of_other_lengths_are_not_written(folder: Path, tmp_path: Path) -> None:
    release = openai_release.read_release(folder)
    good = list(release.headers)
    spoilt = [good[:-1], [*good[:-1], good[0] + " "], [*good[1:], good[0]], [*good[:-1], "€"]]
    for headers in spoilt:
        with pytest.raises(RejectedError, match="header"):
            openai_release.write_release(
                tmp_path, release.tensors, config=CONFIG, lengths=RAGGED, headers=headers
            )


def test_without_lengths_the_shards_are_ten_equal_parts(
    tensors: list[Array], tmp_path: Path
) -> None:
    openai_release.write_release(tmp_path, tensors, config=CONFIG)
    expected = [113] * 9 + [TOTAL - 9 * 113]
    assert expected == [len(np.load(tmp_path / name)) for name in SHARDS]


def test_a_tiny_surrogate_survives(
    tiny: Surrogate, released: Callable[..., list[Array]], tmp_path: Path
) -> None:
    tensors = released(tiny.tensors, 12)
    tensors[2] = np.ascontiguousarray(tensors[2].transpose(0, 2, 1)).transpose(0, 2, 1)
    openai_release.write_release(tmp_path, tensors, config=tiny.config)
    release = openai_release.read_release(tmp_path)
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in release.tensors]


def test_a_minus_zero_and_the_smallest_number_stay(folder: Path) -> None:
    """They are numbers, and every bit of them counts."""
    part = np.load(folder / "params_2.npy")
    part[:2] = [-0.0, 1e-45]
    np.save(folder / "params_2.npy", part)
    first = openai_release.read_release(folder).tensors[0].reshape(-1)[1:3]
    assert part[:2].tobytes() == first.tobytes()
