"""The documents of a corpus: their files, their pieces, and their size.

A document is a file, or the documentation strings of a module of Python's standard library. It is
tokenized piece by piece. A piece ends behind a line break, which no word crosses, so the tokens of
the pieces, with those of a line break between them, are the tokens of the whole document. Only a
line that is longer than a piece is cut at a space.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from scratch_gpt.checkpoint.strict_io import ADVICE, kind_of_file, open_regular
from scratch_gpt.data.dataset import Source
from scratch_gpt.errors import CheckpointError, TooLittleTextError, UnreadableError, one_line

SUFFIXES = (".txt", ".md")
"""Suffixes of the text files of a folder. A file that is named itself may have any name."""

SIZE = 1 << 18
"""Bytes that are read at a time."""

LONGEST_WORD = 1 << 24
"""Bytes in which there must be a space or a line break."""

Readable = BinaryIO | io.BytesIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A text that can be read."""

    name: str  # its path from the folder that was given, that folder's name first
    where: str  # the path by which it can be found, for messages
    opened: Callable[[], contextlib.AbstractContextManager[Readable]]


# Files and folders.

_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
"""Files of a vocabulary; beside the first one, the second one is not text."""


def documents(paths: Sequence[str | os.PathLike[str]] | None) -> list[Document]:
    """Return the documents at some paths; without paths, those of `docstring_documents`.

    Files come in the order given. A folder gives all files below it whose names end in `.txt` or
    `.md`, sorted by path. Left out are hidden files and folders, folders behind links, and the
    `merges.txt` of a vocabulary.

    Raises:
        TypeError: `paths` is one path, whose letters would be taken for paths.
        TooLittleTextError: A folder has no such file, or no path is given.
        CheckpointError: A folder cannot be listed, or a file is given twice.
    """
    if paths is None:
        return docstring_documents()
    if isinstance(paths, str | bytes | os.PathLike):
        kind = type(paths).__name__
        raise TypeError(f"paths must be several paths, got one {kind}; use [path]")
    if not paths:
        raise TooLittleTextError(
            "no file is given", where="the paths", fix="name a text file or a folder of them"
        )
    found: list[Document] = []
    for path in map(Path, paths):
        found += _in_folder(path) if path.is_dir() else [_document(path, path.name)]
    _require_once(found)
    return found


def _document(path: Path, name: str) -> Document:
    return Document(name=name, where=str(path), opened=lambda: open_regular(path))


def _in_folder(folder: Path) -> list[Document]:
    top = Path(os.path.realpath(folder)).name  # the name of ".", too
    found = sorted(path.relative_to(folder).parts for path in _text_files(folder))
    if not found:
        raise TooLittleTextError(
            f"there is no {' or '.join(SUFFIXES)} file in it",
            where=one_line(folder),
            fix="name the files themselves, whatever they are called",
        )
    return [_document(folder.joinpath(*parts), "/".join((top, *parts))) for parts in found]


def _text_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_reject_unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        no_text = {_MERGES} if _VOCABULARY in files else set()
        for name in sorted({*files} - no_text):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _reject_unlisted(error: OSError) -> None:
    """Reject a folder that cannot be listed: its text would be missing without a message."""
    forbidden = isinstance(error, PermissionError)
    raise (UnreadableError if forbidden else CheckpointError)(
        f"the folder cannot be listed: {error.strerror}",
        where=one_line(error.filename),
        fix="change its permissions" if forbidden else "name the folders of the text alone",
    ) from error


def _require_once(found: Sequence[Document]) -> None:
    """Reject a file given twice: its text would count double, or be in both parts."""
    seen: dict[tuple[int, int], str] = {}
    for document in found:
        try:
            about = Path(document.where).stat()
        except (OSError, ValueError):  # reported when it is read
            continue
        file = about.st_dev, about.st_ino
        if file in seen:
            raise CheckpointError(
                "the same file is given twice",
                where=one_line(f"{seen[file]} and {document.where}"),
                fix="name it once; a folder's text files are in the folder",
            )
        seen[file] = document.where


# The documentation strings of Python's standard library: text that every machine has. The modules
# are parsed and never imported, so none of their code runs.

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of tests, and of packages that are not Python's own."""

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstring_documents(library: Path | None = None) -> list[Document]:
    """Return a document for each module of the standard library that has documentation strings.

    A document holds the module's strings in their order, with an empty line between any two. A
    string that an earlier document has is not repeated.

    The documents are sorted by the SHA-256 of the modules' paths: a fixed shuffle, so that the
    last part, which is used for validation, is a sample of all the rest. Without `library`, the
    folder is that of this Python.

    Raises:
        TooLittleTextError: There is no source file, for example because the library is zipped.
    """
    home = Path(sysconfig.get_path("stdlib")) if library is None else library
    modules: dict[str, Path] = {}
    for parent, folders, files in os.walk(home):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        paths = [Path(parent, name) for name in files if name.endswith(".py")]
        modules |= {path.relative_to(home).as_posix(): path for path in paths}
    seen: set[str] = set()
    found = []
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fresh = [text for text in dict.fromkeys(_docstrings(modules[name])) if text not in seen]
        seen.update(fresh)
        if fresh:
            text = "\n\n".join(fresh) + "\n"
            content = text.encode("utf-8", "replace")  # a string may hold half a character
            opened = functools.partial(io.BytesIO, content)
            where = f"the standard library's {name}"
            found.append(Document(name=name, where=where, opened=opened))
    if not found:
        raise TooLittleTextError(
            "there is no documentation string in this Python's standard library",
            where=one_line(home),
            fix="name text files or a folder of them",
        )
    return found


def _docstrings(module: Path) -> Iterator[str]:
    """Yield a module's documentation strings from top to bottom, indentation removed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's warnings about old code
            tree = ast.parse(module.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a template, or another Python's file
        return
    ahead: list[ast.AST] = [tree]
    while ahead:
        node = ahead.pop()
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
        children = ast.iter_child_nodes(node)
        statements = [child for child in children if not isinstance(child, ast.expr)]
        ahead.extend(reversed(statements))  # an expression holds no definition


# Pieces and their text.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a document."""

    start: int  # its first byte's position in the document
    content: bytes
    on_new_line: bool  # whether it is the first piece or follows a line break, not a space

    @property
    def end(self) -> int:
        """The next piece's position."""
        return self.start + len(self.content)


def pieces(file: Readable, where: str, *, size: int = SIZE) -> Iterator[Piece]:
    """Yield the pieces of a document; `size` bytes are read at a time.

    Raises:
        CheckpointError: There is no place to cut in `LONGEST_WORD` bytes.
    """
    start, before = 0, b""
    while content := _piece(file, where, start, size):
        yield Piece(start=start, content=content, on_new_line=before in {b"", b"\n"})
        start += len(content)
        before = content[-1:]


def _piece(file: Readable, where: str, start: int, size: int) -> bytes:
    """Return the bytes from `start` to the next cut; none at the end."""
    file.seek(start)
    content = b""
    while len(content) < LONGEST_WORD:
        wanted = max(size, len(content))  # twice as long each time
        more = file.read(wanted) or b""  # None: a file without data for now
        content += more
        if len(more) < wanted:
            return content
        if cut := content.rfind(b"\n") + 1 or _after_last_space(content):
            return content[:cut]
    raise CheckpointError(
        f"there is no line break and no space in {len(content)} bytes from byte {start} on",
        where=one_line(where),
        fix="give text with words in it",
    )


# A space without other white space beside it: a tokenizer may strip white space at a piece's ends.
# The bytes are ASCII's white space, then U+0085 and U+00A0, U+1680, those of U+2000 to U+205F
# and all their neighbors up to U+207F, and U+3000.
_LONE_SPACE = re.compile(
    rb"(?<![\x00-\x20\x7f])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)"
    rb"(?<!\xe2[\x80\x81][\x80-\xbf])(?<!\xe3\x80\x80) "
    rb"(?![\x00-\x20\x7f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2[\x80\x81]|\xe3\x80\x80)"
)


def _after_last_space(content: bytes) -> int:
    """Return the position after the last space that stands alone, 0 if there is none."""
    at = len(content) - 1  # the byte after the last one is not known
    while (at := content.rfind(b" ", 0, at)) > 0:
        if _LONE_SPACE.match(content, at):
            return at + 1
    return 0


class UndecodableTextError(CheckpointError):
    """Bytes that are not UTF-8."""


def decoded(piece: Piece, where: str, errors: str) -> tuple[str, int]:
    """Return a piece's text, and how many U+FFFD in it stand for bytes that are not UTF-8.

    No character is cut in two: a piece ends behind an ASCII character.

    Raises:
        UndecodableTextError: There is such a byte, and `errors` is `strict`, not `replace`.
    """
    try:
        return piece.content.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise _undecodable(piece, where, error) from error
    text = piece.content.decode("utf-8", "replace")
    return text, text.count("\ufffd") - piece.content.count(b"\xef\xbf\xbd")


def _undecodable(piece: Piece, where: str, error: UnicodeDecodeError) -> UndecodableTextError:
    place = piece.start + error.start
    what = f"byte {place} is {error.object[error.start]:#04x}, which is no UTF-8: {error.reason}"
    fix = "save it as UTF-8, or read such bytes as U+FFFD with --errors replace"
    if not piece.start and (kind := kind_of_file(piece.content)):
        what, fix = f"{what}; it looks like {kind}", ADVICE[kind]
    if not piece.start and piece.content.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = f"{what}; it looks like UTF-16"
    return UndecodableTextError(what, where=one_line(where), fix=fix)


def texts(chosen: Sequence[Document], *, errors: str = "strict") -> Iterator[str]:
    """Yield the text of documents piece by piece, to train a tokenizer on.

    Raises:
        CheckpointError: A document cannot be read, or is not text.
    """
    for document in chosen:
        with document.opened() as file:
            for piece in pieces(file, document.where):
                yield decoded(piece, document.where, errors)[0]


# The first pass over a corpus.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """Measurements of a corpus: its documents in their order, and counts over all of them."""

    sources: tuple[Source, ...]
    characters: int
    replaced: int  # U+FFFD for bytes that are not UTF-8


def measure_corpus(
    documents: Sequence[Document], *, errors: str, progress: Callable[[str, int, int], None]
) -> CorpusSize:
    """Read all documents once, so that an unsound one is reported before any is tokenized.

    With `errors="strict"` bytes that are not UTF-8 are rejected, with `replace` they are counted.
    `progress` is called with (activity, documents done, documents in all).

    Raises:
        CheckpointError: A document cannot be read or is not text.
        TooLittleTextError: There is not a single character.
    """
    sources, characters, replaced = [], 0, 0
    for number, document in enumerate(documents):
        progress(f"reading {document.name}", number, len(documents))
        digest, size = hashlib.sha256(), 0
        with document.opened() as file:
            for piece in pieces(file, document.where):
                text, marks = decoded(piece, document.where, errors)
                digest.update(piece.content)
                size, characters, replaced = piece.end, characters + len(text), replaced + marks
        sources.append(Source(name=document.name, length=size, sha256=digest.hexdigest()))
    if not characters:
        raise TooLittleTextError(
            f"there is no text: {len(documents)} documents without a character",
            where=one_line(documents[0].where),
            fix="give text to train on",
        )
    return CorpusSize(sources=tuple(sources), characters=characters, replaced=replaced)
