"""A report as GitHub Actions' annotations: a line each, with file and line where there is one.

The Markdown goes to the job's summary: the file that `GITHUB_STEP_SUMMARY` names.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from parity.core.results import Report, Verdict
from parity.report import rendered
from parity.report.content import verdict_line
from scratch_gpt.cli import reporting_write_errors

_MOST_ANNOTATIONS = 10
"""Of one level in a step; GitHub drops the others."""
_LARGEST_SUMMARY = 1 << 20
"""Bytes of a step's summary; GitHub drops a larger one whole."""


def render(report: Report) -> str:
    """Return the annotations, and a last line with the verdict."""
    line = f"{report.verdict.value.upper()}  {verdict_line(report)}"
    level = {Verdict.PASS: "notice", Verdict.INCONCLUSIVE: "warning"}.get(report.verdict, "error")
    title = f"parity {report.check}"
    found = list(_annotations(report, level, title))
    if len(found) > _MOST_ANNOTATIONS:
        more = len(found) - _MOST_ANNOTATIONS + 1
        found[-more:] = [_annotation(level, title, f"{more} more are in the report")]
    lines = [*(found or [_annotation(level, title, line)]), line]
    return "\n".join(lines) + "\n"


def append_summary(report: Report) -> None:
    """Append the report to the job's summary, if there is one, as far as the summary has room.

    Where the whole report has none, its long tables are left out.

    Raises:
        EnvironmentUnfitError: It cannot be written.
    """
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        text = rendered(report, "markdown")
        with reporting_write_errors(path), Path(path).open("ab") as stream:
            room = max(_LARGEST_SUMMARY - stream.tell(), 0)
            if len(text.encode()) > room:
                left_out = "A long table is left out: --output report.md has it."
                text = re.sub(r"(?s)<details>.*?</details>", left_out, text)
            stream.write(text.encode()[:room])


def _annotations(report: Report, level: str, title: str) -> Iterator[str]:
    for wrong in report.wrong:
        parts = [wrong.tap, wrong.diagnosis, wrong.fix and f"fix: {wrong.fix}"]
        message = "\n".join(part for part in parts if part)
        yield _annotation(level, title, message, wrong.file, wrong.line)
    first = report.first_divergence
    if first is not None and not report.wrong:
        cause = first.suspects and f"likely cause: {first.suspects}"
        message = "\n".join(p for p in (f"first divergence: {first.tap}", first.why, cause) if p)
        yield _annotation(level, title, message)
    for reason in report.reasons:
        message = f"{reason.what}\n{reason.where}\nfix: {reason.fix}"
        yield _annotation(level, title, message)


def _annotation(level: str, title: str, message: str, file: str = "", line: int = 0) -> str:
    fields = {"file": _relative(file), "line": str(line or ""), "title": title}
    listed = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in fields.items() if value)
    return f"::{level} {listed}::{_escaped(message)}"


def _relative(file: str) -> str:
    """Return a path from the checkout's folder, which GitHub needs; another one as it is."""
    root = os.environ.get("GITHUB_WORKSPACE", Path.cwd())
    path = Path(file)
    return path.relative_to(root).as_posix() if file and path.is_relative_to(root) else file


def _escaped(text: str, more: str = "") -> str:
    """Return text as GitHub reads it back: `%`, line ends and some characters by their codes."""
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
