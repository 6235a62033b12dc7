"""One safetensors file: read bit by bit, or rejected."""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt.checkpoint import safetensors
from scratch_gpt.checkpoint.safetensors import SafetensorsFile, count_not_finite, read_safetensors
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.errors import CheckpointError, EmptyCheckpointError

DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
FLOATS = sorted((dtype for dtype in DTYPES if dtype.is_floating_point), key=str)

Save = Callable[..., Path]
ReadBytes = Callable[[bytes], SafetensorsFile]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    path = tmp_path / "model.safetensors"

    def write(**tensors: Tensor) -> Path:
        save_file(tensors, path, {"format": "pt"})
        return path

    return write


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_dtype_comes_back_bit_for_bit(save: Save) -> None:
    generator = torch.Generator().manual_seed(1)
    saved = {
        str(dtype): torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype in DTYPES
    }
    saved |= {"scalar": torch.tensor(math.pi), "empty": torch.empty(0, 7), "none": torch.ones(0)}
    found = read_safetensors(save(**saved)).tensors
    assert set(saved) == set(found)
    for name, tensor in saved.items():
        assert (tensor.dtype, tensor.shape) == (found[name].dtype, found[name].shape), name
        assert bits(tensor) == bits(found[name]), name


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_edges_of_the_numbers_are_kept(dtype: torch.dtype, save: Save) -> None:
    limits = torch.finfo(dtype)
    edges = torch.tensor([-0.0, 0.0, limits.max, limits.min, limits.tiny], dtype=dtype)
    least = torch.zeros(dtype.itemsize, dtype=torch.uint8)
    least[0] = 1
    saved = torch.cat([edges, least.view(dtype)])
    assert float(saved[-1]) > 0.0
    assert bits(saved) == bits(read_safetensors(save(weight=saved)).tensors["weight"])


def test_each_tensor_owns_its_memory(save: Save) -> None:
    b = torch.randn(5)
    path = save(a=torch.randn(3, 4), b=b)
    tensors = read_safetensors(path).tensors
    path.unlink()
    tensors["a"].fill_(7.0)
    assert torch.equal(b, tensors["b"])
    for tensor in tensors.values():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_says_what_the_file_is(save: Save) -> None:
    path = save(a=torch.randn(70, 60), b=torch.tensor(1.5, dtype=torch.bfloat16), c=torch.ones(0))
    found = read_safetensors(path)
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.sha256
    assert (len(content), {"format": "pt"}) == (found.size, found.metadata)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_numbers_that_are_not_finite(value: float, dtype: torch.dtype, save: Save) -> None:
    damaged = torch.ones(3, 5, dtype=dtype)
    damaged[2, 4] = damaged[0, 1] = value
    message = "^tensor 'h.0.bad' holds NaN or infinity in 2 of 15 numbers "
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(save(**{"a": torch.ones(3), "h.0.bad": damaged}))


def test_never_waits_for_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"^it is a named pipe, not a file"):
        read_safetensors(tmp_path / "pipe")


def test_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    size = 1 << 43
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(CheckpointError, match=r"^the safetensors library cannot read it: "):
        read_safetensors(path)


def test_a_big_endian_machine_is_rejected(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(a=torch.ones(1))
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(CheckpointError, match="this machine is big-endian"):
        read_safetensors(path)


def truncate(path: Path) -> None:
    os.truncate(path, 100)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(path, ns=(0, 0))


def replace(path: Path) -> None:
    """Put another file of the same length and time in its place."""
    twin = path.with_suffix(".twin")
    twin.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
    twin.rename(path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("disturb", [truncate, rewrite, replace, Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_rejected(
    disturb: Callable[[Path], None], when: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(a=torch.ones(1000), b=torch.zeros(1000))
    calls: dict[str, Callable[[], None]] = {"before": lambda: None, "after": lambda: None}

    @contextmanager
    def opening(*arguments: object, **options: object) -> Iterator[safe_open]:
        with safe_open(*arguments, **options) as library:
            calls["before"]()
            yield library
            calls["after"]()

    monkeypatch.setattr(safetensors, "safe_open", opening)
    read_safetensors(path)  # the replaced function itself changes nothing
    calls[when] = lambda: disturb(path)
    with pytest.raises(CheckpointError, match=r"^it changed while it was read"):
        read_safetensors(path)


def test_nothing_is_mapped(save: Save) -> None:
    """No part of the file is in the process's memory map, so truncating it kills no process."""
    path = save(a=torch.ones(1000))
    found = read_safetensors(path)
    os.truncate(path, 0)
    assert float(found.tensors["a"].sum()) == 1000.0
    assert not re.search(re.escape(str(path)), Path("/proc/self/maps").read_text("utf-8"))


@pytest.mark.parametrize("layout", ["tf", "flax", "mlx", "", "PT"])
def test_a_file_laid_out_for_others_is_refused(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.ones(2)}
    save_file(tensors, path, metadata={"format": layout})
    with pytest.raises(CheckpointError, match="it was written for"):
        read_safetensors(path)
    for metadata in (None, {"format": "np"}, {"format": "pt"}):
        save_file(tensors, path, metadata=metadata)
        assert list(read_safetensors(path).tensors) == ["a"]


# Numbers that are not finite.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counts_what_is_no_number(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    sound = torch.tensor([[limits.max, limits.min], [0.0, -0.0]], dtype=dtype)
    assert count_not_finite(sound) == 0
    for value in (math.nan, math.inf, -math.inf):
        assert count_not_finite(torch.cat([sound, torch.full((2, 2), value, dtype=dtype)])) == 4
        assert count_not_finite(torch.tensor(value, dtype=dtype)) == 1


def test_only_floats_can_fail_to_be_numbers() -> None:
    for tensor in (torch.ones(3, dtype=torch.int64), torch.ones(2, 2).bool(), torch.ones(0, 3)):
        assert count_not_finite(tensor) == 0


# Unsound headers.


def with_length(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    stated = len(header) if length is None else length
    return stated.to_bytes(8, "little") + header + data


def file_of(data: bytes = b"", /, **tensors: object) -> bytes:
    return with_length(json.dumps(tensors).encode(), data)


def tensor(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def read_bytes(tmp_path: Path) -> ReadBytes:
    path = tmp_path / "model.safetensors"

    def read(content: bytes) -> SafetensorsFile:
        path.write_bytes(content)
        return read_safetensors(path)

    return read


def test_gives_each_tensor_in_the_order_of_the_bytes(read_bytes: ReadBytes) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "b": tensor([2, 3], 4, 28),
            "a": tensor([], 0, 4),
            "c": tensor([0, 5], 28, 28, "I64"),
        }
    ).encode()
    found = read_bytes(with_length(header + b"   ", bytes(28)))
    shapes = [(name, tuple(value.shape)) for name, value in found.tensors.items()]
    assert shapes == [("a", ()), ("b", (2, 3)), ("c", (0, 5))]
    assert found.metadata == {"format": "pt"}


LIBRARY = "the safetensors library cannot read it: "
TRUNCATED = "^it is truncated, or has bytes that no tensor has; " + LIBRARY

ONE = b'{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'

NO_SAFETENSORS = {
    "0 bytes": (b"", "has 0 bytes: too few"),
    "7 bytes": (bytes(7), "has 7 bytes: too few"),
    "length 0": (bytes(9), LIBRARY),
    "length 2**63": (with_length(b"{}", length=2**63), "implausible header length 92233720368"),
    "length 2**64 - 1": (with_length(b"{}", length=2**64 - 1), "implausible header length 1844"),
    "length over 4 MB": (with_length(b"{}", length=4_000_001), "implausible header length 4000001"),
    "header longer than the file": (with_length(b"{}", length=3), TRUNCATED),
    "nothing but a length": (with_length(b"", length=100), TRUNCATED),
    "leading spaces": (with_length(b'  {"a": %b}' % ONE, bytes(4)), "not '{...}' alone"),
    "a byte order mark": (with_length(b"\xef\xbb\xbf{}"), LIBRARY),
    "a list": (with_length(b"[1, 2]"), LIBRARY),
    "text after the header": (with_length(b'{"a": 1} x'), LIBRARY),
    "a newline after the header": (with_length(b"{}\n"), "not '{...}' alone"),
    "not UTF-8": (with_length(b'{"\xff": 1}'), LIBRARY),
    "not JSON": (with_length(b"{{{{"), LIBRARY),
    "nested": (with_length(100_000 * b'{"a":'), LIBRARY),
    "duplicate key": (
        with_length(b'{"a": %b, "a": %b}' % (ONE, ONE), bytes(4)),
        "the key 'a' occurs twice",
    ),
    "duplicate key inside": (with_length(b'{"a": {"dtype": 1, "dtype": 1}}'), LIBRARY),
    "metadata is a list": (file_of(__metadata__=[]), LIBRARY),
    "metadata holds a number": (file_of(__metadata__={"a": 1}), LIBRARY),
    "a tensor in place of metadata": (file_of(bytes(4), __metadata__=tensor([1], 0, 4)), LIBRARY),
    "half a character in a name": (with_length(rb'{"\ud800": %b}' % ONE, bytes(4)), LIBRARY),
    "half a character, JSON to Python only": (
        with_length(rb'{"__metadata__": {"k": "\ud800"}, "a": %b}' % ONE, bytes(4)),
        "^" + LIBRARY,
    ),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "is a Git LFS pointer.*run git lfs pull",
    ),
    "page": (b"<!doctype html><html>", "is an HTML page"),
    "pickle": (b"\x80\x04\x95\x11\0\0\0\0\0\0\0}", "is a pickle"),
}


@pytest.mark.parametrize("fault", NO_SAFETENSORS)
def test_refuses_what_is_no_safetensors_file(fault: str, read_bytes: ReadBytes) -> None:
    content, message = NO_SAFETENSORS[fault]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_bytes(content)
    assert caught.value.where.endswith("model.safetensors")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [10**8 + 1, 2**63, 2**64 - 1])
def test_allocates_nothing_for_an_implausible_length(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(with_length(b"{", length=length))
        file.truncate(min(length + 8, 1 << 40))
    sizes = []
    with open_regular(path) as file:
        monkeypatch.setattr(file, "read", lambda n, read=file.read: sizes.append(n) or read(n))
        with pytest.raises(CheckpointError, match="implausible header length"):
            safetensors._read(file, path)
    assert sizes == [512]


PLACES = {
    "overlap": ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, 12, LIBRARY),
    "the same place": ({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, 4, LIBRARY),
    "hole": ({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, 12, LIBRARY),
    "hole at the beginning": ({"a": tensor([1], 4, 8)}, 8, LIBRARY),
    "trailing bytes": ({"a": tensor([1], 0, 4)}, 7, TRUNCATED),
    "trailing bytes alone": ({}, 7, TRUNCATED),
    "a byte short": ({"a": tensor([2], 0, 8)}, 7, TRUNCATED),
    "half": ({"a": tensor([2], 0, 8)}, 4, TRUNCATED),
    "all data gone": ({"a": tensor([2], 0, 8)}, 0, TRUNCATED),
}


@pytest.mark.parametrize("fault", PLACES)
def test_refuses_tensors_that_do_not_tile_the_data(fault: str, read_bytes: ReadBytes) -> None:
    tensors, size, message = PLACES[fault]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_bytes(file_of(bytes(size), **tensors))
    assert caught.value.fix == "download or write it again"


DESCRIPTIONS = {
    "not an object": ([], LIBRARY),
    "no shape": ({"dtype": "F32", "data_offsets": [0, 4]}, LIBRARY),
    "something besides": (
        tensor([1], 0, 4) | {"stride": [1]},
        "^tensor 'weight' is not described by",
    ),
    "unknown dtype": (tensor([1], 0, 4, "F31"), LIBRARY),
    "dtype is no text": (tensor([1], 0, 4) | {"dtype": ["F32"]}, LIBRARY),
    "shape is no list": (tensor([1], 0, 4) | {"shape": 1}, LIBRARY),
    "negative dimensions": (tensor([-1, -1], 0, 4), LIBRARY),
    "dimension is a truth": (tensor([True], 0, 4), LIBRARY),
    "dimension is no whole number": (tensor([1.0], 0, 4), LIBRARY),
    "dimension over 63 bits": (tensor([0, 2**63], 0, 0), LIBRARY),
    "a dtype of four bits": (tensor([8], 0, 4, "F4"), "^tensor 'weight' is F4, not one of BOOL"),
    "a complex dtype": (tensor([1], 0, 8, "C64"), "^tensor 'weight' is C64, not one of BOOL"),
    "too many axes": (tensor([1] * 65, 0, 4), "^tensor 'weight' has 65 axes"),
    "shape that wraps round 64 bits": (tensor([2**32, 2**32], 0, 0), LIBRARY),
    "shape too small": (tensor([1], 0, 8), LIBRARY),
    "dtype too large": (tensor([2], 0, 8, "F64"), LIBRARY),
    "offsets backwards": (tensor([1], 4, 0), LIBRARY),
    "offset negative": (tensor([1], -4, 0), LIBRARY),
    "three offsets": (tensor([1], 0, 4) | {"data_offsets": [0, 4, 4]}, LIBRARY),
    "offset over 63 bits": (tensor([1], 2**64, 2**64 + 4), LIBRARY),
}


@pytest.mark.parametrize("fault", DESCRIPTIONS)
def test_refuses_an_impossible_description(fault: str, read_bytes: ReadBytes) -> None:
    described, message = DESCRIPTIONS[fault]
    size = {"[0, 0]": 0, "[0, 8]": 8}.get(str(dict(described or {}).get("data_offsets")), 4)
    with pytest.raises(CheckpointError, match=message) as rejection:
        read_bytes(file_of(bytes(size), weight=described))
    assert not str(rejection.value).startswith(TRUNCATED[1:])


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("", "''"),
        ("a\nb", r"'a\\nb'"),
        ("\x1b[31mred", r"'\\x1b\[31mred'"),
        ("\x7f", r"'\\x7f'"),
        ("\u202eltr", r"'\\u202eltr'"),
        ("x" * 10_000, r"'x{79}\.\.\. \(cut\)"),
        ("é" * 513, r"'(\\xe9){19}.*\(cut\)"),
    ],
    ids=["empty", "newline", "escape", "delete", "override", "10 kB", "513 letters"],
)
def test_refuses_a_name_unfit_for_reports(name: str, literal: str, read_bytes: ReadBytes) -> None:
    with pytest.raises(CheckpointError, match=f"^tensor {literal} has an invalid name") as caught:
        read_bytes(file_of(bytes(4), **{name: tensor([1], 0, 4)}))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../x", "<script>", "[/red]", "é", "a b", "x" * 1024])
def test_takes_any_name_that_is_text(name: str, read_bytes: ReadBytes) -> None:
    assert [name] == list(read_bytes(file_of(bytes(4), **{name: tensor([1], 0, 4)})).tensors)


def test_refuses_more_tensors_than_the_limit(read_bytes: ReadBytes) -> None:
    tiny = {str(index): tensor([1], index, index + 1, "U8") for index in range(10_001)}
    with pytest.raises(CheckpointError, match="holds 10001 tensors; the limit is 10000"):
        read_bytes(file_of(bytes(10_001), **tiny))
    del tiny["10000"]
    assert list(tiny) == list(read_bytes(file_of(bytes(10_000), **tiny)).tensors)


@pytest.mark.parametrize("header", [b"{}", b'{"__metadata__": {"format": "pt"}}'])
def test_a_file_without_tensors_is_empty(header: bytes, read_bytes: ReadBytes) -> None:
    with pytest.raises(EmptyCheckpointError, match=r"^it holds no tensors"):
        read_bytes(with_length(header))
