"""Open, recognize and parse untrusted files."""

import dataclasses
import gzip
import io
import json
import os
import pickle
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import save

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import (
    ADVICE,
    HEAD,
    dataclass_from_json,
    kind_of_file,
    open_regular,
)
from scratch_gpt.errors import CheckpointError

# Open a file.


def make_socket(path: Path) -> None:
    """Bind a socket there, by a relative name: a socket's path must be short."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


def test_gives_the_bytes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some bytes")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"some bytes"


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda _path: None, "there is no such file"),
    "folder": (Path.mkdir, "it is a folder, not a file"),
    "named pipe": (os.mkfifo, "it is a named pipe, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
    "dangling link": (
        lambda path: path.symlink_to("nowhere"),
        "it is a link to a file that does not exist",
    ),
    "circular link": (
        lambda path: path.symlink_to(path.name),
        "it cannot be opened: Too many levels of symbolic links",
    ),
    "socket": (make_socket, "it cannot be opened: No such device or address"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_rejects_a_path_that_is_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    make, what = NO_FILES[kind]
    make(path)
    with pytest.raises(CheckpointError) as caught, open_regular(path):
        pass
    assert (what, str(path)) == (caught.value.what, caught.value.where)


def test_rejects_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(CheckpointError, match="it may not be read"), open_regular(tmp_path):
        pass


def test_refuses_a_path_with_a_zero_byte(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"cannot be opened: .*embedded null .*a\\x00b"),
        open_regular(tmp_path / "a\0b"),
    ):
        pass


def test_closes_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_regular(tmp_path / "file") as file:
        pass
    with pytest.raises(CheckpointError), open_regular(tmp_path):
        pass
    assert file.closed
    assert before == len(list(Path("/proc/self/fd").iterdir()))


# Recognize a file by its first bytes.


def written(write: Callable[[BinaryIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tar(file: BinaryIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 478750579\n"

FILES = {
    "lfs": (LFS, "a Git LFS pointer"),
    "page": (b"\n <!DOCTYPE HTML><html><body>Log in</body></html>", "an HTML page"),
    "page with a byte order mark": (b"\xef\xbb\xbf<HTML lang=en>", "an HTML page"),
    "error page": (b'<?xml version="1.0"?><Error/>', "an HTML page"),
    "zip": (written(lambda file: zipfile.ZipFile(file, "w").writestr("a", "b")), "a zip archive"),
    "empty zip": (written(lambda file: zipfile.ZipFile(file, "w").close()), "a zip archive"),
    "torch": (written(lambda file: torch.save({"a": torch.ones(2)}, file)), "a zip archive"),
    "legacy torch": (
        written(lambda f: torch.save({}, f, _use_new_zipfile_serialization=False)),
        "a pickle",
    ),
    "npy": (written(lambda file: np.save(file, np.ones(3))), "a NumPy array"),
    "tar": (written(tar), "a tar archive"),
    "gzip": (gzip.compress(b"weights"), "gzip data"),
}


@pytest.mark.parametrize("name", FILES)
def test_names_the_kind(name: str) -> None:
    content, expected = FILES[name]
    assert expected == kind_of_file(content[:HEAD])
    assert ADVICE[expected]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [1, 300])
def test_names_a_pickle_of_every_protocol(protocol: int, size: int) -> None:
    content = pickle.dumps(dict.fromkeys(range(size), b"{"), protocol)
    assert kind_of_file(content[:HEAD]) == "a pickle"


def test_every_kind_is_among_the_files() -> None:
    assert set(ADVICE) == {kind for _, kind in FILES.values()}


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK", b"{}", bytes(HEAD), b"<p>"])
def test_recognises_nothing_in_anything_else(content: bytes) -> None:
    assert kind_of_file(content) is None


@pytest.mark.parametrize("length", [0x0280, 0x8B1F, 0x4B50])
def test_a_safetensors_file_is_no_other_kind(length: int) -> None:
    unpadded = len(save({"a": torch.ones(1)}, {"": ""})) - 12
    header = length - length % 8
    text = save({"a": torch.ones(1)}, {"": (header - unpadded - 8) * "x"})
    content = length.to_bytes(8, "little") + text[8:]
    assert content[8:9] == b"{"
    assert kind_of_file(content[:HEAD]) is None


# Strict JSON.


def test_reads_json() -> None:
    text = '{"a": [1, -2.5e3, true, null], "é": {"a": "\\u00e9"}}'
    assert json.loads(text) == strict_io.load_strict_json(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "^the key 'a' occurs twice$"),
        (b'{"b": {"x\\n": 1, "x\\n": 2}}', r"^the key 'x\\n' occurs twice$"),
        (b'{"a": NaN}', "^NaN is not JSON$"),
        (b"[-Infinity]", "^-Infinity is not JSON$"),
        (b"[1e999]", "^the number '1e999' is too large$"),
        (b"[" + 5000 * b"9" + b"]", "^Exceeds the limit"),
        (100_000 * b"[", "^it is nested too deeply$"),
        (100_000 * b'{"a":', "^it is nested too deeply$"),
        (b'{"a": 1', "^Expecting ',' delimiter"),
        (b"", "^Expecting value"),
        (b'"\xff"', "can't decode byte 0xff"),
        ('{"é": 1}'.encode("utf-16"), "can't decode byte"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_rejects_text_that_is_no_json(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        strict_io.load_strict_json(text)
    assert "\n" not in str(caught.value)


def test_a_repeated_key_is_found_at_once_in_a_large_object() -> None:
    """Counting each of 100,000 keys would take minutes."""
    text = "{" + ", ".join(f'"k{number}": 0' for number in range(100_000)) + ', "k99999": 1}'
    with pytest.raises(ValueError, match="the key 'k99999' occurs twice"):
        strict_io.load_strict_json(text.encode())


# Dataclasses from JSON.


@dataclasses.dataclass(frozen=True)
class Leaf:
    name: str


@dataclasses.dataclass(frozen=True)
class Tree:
    count: int
    share: float
    done: bool
    trunk: Leaf
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...]


JSON = {
    "count": 3,
    "share": 0.0,
    "done": False,
    "trunk": {"name": "a"},
    "leaves": [{"name": "b"}, {"name": "c"}],
    "notes": ["d"],
}


def test_reads_each_kind_of_field() -> None:
    expected = Tree(3, 0.0, False, Leaf("a"), (Leaf("b"), Leaf("c")), ("d",))
    assert expected == dataclass_from_json(Tree, JSON)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", True, "^count is True$"),
        ("count", 3.0, "^count is 3.0$"),
        ("count", -1, "^count is -1$"),
        ("share", 1, "^share is 1$"),
        ("share", -0.5, "^share is -0.5$"),
        ("done", 1, "^done is 1$"),
        ("trunk", "a", "^the leaf is not an object$"),
        ("trunk", {}, "^missing or unknown: 'name'$"),
        ("trunk", {"name": "a", "more\n": 1}, r"^missing or unknown: 'more\\n'$"),
        ("leaves", {}, "^leaves is {}$"),
        ("leaves", [{"name": 1}], "^name is 1$"),
        ("notes", "d", "^notes is 'd'$"),
        ("notes", [None], "^notes is None$"),
    ],
)
def test_rejects_a_wrong_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclass_from_json(Tree, JSON | {field: value})


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_rejects_other_values_than_objects(value: object) -> None:
    with pytest.raises(ValueError, match=r"^the tree is not an object$"):
        dataclass_from_json(Tree, value)
