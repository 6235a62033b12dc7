"""A report as GitHub's Markdown, for a pull request: facts first, long tables folded.

Every name is text: punctuation is escaped, and no mention, reference or link is made of it.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from parity.core.results import Report, Section
from parity.report.content import GUILTY, sections, verdict_line

_LONGEST = 20
"""Rows of a table that is not folded."""


def render(report: Report) -> str:
    """Return the report as Markdown, ending in a newline."""
    lines = [
        "<!-- gpt1-parity -->",
        f"## {report.verdict.value.upper()}: {text(report.check)}",
        "",
        text(verdict_line(report)),
    ]
    for section in sections(report):
        lines += ["", *_section(section)]
    if report.command:
        lines += ["", *fenced(report.command)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    titled = section.title or ("rows" if len(section.rows) > _LONGEST else "")
    folds = len(section.rows) > _LONGEST
    if folds:
        name = html.escape(titled).replace("@", "@<!-- -->")  # no Markdown inside HTML
        yield f"<details><summary>{name}</summary>"
        yield ""
    elif titled:
        yield f"### {text(titled)}"
        yield ""
    if section.rows:
        yield from _table(section)
    if section.note:
        yield from ("", f"<sub>{text(section.note)}</sub>")
    if section.lines:
        yield from ("", *fenced(*section.lines))
    if folds:
        yield from ("", "</details>")


def _table(section: Section) -> Iterator[str]:
    """Yield a table; facts, which have no column names, get an empty header."""
    count = max(map(len, section.rows))
    names = [text(name) for name in section.columns] or [""] * count
    yield _line(names)
    yield _line("---:" if index in section.right else "---" for index in range(count))
    for place, row in enumerate(section.rows):
        cells = [text(cell) for cell in row] + [""] * (count - len(row))
        guilty = bool(section.marks) and section.marks[place] == GUILTY
        yield _line(f"**{cell}**" if guilty and cell else cell for cell in cells)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def text(words: str) -> str:
    """Return words as text of one line: no markup, link, mention or reference comes of them."""
    line = " ".join(words.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line)
    line = re.sub(r"^(\d*)([-+.)])(?= |$)", r"\1\\\2", line)  # a list
    return re.sub(r"(@|#|:/|www)(?=[\w/.])", r"\1<!-- -->", line)


def fenced(*lines: str) -> Sequence[str]:
    """Return lines as they are, in a fence longer than any within them."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
