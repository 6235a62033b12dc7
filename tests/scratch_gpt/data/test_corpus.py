"""Which files are documents, and in what order."""

import os
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.data import corpus, prepare
from scratch_gpt.data.corpus import documents, texts
from scratch_gpt.errors import CheckpointError, TooLittleTextError, UnreadableError

FILES = ["b.txt", "a/z.txt", "a/b/c.md", "a.txt", "B.TXT", "notes.rst", ".hidden.txt", ".git/x.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "books"
    for name in FILES:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n", "utf-8")
    return home


def test_a_folder_gives_its_text_files_by_path(folder: Path) -> None:
    found = documents([folder])
    names = ["books/B.TXT", "books/a/b/c.md", "books/a/z.txt", "books/a.txt", "books/b.txt"]
    assert names == [document.name for document in found]
    assert [f"{name.removeprefix('books/')}\n" for name in names] == list(texts(found))


def test_files_come_as_they_are_given(folder: Path) -> None:
    found = documents([folder / "notes.rst", folder / "a", folder / "a.txt"])
    names = ["notes.rst", "a/b/c.md", "a/z.txt", "a.txt"]
    assert names == [document.name for document in found]


def test_a_folder_has_its_name_whatever_the_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So two machines give one manifest; an error has the path as the user gave it."""
    monkeypatch.chdir(folder / "a")
    assert [document.name for document in documents([Path()])] == ["a/b/c.md", "a/z.txt"]
    assert [document.where for document in documents([Path("b")])] == [str(Path("b", "c.md"))]


def test_a_linked_file_is_read_and_a_linked_folder_not(folder: Path) -> None:
    (folder / "a" / "link.txt").symlink_to(folder / "notes.rst")
    (folder / "a" / "up").symlink_to(folder)
    assert list(texts(documents([folder / "a"]))) == ["a/b/c.md\n", "notes.rst\n", "a/z.txt\n"]


def test_one_path_is_no_list_of_paths(tmp_path: Path) -> None:
    path: Any = "b.txt"
    message = r"paths must be several paths, got one str; use \[path\]"
    with pytest.raises(TypeError, match=message):
        documents(path)
    with pytest.raises(TypeError, match=message):
        prepare(path, tmp_path / "out", Tokenizer.train(["a a"], merges=0))
    assert not (tmp_path / "out").exists()


def test_merges_are_no_text(folder: Path) -> None:
    """In a vocabulary's folder; elsewhere, or given by name, such a file is read."""
    merges = folder / "a" / "merges.txt"
    merges.write_text("#version: 0.2\n", "utf-8")
    assert "books/a/merges.txt" in [document.name for document in documents([folder])]
    (folder / "a" / "vocab.json").touch()
    assert "books/a/merges.txt" not in [document.name for document in documents([folder])]
    assert [document.name for document in documents([merges])] == ["merges.txt"]


def test_a_file_given_twice_is_refused(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder / "b.txt")
    pairs = [("b.txt", "b.txt"), ("b.txt", "link.txt"), ("a", "a/z.txt")]
    for one, two in pairs:
        with pytest.raises(CheckpointError, match="the same file is given twice") as caught:
            documents([folder / one, folder / two])
        assert str(folder / two) in caught.value.where
    (folder / "copy.txt").write_bytes((folder / "b.txt").read_bytes())
    assert len(documents([folder / "b.txt", folder / "copy.txt"])) == 2


def test_a_folder_without_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(TooLittleTextError, match=r"no \.txt or \.md file in it"):
        documents([tmp_path])
    with pytest.raises(TooLittleTextError, match="no file is given"):
        documents([])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for name, reason in (("none.txt", "no such file"), ("pipe.txt", "a named pipe")):
        with pytest.raises(CheckpointError, match=reason):
            list(texts(documents([tmp_path / name])))


def test_a_folder_that_may_not_be_looked_into_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnreadableError, match="cannot be listed: Permission denied") as refusal:
        documents([folder])
    assert str(folder / "a" / "b") == refusal.value.where


def test_text_comes_in_pieces(folder: Path) -> None:
    (folder / "a.txt").write_text("line\n" * 100_000, "utf-8")
    found = list(texts(documents([folder / "a.txt"])))
    assert "".join(found) == "line\n" * 100_000
    assert max(map(len, found)) <= corpus.SIZE


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"a\xffb")
    found = documents([folder / "a.txt"])
    with pytest.raises(CheckpointError, match="byte 1 is 0xff"):
        list(texts(found))
    assert list(texts(found, errors="replace")) == ["a\ufffdb"]
