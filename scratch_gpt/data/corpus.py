"""The documents that tokens are made of: files, and the text files of folders."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scratch_gpt.data.pieces import Readable, decoded, pieces
from scratch_gpt.data.refusal import TooLittleTextError
from scratch_gpt.files.refusal import CheckpointError, UnreadableError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.shown import one_line

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


def several(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
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
    given = several(paths)
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
    return Document(name=name, where=str(path), opened=lambda: opened(path))


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
