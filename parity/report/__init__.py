"""A finished check in every form: text, a page, Markdown, JUnit and GitHub's annotations, JSON.

Nothing here imports torch, and a form's own module is imported when it is used.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from parity.errors import EnvironmentUnfitError, UsageError
from parity.options import LARGEST_REPORT
from scratch_gpt.cli import render_rich, reporting_write_errors
from scratch_gpt.errors import escaped

if TYPE_CHECKING:
    from parity.core.results import Report

FORMS = ("text", "json", "html", "markdown", "junit", "github")
SUFFIXES = {
    ".txt": "text",
    ".json": "json",
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".xml": "junit",
}


def form_of(path: Path, default: str = "text") -> str:
    """Return the form that a file's suffix selects; without a suffix it is the default.

    An unknown suffix is returned as a pattern, `*.pdf`, for `require_form` to reject.
    """
    hidden = path.name if path.name.startswith(".") else ""  # such as `.html`, all suffix
    suffix = (path.suffix or hidden).lower()
    return SUFFIXES.get(suffix, f"*{suffix}" if suffix else default)


def require_form(form: str, where: str) -> None:
    """Require a known form.

    Raises:
        UsageError: It is another.
    """
    if form not in FORMS:
        raise UsageError(
            f"this version cannot write {form!r}",
            where=where,
            fix=f"use {', '.join(FORMS[:-1])} or {FORMS[-1]}; files end in {' '.join(SUFFIXES)}",
        )


def rendered(report: "Report", form: str, stream: TextIO | None = None) -> str:
    """Return a report in one form; text is in color if `stream` is a terminal that wants it."""
    module = import_module(f"parity.report.{form}")
    if form == "json":  # the only form that keeps control characters: as escapes
        return str(module.render(report))
    printable = _printable(report)
    if form == "text":
        return render_rich(lambda console: module.render(printable, console), stream)
    return str(module.render(printable))


def _printable(value: Any) -> Any:  # noqa: ANN401 - whatever a report holds
    """Return a report, or a part of one, without control characters."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return escaped(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _printable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_printable(entry) for entry in value)
    return value


def save(report: "Report", path: Path) -> None:
    """Write a report to a file in the form of its suffix; see `Report.save`."""
    form = form_of(path)
    require_form(form, str(path))
    require_replaceable(path, str(path))
    write(path, rendered(report, form))


def write(path: Path, text: str) -> None:
    """Write a report, whole or not at all; see `replace_file`."""
    with replace_file(path, str(path)) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replace_file(path: Path, where: str) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to, and put it in its place at the end.

    Raises:
        EnvironmentUnfitError: The file system refused; an old file is unchanged.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with reporting_write_errors(where):
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


_BEGINNING = re.compile(
    rb'\s*(\{\s*"schema_version": \d+,\s*"check": "'  # JSON
    rb"|error: [^\n]*\n  where  "  # an error as text
    rb"|<!-- gpt1-parity -->"  # Markdown
    rb'|<\?xml[^>]*>\s*<testsuites name="gpt1-parity"'
    rb'|<!doctype html>.{,1000}<meta name="generator" content="gpt1-parity)',
    re.IGNORECASE | re.DOTALL,
)
_END = re.compile(rb"(?:\A|\n)(?:PASS|FAIL|INCONCLUSIVE|ERROR)  (?:[^\n]+\n)+\Z")
"""How a report begins, or ends as text: with the verdict, on one line or more."""


_LONGEST_END = 10_000
"""Bytes at the end of a text in which its verdict is looked for."""


def require_replaceable(path: Path, where: str) -> None:
    """Require that a report may be written to a path.

    Raises:
        UsageError: Something there is no report, and would be lost.
        EnvironmentUnfitError: It is no regular file, or its folder does not exist.
    """
    if str(path) == "-":
        raise UsageError(
            "'-' is no file", where=where, fix="use --format FORM to print the report in that form"
        )
    if path.is_dir() or not Path(os.path.realpath(path)).parent.is_dir():
        raise EnvironmentUnfitError(
            "the report cannot be written: " + ("a folder" if path.is_dir() else "no folder"),
            where=where,
            fix="name a file in a folder that exists",
        )
    if not path.exists():
        return
    if not path.is_file():
        raise EnvironmentUnfitError(
            "the report cannot be written: it is a pipe or a device, not a file",
            where=where,
            fix="name a file; without --output the report is printed",
        )
    size = path.stat().st_size
    if size and (size > LARGEST_REPORT or not _is_report(path.read_bytes())):
        raise UsageError(
            "the file is no report, and would be lost",
            where=where,
            fix="choose another name, or remove the file",
        )


def _is_report(text: bytes) -> bool:
    return bool(_BEGINNING.match(text) or _END.search(text[-_LONGEST_END:]))
