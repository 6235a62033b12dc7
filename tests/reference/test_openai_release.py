"""OpenAI's release as a folder: read whole, rejected when unsound, written to the byte."""

import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import openai_release
from reference.errors import RejectedError, UnavailableError
from reference.openai_release import RELEASED_SIZES, gpt_shapes, read_release, write_release
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
    return [generator.standard_normal(shape).astype(np.float32) for shape in gpt_shapes(**SIZES)]


@pytest.fixture
def folder(tmp_path: Path, tensors: list[Array]) -> Path:
    """Return a folder with those tensors in ragged shards, written with NumPy alone."""
    path = tmp_path / "release"
    path.mkdir()
    for name, part in zip(SHARDS, ragged(tensors), strict=True):
        np.save(path / name, part)
    shapes = [list(tensor.shape) for tensor in tensors]
    (path / "params_shapes.json").write_text(json.dumps(shapes), encoding="ascii")
    (path / "config.json").write_text(json.dumps(CONFIG), encoding="ascii")
    return path


def ragged(tensors: list[Array]) -> list[Array]:
    row = np.concatenate([tensor.reshape(-1) for tensor in tensors])
    return np.split(row, np.cumsum(RAGGED)[:-1])


def test_reads_every_tensor_in_its_place(folder: Path, tensors: list[Array]) -> None:
    release = read_release(folder)
    assert [tensor.shape for tensor in tensors] == [tensor.shape for tensor in release.tensors]
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in release.tensors]
    assert {np.dtype(np.float32)} == {tensor.dtype for tensor in release.tensors}
    assert (release.lengths, release.config) == (RAGGED, CONFIG)


def test_every_file_is_digested(folder: Path) -> None:
    (folder / "vocab_40000.bpe").write_bytes(b"#version: 0.2\n" * 200_000)
    release = read_release(folder)
    expected = [*SHARDS, "params_shapes.json", "config.json", "vocab_40000.bpe"]
    assert expected == [file.name for file in release.files]
    for file in release.files:
        data = (folder / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        command = ["git", "hash-object", "--no-filters", str(folder / file.name)]
        git = subprocess.run(command, capture_output=True, text=True, check=True)
        assert git.stdout.strip() == file.git_blob


def test_reading_and_writing_report_progress_by_shard(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    release = read_release(folder, lambda *done: seen.append(done))
    write_release(tmp_path, release.tensors, config=CONFIG, on_file=lambda *done: seen.append(done))
    assert [(index, 10) for index in range(1, 11)] * 2 == seen


def test_a_release_is_written_back_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    release = read_release(folder)
    files = write_release(tmp_path, release.tensors, config=release.config, lengths=release.lengths)
    for name in [*SHARDS, "params_shapes.json"]:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    again = read_release(tmp_path)
    assert list(again.files) == files
    assert release.config == again.config


def aligned(length: int) -> bytes:
    """Return a header as NumPy wrote it before 1.14: padded to 16 bytes."""
    literal = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({length},), }}"
    text = literal + " " * (-(len(literal) + 11) % 16) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_headers_of_an_older_numpy_are_written_again(
    folder: Path, tensors: list[Array], tmp_path: Path
) -> None:
    for name, part in zip(SHARDS, ragged(tensors), strict=True):
        (folder / name).write_bytes(aligned(part.size) + part.tobytes())
    release = read_release(folder)
    headers = json.loads(json.dumps(release.headers))
    write_release(tmp_path, release.tensors, config=CONFIG, lengths=RAGGED, headers=headers)
    assert len(headers[2]) == 80
    for name in SHARDS:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_headers_of_other_lengths_are_not_written(folder: Path, tmp_path: Path) -> None:
    release = read_release(folder)
    good = list(release.headers)
    spoilt = [good[:-1], [*good[:-1], good[0] + " "], [*good[1:], good[0]], [*good[:-1], "€"]]
    for headers in spoilt:
        with pytest.raises(RejectedError, match="header"):
            write_release(tmp_path, release.tensors, config=CONFIG, lengths=RAGGED, headers=headers)


def test_without_lengths_the_shards_are_ten_equal_parts(
    tensors: list[Array], tmp_path: Path
) -> None:
    write_release(tmp_path, tensors, config=CONFIG)
    assert [len(np.load(tmp_path / name)) for name in SHARDS] == [113] * 9 + [TOTAL - 9 * 113]


def test_twelve_blocks_and_a_transposed_view_survive(
    tiny: Surrogate, released: Callable[..., list[Array]], tmp_path: Path
) -> None:
    tensors = released(tiny.tensors, 12)
    tensors[2] = np.ascontiguousarray(tensors[2].transpose(0, 2, 1)).transpose(0, 2, 1)
    write_release(tmp_path, tensors, config=tiny.config)
    assert [t.tobytes() for t in tensors] == [t.tobytes() for t in read_release(tmp_path).tensors]


def test_a_minus_zero_and_the_smallest_number_stay(folder: Path) -> None:
    part = np.load(folder / "params_2.npy")
    part[:2] = [-0.0, 1e-45]
    np.save(folder / "params_2.npy", part)
    first = read_release(folder).tensors[0].reshape(-1)[1:3]
    assert part[:2].tobytes() == first.tobytes()


# Unsound folders.


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(RejectedError, match=sentence) as caught:
        read_release(folder)
    assert "\n" not in f"{caught.value.what}{caught.value.where}{caught.value.fix}"
    assert len(caught.value.what) < 200


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
def test_numbers_that_are_not_finite_are_counted(value: float, folder: Path) -> None:
    part = np.load(folder / "params_2.npy")
    part[60:63] = value
    np.save(folder / "params_2.npy", part)
    refused(folder, r"tensor 1 \[11, 6\] has 3 numbers that are NaN or infinite")


CONFIGS = {
    "not JSON": ("{", r"config\.json is not JSON"),
    "nested": ("[" * 100_000, r"config\.json is not JSON"),
    "a list": ("[]", r"config\.json is not a JSON object"),
    "NaN": (json.dumps(CONFIG | {"afn": float("nan")}), r"config\.json is not JSON"),
    "of another model": (json.dumps(CONFIG | {"n_layer": 3}), "n_layer=3, the tensors have 2"),
    "too long": (" " * (1 << 20) + "{}", r"config\.json has 1,048,578 bytes"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_an_unsound_config_is_refused(case: str, folder: Path) -> None:
    text, sentence = CONFIGS[case]
    (folder / "config.json").write_text(text, encoding="ascii")
    refused(folder, sentence)


def test_a_missing_config_is_required(folder: Path) -> None:
    """Only the published shapes need none; a dangling link is no absence."""
    (folder / "config.json").unlink()
    refused(folder, "no config.json gives the number of heads")
    (folder / "config.json").symlink_to("nowhere")
    refused(folder, r"config\.json is a symbolic link to nothing")


def test_an_unsound_release_is_not_written(tensors: list[Array], tmp_path: Path) -> None:
    for lengths in ([113] * 10, [TOTAL], [*[0] * 8, TOTAL + 1, -1], [*[0] * 9, float(TOTAL)]):
        with pytest.raises(RejectedError, match="shard lengths are not 10 numbers"):
            write_release(tmp_path, tensors, config=CONFIG, lengths=lengths)
    with pytest.raises(RejectedError, match="no config"):
        write_release(tmp_path, tensors, config=None)
    assert not list(tmp_path.iterdir())
    doubled = [tensor.astype(np.float64) for tensor in tensors]
    with pytest.raises(RejectedError, match="float64"):
        write_release(tmp_path, doubled, config=CONFIG)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "cannot be")],
)
def test_a_folder_that_cannot_be_written_is_named(
    code: int, sentence: str, tensors: list[Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnavailableError, match=sentence):
        write_release(tmp_path, tensors, config=CONFIG)


# The list of shapes.

GOOD = [list(shape) for shape in gpt_shapes(**SIZES)]


def test_the_published_shapes_are_written_to_the_byte(released_vocabulary: Path) -> None:
    expected = (released_vocabulary / "params_shapes.json").read_bytes()
    shapes = openai_release.parse_shapes(expected, "here")
    assert gpt_shapes(**RELEASED_SIZES) == shapes
    assert expected == openai_release.dump_shapes(shapes)


def test_the_published_shapes_have_their_published_id() -> None:
    text = openai_release.dump_shapes(gpt_shapes(**RELEASED_SIZES))
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False)
    assert blob.hexdigest() == "29fac299ae848d7e447be84a33345edcf1b5353c"
    assert openai_release.count_parameters(openai_release.parse_shapes(text, "")) == 116_534_784


def test_the_sizes_follow_from_the_shapes() -> None:
    shapes = openai_release.parse_shapes(json.dumps(GOOD).encode(), "here")
    assert openai_release.shape_sizes(shapes, "here") == SIZES
    assert openai_release.count_parameters(shapes) == TOTAL


def changed(index: int, shape: object) -> str:
    return json.dumps([*GOOD[:index], shape, *GOOD[index + 1 :]])


FORGERIES = {
    "empty": ("", "is not JSON"),
    "cut off": (json.dumps(GOOD)[:-1], "is not JSON"),
    "no text": ("\udcff", "is not JSON"),
    "nested": ("[" * 100_000, "is not JSON"),
    "digits without end": ("[[" + "9" * 5000 + "]]", "is not JSON"),
    "an object": ("{}", "is not a list of lists"),
    "a number among the lists": (changed(3, 18), "is not a list of lists"),
    "a fraction": (changed(3, [18.0]), "is not a list of lists"),
    "a truth": (changed(3, [True]), "is not a list of lists"),
    "zero": (changed(3, [0]), "is not a list of lists"),
    "negative": (changed(1, [-11, 6]), "is not a list of lists"),
    "no axis": (changed(3, []), "is not a list of lists"),
    "no tensor": ("[]", "there are 0 tensors"),
    "no block": (json.dumps(GOOD[:2]), "there are 2 tensors"),
    "a tensor short": (json.dumps(GOOD[:-1]), "there are 25 tensors"),
    "a tensor too many": (json.dumps([*GOOD, [6]]), "there are 27 tensors"),
    "tokens of another width": (changed(1, [11, 7]), r"tensor 1 has shape \[11, 7\], where"),
    "positions flat": (changed(0, [42]), "tensor 0 has shape"),
    "a matrix squeezed": (changed(2, [6, 18]), r"tensor 2 .* where \[1, 6, 18\] is due"),
    "a matrix transposed": (changed(2, [1, 18, 6]), "tensor 2 has shape"),
    "two tensors swapped": (
        json.dumps([*GOOD[:2], GOOD[3], GOOD[2], *GOOD[4:]]),
        "tensor 2 has shape",
    ),
    "a huge one in the last block": (changed(25, [10**300]), "tensor 25 has shape"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_an_unsound_list_of_shapes_is_refused(case: str) -> None:
    text, sentence = FORGERIES[case]
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.parse_shapes(text.encode(errors="surrogateescape"), "here")
    assert caught.value.where == "here"
    assert len(caught.value.what) < 200


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("n_layer", 3, "has n_layer=3, the tensors have 2"),
        ("n_embd", 12, "has n_embd=12, the tensors have 6"),
        ("n_positions", 10**3000, "has n_positions=1000"),
        ("vocab_size", None, "has vocab_size=None, the tensors have 11"),
        ("vocab_size", "11", "has vocab_size='11', the tensors have 11"),
    ],
)
def test_a_config_of_other_sizes_is_refused(field: str, value: Any, sentence: str) -> None:  # noqa: ANN401
    shapes = gpt_shapes(**SIZES)
    openai_release.check_config(shapes, SIZES, "here")
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.check_config(shapes, SIZES | {field: value}, "here")
    assert len(caught.value.what) < 200


def test_a_config_may_not_give_true_for_one() -> None:
    sizes = SIZES | {"n_layer": 1}
    with pytest.raises(RejectedError, match="has n_layer=True"):
        openai_release.check_config(gpt_shapes(**sizes), sizes | {"n_layer": True}, "")


def test_only_the_published_shapes_need_no_config() -> None:
    openai_release.check_config(gpt_shapes(**RELEASED_SIZES), None, "here")
    for name, size in RELEASED_SIZES.items():
        shapes = gpt_shapes(**RELEASED_SIZES | {name: size + 1})
        with pytest.raises(RejectedError, match="number of heads"):
            openai_release.check_config(shapes, None, "here")
