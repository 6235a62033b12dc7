"""One shard: an unsound file is rejected before memory is allocated."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from reference import openai_release
from reference.errors import RejectedError, UnavailableError

ROW = np.arange(100, dtype="<f4")
"""The numbers of the sound shard of these tests."""


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def headed(literal: str, data: bytes = ROW.tobytes(), version: tuple[int, int] = (1, 0)) -> bytes:
    text = literal.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return npy.magic(*version) + size + text + data


def described(shape: str, descr: str = "'<f4'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", saved(ROW))
    return stream.getvalue()


FIX = "get the file again"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"

FORGERIES = {
    "empty": (b"", "is empty", FIX),
    "seven bytes": (b"\x93NUMPY\x01", "malformed .npy header", FIX),
    "no such version": (npy.magic(9, 9) + b"\0" * 99, "malformed .npy header", FIX),
    "another file": (b"hello", r"no \.npy file \(5 bytes\)", FIX),
    "Git LFS pointer": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "web page": (b"\n <!DOCTYPE html><html>", "a web page", "download"),
    "error page": (b"<?xml version='1.0'?><Error>", "a web page", "download"),
    "archive": (zipped(), "a zip archive", "release's shards"),
    "pickle": (pickle.dumps([1.0]), "a pickle; it is never run", "release's shards"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip-compressed", "decompress"),
    "truncated": (saved(ROW)[:-1], "truncated: 527 bytes, where .* promises 528", FIX),
    "header alone": (saved(ROW)[:128], "truncated", FIX),
    "half a header": (saved(ROW)[:40], "malformed .npy header", FIX),
    "too long": (saved(ROW) + b"\0", "too long: 529 bytes", FIX),
    "40 TB": (headed(described("(10995116277760,)")), "truncated", FIX),
    "beyond 64 bits": (headed(described(f"({10**300},)")), "one flat row", FIX),
    "negative": (headed(described("(-100,)")), "one flat row", FIX),
    "two axes": (saved(ROW.reshape(10, 10)), r"shape \(10, 10\), where", FIX),
    "no axis": (saved(ROW[0]), r"shape \(\), where", FIX),
    "Fortran order": (headed(described("(100,)", fortran="True")), "in Fortran order", FIX),
    "big-endian": (saved(ROW.astype(">f4")), "'>f4', not little-endian", "save it again"),
    "float64": (saved(ROW.astype("<f8")), "'<f8', not little-endian", "save it again"),
    "half": (saved(ROW.astype("<f2")), "'<f2', not little-endian", "save it again"),
    "integers": (saved(ROW.astype("<i4")), "'<i4', not little-endian", "save it again"),
    "records": (saved(np.zeros(3, [("a", "<f4")])), "not little-endian", "save it again"),
    "long header": (headed(described("(100,)") + " " * 60_000), "malformed .npy header", FIX),
    "header of 4 GB": (
        npy.magic(2, 0) + struct.pack("<I", 2**32 - 1) + b"{" * 9000,
        "malformed .npy header",
        FIX,
    ),
    "deep header": (headed("(" * 1000), "malformed .npy header", FIX),
    "header that calls": (headed("__import__('os').abort()"), "malformed .npy header", FIX),
    "header without shape": (headed("{'descr': '<f4'}"), "malformed .npy header", FIX),
    "header of no literal": (headed("\0\0\0"), "malformed .npy header", FIX),
    "odd dtype": (
        headed(described("(100,)", descr="('<f4', 3, 4)")),
        "malformed|not little",
        "again",
    ),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_an_unsound_shard_is_refused(case: str, tmp_path: Path) -> None:
    data, sentence, fix = FORGERIES[case]
    path = tmp_path / "params_3.npy"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.inspect_shard(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(path) == caught.value.where
    assert "params_3.npy" in caught.value.what
    assert fix in caught.value.fix
    assert peak < 64 << 20
    assert len(caught.value.what) < 200


def test_a_file_of_terabytes_is_refused_unread(tmp_path: Path) -> None:
    """It takes no room on this disk; reading it would take all the memory."""
    path = tmp_path / "params_0.npy"
    path.write_bytes(headed(described("(7,)")))
    os.truncate(path, 1 << 40)
    with pytest.raises(RejectedError, match="too long: 1,099,511,627,776 bytes"):
        openai_release.inspect_shard(path)


def test_objects_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    """NumPy would unpickle them if it were allowed to."""
    mark = tmp_path / "ran"
    (tmp_path / "params_0.npy").write_bytes(saved(np.array([Trap(mark)], object)))
    with pytest.raises(RejectedError, match=r"'\|O'"):
        openai_release.inspect_shard(tmp_path / "params_0.npy")
    (tmp_path / "params_1.npy").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(RejectedError, match="never run"):
        openai_release.inspect_shard(tmp_path / "params_1.npy")
    assert not mark.exists()
    np.load(tmp_path / "params_0.npy", allow_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_versions_of_the_format_are_read(version: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "params_0.npy"
    path.write_bytes(headed(described("(100,)"), version=version))
    shard = openai_release.inspect_shard(path)
    row = np.empty(shard.length, np.float32)
    file = openai_release.read_shard(shard, row)
    assert ROW.tobytes() == row.tobytes()
    assert path.read_bytes() == shard.header + ROW.tobytes()
    assert path.stat().st_size == file.size


@pytest.mark.parametrize("length", [0, 1, 11_653_479, 2**40])
def test_the_header_is_the_one_that_numpy_writes(length: int) -> None:
    array = np.broadcast_to(np.float32(0), (length,))
    expected = io.BytesIO()
    npy.write_array_header_1_0(expected, npy.header_data_from_array_1_0(array))
    short = saved(np.zeros(3, np.float32))[: len(expected.getvalue())]
    assert openai_release.npy_header(length) == expected.getvalue().replace(b"True ", b"False")
    assert openai_release.npy_header(3) == short


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "dangling link", "device"])
def test_another_kind_of_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """Opening a pipe without a writer does not block."""
    path = tmp_path / "params_0.npy"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "nothing": lambda: None,
        "dangling link": lambda: path.symlink_to("nowhere"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    with pytest.raises(RejectedError, match=r"params_0\.npy"):
        openai_release.inspect_shard(path)


def test_a_link_to_a_shard_is_followed(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(saved(ROW))
    (tmp_path / "params_0.npy").symlink_to("bytes")
    assert ROW.size == openai_release.inspect_shard(tmp_path / "params_0.npy").length


def test_a_file_that_may_not_be_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(UnavailableError, match="Permission denied"):
        openai_release.inspect_shard(tmp_path / "params_0.npy")


@pytest.mark.parametrize("change", ["shorter", "longer", "another header"])
def test_a_file_that_changes_meanwhile_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "params_0.npy"
    data = saved(ROW)
    path.write_bytes(data)
    shard = openai_release.inspect_shard(path)
    other = {"shorter": data[:-4], "longer": data + b"\0", "another header": b"X" + data[1:]}
    path.write_bytes(other[change])
    with pytest.raises(RejectedError, match="changed while it was read"):
        openai_release.read_shard(shard, np.empty(shard.length, np.float32))
