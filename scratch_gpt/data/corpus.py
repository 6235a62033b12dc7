"""The documents that tokens are made of: files, and the text files of folders."""

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
from typing import Protocol, runtime_checkable

from scratch_gpt.checkpoint.strict_io import ADVICE, kind_of_file, open_regular
from scratch_gpt.data.dataset import Source
from scratch_gpt.errors import CheckpointError, TooLittleTextError, UnreadableError, one_line

# A document in pieces that can be tokenized one by one.
#
# A piece ends behind a line break. Words never reach over one, so the tokens of the pieces, with
# what a line break costs between them, are the tokens of the whole. Only a line that is longer
# than a piece is cut at a space.
#
# Where a piece ends depends on nothing but where it begins: whoever begins again at the start of
# any piece gets the pieces that would have followed.


SIZE = 1 << 18
"""Bytes that are read at a time."""

LONGEST_WORD = 1 << 24
"""Bytes in which there must be a space or a line break."""

# A space that no other white space touches: what stands at a piece's ends, a tokenizer may strip.
# The bytes are ASCII's white space, then U+0085 and U+00A0, U+1680, those of U+2000 to U+205F
# and all their neighbours up to U+207F, and U+3000.
_LONE_SPACE = re.compile(
    rb"(?<![\x00-\x20\x7f])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)"
    rb"(?<!\xe2[\x80\x81][\x80-\xbf])(?<!\xe3\x80\x80) "
    rb"(?![\x00-\x20\x7f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2[\x80\x81]|\xe3\x80\x80)"
)


@runtime_checkable
class Readable(Protocol):
    """Bytes in a file or in memory."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer than asked for only at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, and return it."""


class UndecodableTextError(CheckpointError):
    """Bytes that are no text in UTF-8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a document.

    Attributes:
        start: Its place in the document, in bytes.
        content: Its bytes.
        on_new_line: Whether a line break, or nothing at all, is before it: not a space.
    """

    start: int
    content: bytes
    on_new_line: bool

    @property
    def end(self) -> int:
        """Where the next piece begins."""
        return self.start + len(self.content)


def pieces(file: Readable, where: str, *, start: int = 0, size: int = SIZE) -> Iterator[Piece]:
    """Yield the pieces of a document from `start` on.

    Args:
        file: The document.
        where: What it is called in a refusal.
        start: 0, or where a piece begins.
        size: Bytes that are read at a time: the least length of all pieces but the last.

    Raises:
        CheckpointError: There is no place to cut in `LONGEST_WORD` bytes.
    """
    file.seek(max(0, start - 1))
    before = file.read(1) if start else b""
    while content := _piece(file, where, start, size):
        yield Piece(start=start, content=content, on_new_line=before in {b"", b"\n"})
        start += len(content)
        before = content[-1:]


def decoded(piece: Piece, where: str, errors: str) -> tuple[str, int]:
    """Return the text of a piece, and how many U+FFFD in it stand for bytes that are no UTF-8.

    Args:
        piece: Cut behind an ASCII character, so no character is cut in two.
        where: What the document is called in a refusal.
        errors: `strict` refuses such bytes, `replace` puts U+FFFD in their place.

    Raises:
        UndecodableTextError: With `strict`: where the first such byte is.
    """
    try:
        return piece.content.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise _undecodable(piece, where, error) from error
    text = piece.content.decode("utf-8", "replace")
    return text, text.count("\ufffd") - piece.content.count(b"\xef\xbf\xbd")


def _piece(file: Readable, where: str, start: int, size: int) -> bytes:
    """Return the bytes from `start` to the next cut; none at the end."""
    file.seek(start)
    content = b""
    while len(content) < LONGEST_WORD:
        wanted = max(size, len(content))  # twice as long each time
        more = file.read(wanted)
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


def _after_last_space(content: bytes) -> int:
    """Return the place after the last space that stands alone, 0 where there is none."""
    at = len(content) - 1  # what follows the very last byte is not known
    while (at := content.rfind(b" ", 0, at)) > 0:
        if _LONE_SPACE.match(content, at):
            return at + 1
    return 0


def _undecodable(piece: Piece, where: str, error: UnicodeDecodeError) -> UndecodableTextError:
    place = piece.start + error.start
    what = f"byte {place} is {error.object[error.start]:#04x}, which is no UTF-8: {error.reason}"
    fix = "save it as UTF-8, or put U+FFFD in the place of such bytes with --errors replace"
    if not piece.start and (kind := kind_of_file(piece.content)):
        what, fix = f"{what}; it looks like {kind}", ADVICE[kind]
    if not piece.start and piece.content.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = f"{what}; it looks like UTF-16"
    return UndecodableTextError(what, where=one_line(where), fix=fix)


SUFFIXES = (".txt", ".md")
"""What a text file's name ends with, in a folder. A file that is named is taken whatever it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Some text that is one whole.

    Attributes:
        name: Its path from the folder that was given, that folder's name first.
        where: What it is called in a refusal: the path by which it can be found.
        opened: Opens it, for reading bytes.
    """

    name: str
    where: str
    opened: Callable[[], contextlib.AbstractContextManager[Readable]]


def documents_of_all(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return paths as a list of them.

    Raises:
        TypeError: It is one path, whose letters would be taken for paths.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        kind = type(paths).__name__
        raise TypeError(f"paths must be several paths, got one {kind}; use [path]")
    return [Path(path) for path in paths]


def documents(paths: Sequence[str | os.PathLike[str]]) -> list[Document]:
    """Return the documents at some paths.

    Files come as they are given. Of a folder come all files below it whose names end in `.txt`
    or `.md`, sorted by their paths; hidden files and folders, folders behind links, and the
    `merges.txt` of a vocabulary do not.

    Raises:
        TypeError: It is one path.
        TooLittleTextError: A folder has no such file, or no path is given.
        CheckpointError: A folder may not be looked into, or a file is there twice.
    """
    given = documents_of_all(paths)
    if not given:
        raise TooLittleTextError(
            "no file is given", where="the paths", fix="name a text file or a folder of them"
        )
    found: list[Document] = []
    for path in given:
        found += _in_folder(path) if path.is_dir() else [_document(path, path.name)]
    _require_once(found)
    return found


def _require_once(found: Sequence[Document]) -> None:
    """Require that no file is there twice: its text would count double, or be validated on."""
    seen: dict[tuple[int, int], str] = {}
    for document in found:
        try:
            about = Path(document.where).stat()
        except (OSError, ValueError):  # said when it is read
            continue
        file = about.st_dev, about.st_ino
        if file in seen:
            raise CheckpointError(
                "the same file is given twice",
                where=one_line(f"{seen[file]} and {document.where}"),
                fix="name it once; a folder's text files are in the folder",
            )
        seen[file] = document.where


def texts(chosen: Sequence[Document], *, errors: str = "strict") -> Iterator[str]:
    """Yield the text of documents piece by piece, as a vocabulary is learned from it.

    Args:
        chosen: Documents in their order.
        errors: `strict` refuses bytes that are no UTF-8, `replace` puts U+FFFD in their place.

    Raises:
        CheckpointError: A document cannot be read, or is no text.
    """
    for document in chosen:
        with document.opened() as file:
            for piece in pieces(file, document.where):
                yield decoded(piece, document.where, errors)[0]


def _document(path: Path, name: str) -> Document:
    return Document(name=name, where=str(path), opened=lambda: open_regular(path))


def _in_folder(folder: Path) -> list[Document]:
    """Return the text files below a folder."""
    top = Path(os.path.realpath(folder)).name  # of ".", too
    found = sorted(path.relative_to(folder).parts for path in _text_files(folder))
    if not found:
        raise TooLittleTextError(
            f"there is no {' or '.join(SUFFIXES)} file in it",
            where=one_line(folder),
            fix="name the files themselves, whatever they are called",
        )
    return [_document(folder.joinpath(*parts), "/".join((top, *parts))) for parts in found]


def _text_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        no_text = {_MERGES} if _VOCABULARY in files else set()
        for name in sorted({*files} - no_text):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
"""Files of a vocabulary; where the first one lies, the second one is no text."""


def _refuse(error: OSError) -> None:
    """Refuse a folder that cannot be looked into: text would be missing without a word."""
    kind = UnreadableError if isinstance(error, PermissionError) else CheckpointError
    raise kind(
        f"the folder cannot be looked into: {error.strerror}",
        where=one_line(error.filename),
        fix="change its permissions",
    ) from error


# Text that is on every machine: the documentation strings of Python's standard library.
#
# The modules are parsed and never imported, so nothing of them runs.


_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of tests, whose strings are mostly theirs alone, and of what is not Python's own."""

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstring_documents(library: Path | None = None) -> list[Document]:
    """Return a document for each module of the standard library that says anything.

    A document holds the module's documentation strings as they stand in it, an empty line
    between any two. A string that an earlier document has is not repeated.

    The order is that of the SHA-256 of the modules' paths: a mixture that depends on nothing, so
    that the last part, which is not trained on, is a sample of all the rest.

    Args:
        library: The folder of the standard library; None for this Python's own.

    Raises:
        TooLittleTextError: There is no source file, as where the library is zipped.
    """
    home = Path(sysconfig.get_path("stdlib")) if library is None else library
    modules = {path.relative_to(home).as_posix(): path for path in _modules(home)}
    seen: set[str] = set()
    found = []
    for name in sorted(modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        strings = [text for text in _strings(modules[name]) if text not in seen]
        fresh = list(dict.fromkeys(strings))
        seen.update(fresh)
        if fresh:
            found.append(_docstring_document(name, "\n\n".join(fresh) + "\n"))
    if not found:
        raise TooLittleTextError(
            "there is no documentation string in this Python's standard library",
            where=one_line(home),
            fix="name text files or a folder of them",
        )
    return found


def _modules(home: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(home):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def _strings(module: Path) -> Iterator[str]:
    """Yield a module's documentation strings from top to bottom, indentation removed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever a compiler would say about old code
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
        ahead.extend(reversed(statements))  # no definition stands in an expression


def _docstring_document(name: str, text: str) -> Document:
    content = text.encode("utf-8", "replace")  # a string of Python may hold half a character
    return Document(
        name=name,
        where=f"the standard library's {name}",
        opened=functools.partial(_opened, content),
    )


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Readable]:
    yield io.BytesIO(content)


# What documents are before anything is made of them: each is read once, from end to end.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """Documents, looked through.

    Attributes:
        sources: Name, size and digest of each, in their order.
        characters: How many they have together.
        replaced: How many U+FFFD stand for bytes that are no UTF-8.
    """

    sources: tuple[Source, ...]
    characters: int
    replaced: int


def measure_corpus(
    documents: Sequence[Document], *, errors: str, progress: Callable[[str, int, int], None]
) -> CorpusSize:
    """Look through documents, so that what is wrong with the last one is said before the first.

    Args:
        documents: In their order.
        errors: `strict` refuses bytes that are no UTF-8, `replace` counts them.
        progress: Called with (what is going on, documents done, documents in all).

    Raises:
        CheckpointError: A document cannot be read or is no text.
        TooLittleTextError: There is not a single character.
    """
    sources, characters, replaced = [], 0, 0
    for number, document in enumerate(documents):
        progress(f"looking through {document.name}", number, len(documents))
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
