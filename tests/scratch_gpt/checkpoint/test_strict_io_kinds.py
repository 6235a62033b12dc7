"""What a file is by its first bytes."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import save

from scratch_gpt.checkpoint.strict_io import ADVICE, HEAD, kind_of_file


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
