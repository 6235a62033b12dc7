"""Text that is on every machine: the documentation strings of Python's standard library.

The modules are parsed and never imported, so nothing of them runs.
"""

import ast
import contextlib
import functools
import hashlib
import io
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from scratch_gpt.data.corpus import Document
from scratch_gpt.data.pieces import Readable
from scratch_gpt.data.refusal import TooLittleTextError
from scratch_gpt.files.shown import one_line

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of tests, whose strings are mostly theirs alone, and of what is not Python's own."""

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents(library: Path | None = None) -> list[Document]:
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
            found.append(_document(name, "\n\n".join(fresh) + "\n"))
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


def _document(name: str, text: str) -> Document:
    content = text.encode("utf-8", "replace")  # a string of Python may hold half a character
    return Document(
        name=name,
        where=f"the standard library's {name}",
        opened=functools.partial(_opened, content),
    )


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Readable]:
    yield io.BytesIO(content)
