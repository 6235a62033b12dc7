"""Regular files: read without blocking, digested, written, with clear errors."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from reference.errors import RejectedError, UnavailableError
from reference.files import digest_file, digest_path, open_plain, read_bytes, write_bytes

TEXT = b"what is up, doc?"
"""Git's own example of a blob.

Source: Pro Git, second edition, section 10.2: `echo -n 'what is up, doc?'` and its id.
"""


def test_the_git_id_is_gits(tmp_path: Path) -> None:
    path = tmp_path / "doc"
    path.write_bytes(TEXT)
    expected = "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    assert expected == digest_file("doc", TEXT[:5], memoryview(TEXT)[5:]).git_blob
    assert digest_file("doc", TEXT) == digest_path(path)


def test_a_file_of_many_pieces_is_digested_whole(tmp_path: Path) -> None:
    data = os.urandom((9 << 20) + 1)
    (tmp_path / "large").write_bytes(data)
    file = digest_path(tmp_path / "large")
    assert hashlib.sha256(data).hexdigest() == file.sha256
    assert digest_file("large", data) == file


def test_a_file_that_grows_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(TEXT)
    sizes = os.fstat
    shorter = os.stat_result([*sizes(0)[:6], len(TEXT) - 1, *sizes(0)[7:]])
    regular = os.stat_result([path.stat().st_mode, *shorter[1:]])
    monkeypatch.setattr(os, "fstat", lambda _: regular)
    with pytest.raises(RejectedError, match="log changed while it was read"):
        digest_path(path)


def test_a_small_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(TEXT)
    assert read_bytes(tmp_path / "doc", len(TEXT)) == TEXT
    with pytest.raises(RejectedError, match="doc has 16 bytes, more than the limit of 15"):
        read_bytes(tmp_path / "doc", len(TEXT) - 1)


def test_reading_that_fails_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(TEXT)
    with (
        pytest.raises(UnavailableError, match="doc cannot be read: Input/output error"),
        open_plain(tmp_path / "doc"),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_callers_error_is_raised_unchanged(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(TEXT)
    refusal = RejectedError("not this", where="doc", fix="another")
    with pytest.raises(RejectedError) as caught, open_plain(tmp_path / "doc"):
        raise refusal
    assert refusal is caught.value


def test_written_bytes_are_digested(tmp_path: Path) -> None:
    file = write_bytes(tmp_path / "doc", [TEXT[:5], memoryview(TEXT)[5:]])
    assert (tmp_path / "doc").read_bytes() == TEXT
    assert digest_path(tmp_path / "doc") == file


def test_a_missing_folder_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="doc cannot be written: No such file"):
        write_bytes(tmp_path / "nowhere" / "doc", [TEXT])
