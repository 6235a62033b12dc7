"""Opening what may be anything."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.errors import CheckpointError


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


@pytest.mark.parametrize(
    ("make", "what"),
    [
        pytest.param(lambda _path: None, "there is no such file", id="missing"),
        pytest.param(Path.mkdir, "it is a folder, not a file", id="folder"),
        pytest.param(os.mkfifo, "it is a named pipe, not a file", id="named pipe"),
        pytest.param(
            lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file", id="device"
        ),
        pytest.param(
            lambda path: path.symlink_to("nowhere"),
            "it is a link to a file that does not exist",
            id="dangling link",
        ),
        pytest.param(
            lambda path: path.symlink_to(path.name),
            "it cannot be opened: Too many levels of symbolic links",
            id="circular link",
        ),
        pytest.param(make_socket, "it cannot be opened: No such device or address", id="socket"),
    ],
)
def test_refuses_what_is_no_file(
    make: Callable[[Path], None], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    make(path)
    with pytest.raises(CheckpointError) as refusal, open_regular(path):
        pass
    assert (what, str(path)) == (refusal.value.what, refusal.value.where)


def test_refuses_a_file_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
