"""Documents: files, documentation strings, and their pieces."""

import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.data import corpus, prepare
from scratch_gpt.data.corpus import (
    Piece,
    UndecodableTextError,
    decoded,
    docstring_documents,
    documents,
    pieces,
    texts,
)
from scratch_gpt.errors import CheckpointError, TooLittleTextError, UnreadableError

pytestmark = pytest.mark.once

FILES = ["b.txt", "a/z.txt", "a/b/c.md", "a.txt", "B.TXT", "notes.rst", ".hidden.txt", ".git/x.txt"]


def write_files(home: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content, "utf-8")
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "books", {name: f"{name}\n" for name in FILES})


def names(*paths: Path) -> list[str]:
    return [document.name for document in documents(paths)]


def test_a_folder_gives_its_text_files_by_path(folder: Path) -> None:
    expected = ["B.TXT", "a/b/c.md", "a/z.txt", "a.txt", "b.txt"]
    assert [f"books/{name}" for name in expected] == names(folder)
    assert [f"{name}\n" for name in expected] == list(texts(documents([folder])))


def test_paths_keep_their_order(folder: Path) -> None:
    found = names(folder / "notes.rst", folder / "a", folder / "a.txt")
    assert found == ["notes.rst", "a/b/c.md", "a/z.txt", "a.txt"]


def test_names_are_the_same_in_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So two machines give one manifest; an error has the path as the user gave it."""
    monkeypatch.chdir(folder / "a")
    assert names(Path()) == ["a/b/c.md", "a/z.txt"]
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
    assert "books/a/merges.txt" in names(folder)
    (folder / "a" / "vocab.json").touch()
    assert "books/a/merges.txt" not in names(folder)
    assert names(merges) == ["merges.txt"]


def test_a_file_given_twice_is_rejected(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder / "b.txt")
    for one, two in [("b.txt", "b.txt"), ("b.txt", "link.txt"), ("a", "a/z.txt")]:
        with pytest.raises(CheckpointError, match="the same file is given twice") as caught:
            documents([folder / one, folder / two])
        assert str(folder / two) in caught.value.where
    (folder / "copy.txt").write_bytes((folder / "b.txt").read_bytes())
    assert len(documents([folder / "b.txt", folder / "copy.txt"])) == 2


def test_a_folder_without_text_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TooLittleTextError, match=r"no \.txt or \.md file in it"):
        documents([tmp_path])
    with pytest.raises(TooLittleTextError, match="no file is given"):
        documents([])


def test_what_is_no_file_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for name, reason in (("none.txt", "no such file"), ("pipe.txt", "a named pipe")):
        with pytest.raises(CheckpointError, match=reason):
            list(texts(documents([tmp_path / name])))


def test_an_unlistable_folder_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def reject(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", reject)
    with pytest.raises(UnreadableError, match="cannot be listed: Permission denied") as rejection:
        documents([folder])
    assert str(folder / "a" / "b") == rejection.value.where


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


def docstrings(home: Path, modules: dict[str, str]) -> dict[str, str]:
    """Return the text of each document of a library that has these modules."""
    found = docstring_documents(write_files(home, modules))
    return {document.name: "".join(texts([document])) for document in found}


MODULE = '''"""The module.

    Indented.
"""
raise SystemExit("never run")
"no documentation"

class A:
    """The class."""

    async def f(self):
        """The method."""

        def g():
            """Inside."""
        return lambda: g

if True:
    def h():
        "Last."
        """Not this."""
'''
STRINGS = ("The module.", "Indented.", "The class.", "The method.", "Inside.", "Last.")
WARNED = {"x/testing.py": '"""A \\d."""\nx = "\\d" is 1'}
LEFT_OUT = ("test/a.py", "x/tests/b.py", "idlelib/idle_test/c.py", "site-packages/d.py", "e.txt")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ({"a.py": MODULE}, {"a.py": "\n\n".join(STRINGS) + "\n"}),
        ({"a.py": '"""A \\ud800."""'}, {"a.py": "A ?.\n"}),
        ({"a.py": "print 'old'", "b.py": "\0"} | WARNED, {"x/testing.py": "A \\d.\n"}),
        (dict.fromkeys(LEFT_OUT, '"""Text."""') | WARNED, {"x/testing.py": "A \\d.\n"}),
    ],
    ids=["from top to bottom", "a surrogate", "not parsed", "left out"],
)
def test_docstrings_are_found(
    modules: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    assert expected == docstrings(tmp_path, modules)


def test_the_order_is_a_fixed_shuffle(tmp_path: Path) -> None:
    """By the SHA-256 of the paths, recorded here."""
    paths = ["a.py", "b.py", "c/d.py", "c/e.py", "f.py"]
    found = docstrings(tmp_path, {name: f'"""{name}"""' for name in paths})
    assert list(found) == ["c/e.py", "b.py", "c/d.py", "f.py", "a.py"]


def test_no_string_is_repeated(tmp_path: Path) -> None:
    again = 'def f():\n    """Same."""\ndef g():\n    """Same."""\ndef h():\n    """Own {}."""\n'
    modules = {"a.py": again.format(1), "b.py": again.format(2), "f.py": '"Same."'}
    found = docstrings(tmp_path, modules)
    assert "".join(found.values()).count("Same.") == 1
    assert len(found) == 3 - ("f.py" not in found)


def test_a_library_without_sources_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TooLittleTextError, match="no documentation string"):
        docstring_documents(tmp_path)


@pytest.mark.slow
def test_this_library_has_megabytes() -> None:
    """Enough to train on, found without importing a module."""
    before = set(sys.modules)
    found = docstring_documents()
    assert len(found) > 400
    assert sum(map(len, texts(found))) > 1_300_000
    assert not {"turtle", "idlelib", "antigravity"} & (set(sys.modules) - before)


TEXT = "One line.\r\nAnother,\tlonger one \u2014 a\u00f1o.\n\n\n  Third \n" * 7 + "the end"


def cut(content: bytes, *, size: int) -> list[Piece]:
    return list(pieces(io.BytesIO(content), "a.txt", size=size))


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(TEXT.encode()), 1_000])
def test_the_pieces_are_the_whole(size: int) -> None:
    assert not cut(b"", size=size)
    found = cut(TEXT.encode(), size=size)
    assert TEXT.encode() == b"".join(piece.content for piece in found)
    place = 0
    for piece in found:
        assert place == piece.start
        place = piece.end
    assert all(piece.content.endswith((b"\n", b" ")) for piece in found[:-1])


def test_a_line_is_cut_only_where_it_is_longer_than_a_piece() -> None:
    content = b"a b c d\ne f g h i j k l m\nn o\n"
    found = cut(content, size=10)
    expected = [b"a b c d\n", b"e f g h ", b"i j k l m\n", b"n o\n"]
    assert expected == [piece.content for piece in found]
    assert [piece.on_new_line for piece in found] == [True, True, False, True]


@pytest.mark.parametrize(
    "space",
    [
        *(" ", "\t", "\n", "\r", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680"),
        *("\u2000", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"),
    ],
    ids=ascii,
)
def test_no_cut_where_other_white_space_is(space: str) -> None:
    """Such a cut could cost what a tokenizer strips from the ends of a text."""
    assert space.isspace()
    for run in (f" {space}", f"{space} "):
        assert corpus._after_last_space(f"a b{run}c.d.e.f".encode()) == 2


@pytest.mark.parametrize(
    "letter", ["x", "~", "!", "\xe9", "\xff", "\u05d0", "\u4e00", "\U0001f600"]
)
def test_a_cut_between_any_other_characters(letter: str) -> None:
    content = f"{letter} {letter}".encode()
    assert corpus._after_last_space(content) == len(letter.encode()) + 1


def test_a_long_word_is_read_to_its_end() -> None:
    word = b"x" * 1_000_000
    found = [piece.content for piece in cut(word + b" y\n" + word, size=1_000)]
    assert found == [word + b" y\n", word]


def test_a_word_has_a_largest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_WORD", 1_000)
    assert cut(b"a\n" + b"x" * 990, size=10)
    message = r"no line break and no space in \d+ bytes from byte 2"
    with pytest.raises(CheckpointError, match=message):
        cut(b"a\n" + b"x" * 9_000, size=10)


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    ("bad", "at"),
    [
        *((b"\xff", 0), (b"\xc3", 0), (b"\xe2\x80", 0), (b"\xed\xa0\x80", 0), (b"\xc0\xaf", 0)),
        (b"\xc3\xa9\x80", 2),
    ],
    ids=repr,
)
def test_the_first_invalid_byte_is_reported(bad: bytes, at: int, size: int) -> None:
    content = "gut, año\n".encode() * 3
    found = cut(content + bad + b"\nmore\n", size=size)
    place = len(content) + at
    with pytest.raises(UndecodableTextError, match=f"^byte {place} is 0x.*no UTF-8") as rejection:
        [decoded(piece, "a.txt", "strict") for piece in found]
    assert "--errors replace" in rejection.value.fix


@pytest.mark.parametrize("size", [1, 4, 100])
def test_replaced_bytes_are_counted(size: int) -> None:
    """As many as Python replaces in the whole; a U+FFFD of the text itself is not counted."""
    content = b"a \xff b \xe2\x80\nc \xef\xbf\xbd d \xef\xbf \xf0\x9f\x98\n\xed\xa0\x80" + b"\xef"
    both = [decoded(piece, "a.txt", "replace") for piece in cut(content, size=size)]
    expected = content.decode("utf-8", "replace")
    assert expected == "".join(text for text, _ in both)
    assert expected.count("\ufffd") - 1 == sum(marks for _, marks in both)


@pytest.mark.parametrize(
    ("content", "kind"),
    [("text".encode("utf-16"), "UTF-16"), (b"\x1f\x8b\x08", "gzip"), (b"\x80\x04\x95", "pickle")],
)
def test_another_format_is_named(content: bytes, kind: str) -> None:
    (piece,) = cut(content, size=100)
    with pytest.raises(UndecodableTextError, match=f"it looks like .*{re.escape(kind)}"):
        decoded(piece, "a.txt", "strict")
