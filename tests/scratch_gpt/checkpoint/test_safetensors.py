"""One safetensors file: every bit of it, or a refusal."""

import hashlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scratch_gpt.checkpoint import safetensors
from scratch_gpt.checkpoint.safetensors import read_safetensors
from scratch_gpt.errors import CheckpointError, EmptyCheckpointError

DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
FLOATS = sorted((dtype for dtype in DTYPES if dtype.is_floating_point), key=str)

Save = Callable[..., Path]


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
    path = save(a=torch.ones(3, 4), b=torch.ones(5))
    tensors = read_safetensors(path).tensors
    path.unlink()
    tensors["a"].fill_(7.0)
    assert torch.equal(torch.ones(5), tensors["b"])
    for tensor in tensors.values():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_says_what_the_file_is(save: Save) -> None:
    path = save(a=torch.randn(70, 60), b=torch.tensor(1.5, dtype=torch.bfloat16), c=torch.ones(0))
    found = read_safetensors(path)
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.sha256
    assert (len(content), {"format": "pt"}) == (found.size, found.metadata)


def test_the_digest_tells_a_flipped_bit(save: Save) -> None:
    path = save(a=torch.ones(3))
    before = read_safetensors(path).sha256
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    assert before != read_safetensors(path).sha256


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_numbers_that_are_not_finite(value: float, dtype: torch.dtype, save: Save) -> None:
    damaged = torch.ones(3, 5, dtype=dtype)
    damaged[2, 4] = damaged[0, 1] = value
    message = "^tensor 'h.0.bad' holds NaN or infinity in 2 of 15 numbers "
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(save(**{"a": torch.ones(3), "h.0.bad": damaged}))


def test_an_unsound_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(EmptyCheckpointError, match=r"^it holds no tensors"):
        read_safetensors(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*run git lfs pull"):
        read_safetensors(path)


def test_never_waits_for_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"^it is a named pipe, not a file"):
        read_safetensors(tmp_path / "pipe")


def test_what_only_the_library_refuses_is_refused(tmp_path: Path) -> None:
    """Metadata with half a character is JSON to Python and not to the library."""
    path = tmp_path / "model.safetensors"
    described = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = rb'{"__metadata__":{"k":"\ud800"},"a":%b}' % described
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(
        CheckpointError, match=r"^the safetensors library cannot read it: "
    ) as refusal:
        read_safetensors(path)
    assert "\n" not in str(refusal.value)


def test_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    size = 1 << 43
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(CheckpointError, match=r"^the safetensors library cannot read it: "):
        read_safetensors(path)


def test_a_machine_of_the_other_byte_order_is_refused(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(a=torch.ones(1))
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(CheckpointError, match="this machine is big-endian"):
        read_safetensors(path)


def disturbed(
    disturb: Callable[[], object], when: str
) -> Callable[..., AbstractContextManager[safe_open]]:
    """Return the library's function, with something done before or after tensors are read."""

    @contextmanager
    def opening(*arguments: object, **options: object) -> Iterator[safe_open]:
        with safe_open(*arguments, **options) as library:
            if when == "before":
                disturb()
            yield library
            if when == "after":
                disturb()

    return opening


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
def test_a_file_that_changes_meanwhile_is_refused(
    disturb: Callable[[Path], None], when: str, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(a=torch.ones(1000), b=torch.zeros(1000))
    opening = disturbed(lambda: disturb(path), when)
    monkeypatch.setattr(safetensors, "safe_open", opening)
    with pytest.raises(CheckpointError, match=r"^it changed while it was read"):
        read_safetensors(path)


def test_an_undisturbed_file_is_read_there(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(a=torch.ones(10))
    expected = read_safetensors(path)
    monkeypatch.setattr(safetensors, "safe_open", disturbed(lambda: None, "after"))
    assert expected.sha256 == read_safetensors(path).sha256


def test_nothing_is_mapped(save: Save) -> None:
    """No part of the file is in the process's memory map: truncating it kills nobody."""
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
