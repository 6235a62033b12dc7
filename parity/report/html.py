"""A report as one HTML page: self-contained, without scripts, safe for any name.

The page needs nothing but itself. Its tables sort and filter by style sheet alone; a
content-security policy forbids everything but that sheet.
"""

import base64
import dataclasses
import hashlib
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row
from parity.errors import EnvironmentUnfitError
from parity.report import content
from parity.report.content import BAD, BEYOND, GUILTY, INHERITED, mark_of, number
from parity.report.picture import MOST, block_of, draw, operation_of, ordered, shortened, stack_of
from scratch_gpt.errors import escaped

_WIDE, _NARROW = 960, 380
"""Widths of the picture in pixels, for screens and paper, and for phones."""

_LINES = 1_500
"""Lines of the table of all rows; of more, some that pass are left out."""

_PLACED = ("heading", "reasons", "wrong", "divergence", "next", "rows")
"""Sections with a place of their own; the others come after the table of all rows."""

_CHOICES, _OPTION, _NAME = 60, 40, 160
"""Names in a filter, with more there is no such filter; longest name there, and in the table."""


def render(report: Report) -> str:
    """Return the report as an HTML document, ending in a newline.

    Raises:
        EnvironmentUnfitError: jinja2 or the template is missing or broken.
    """
    every, maps = _every(report), list(_maps(report))
    parts: dict[str, list[Any]] = {name: [] for name in (*_PLACED, "others")}
    for section in content.sections(report):
        parts[section.name if section.name in _PLACED else "others"].append(section)
    return _rendered(
        "report.html",
        report=report,
        line=content.verdict_line(report),
        parts=parts,
        pictures=[("wide", draw(report, _WIDE)), ("narrow", draw(report, _NARROW))],
        alone=False,
        maps=maps,
        tone=_tone,
        found={one.kind for made in maps for one in made.squares},
        symbols=_SYMBOLS,
        every=every,
        environment=_environment(report),
        style=_style(every),
        coverage=_coverage(report),
    )


def _environment(report: Report) -> list[tuple[str, str]]:
    """Return versions, settings and code by name."""
    facts = {
        **report.environment,
        "config": ", ".join(f"{k} {v}" for k, v in report.identity.get("config", {}).items()),
        "code": report.identity.get("code", ""),
        "gpt1-parity": report.version,
        "commit": report.commit,
        "seconds": "" if report.seconds is None else f"{report.seconds:g}",
    }
    return [(name, str(fact)) for name, fact in facts.items() if fact]


def render_picture(report: Report) -> str:
    """Return the picture alone, as an SVG document.

    Raises:
        EnvironmentUnfitError: jinja2 or the template is missing or broken.
        ValueError: The report has no errors by depth.
    """
    picture = draw(report, _WIDE)
    if picture is None:
        raise ValueError(f"a report of {report.check} has no errors by depth")
    return _rendered("picture.svg", picture=picture, id="picture", alone=True)


def _rendered(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template takes
    """Return a template of this package with its values; every string in it is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise _broken(template, error) from error
    try:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("parity.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template(template).render(**values)
    except (ValueError, jinja2.TemplateError) as error:  # the former if there is no folder
        raise _broken(template, error) from error


def _broken(template: str, error: Exception) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"the page cannot be made: {type(error).__name__}: {escaped(str(error))[:200]}",
        where=f"parity/report/templates/{template}",
        fix="install gpt1-parity again; it brings jinja2 and the templates",
    )


def _printable(value: object) -> object:
    """Return a string without control characters and marks that reorder text."""
    # What the template made itself has this method.
    return escaped(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _tone(cell: str) -> str:
    """Return the CSS class of a cell."""
    beyond = cell.rstrip().endswith(BEYOND) and cell[:1].isdigit()
    return "x" if beyond or cell.startswith(BAD) else ""


def _style(every: "_Every | None") -> tuple[str, str]:
    """Return the style sheet, made of numbers alone, and its digest for the security policy."""
    text = _rendered("report.css", every=every).replace("\r\n", "\n")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _coverage(report: Report) -> list[tuple[str, str, list[str]]]:
    """Return for each backend its name, the counts, and the taps left out with the reasons."""
    reasons: dict[str, dict[tuple[str, str], int]] = {}
    for one in report.plan.exempt:
        taps = reasons.setdefault(one["backend"], {})
        kind = re.sub(r"\.\d+\.", ".*.", one["tap"], count=1)
        taps[kind, one["reason"]] = taps.get((kind, one["reason"]), 0) + 1
    return [
        (
            backend,
            f"{compared:,} of {planned:,}",
            [
                f"{kind}{f' ({count})' if count > 1 else ''}: {why}"
                for (kind, why), count in reasons.get(backend, {}).items()
            ],
        )
        for backend, (planned, compared) in report.plan.per_backend.items()
    ]


# ---- The map: a square for each tap. ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Square:
    kind: str
    title: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Map:
    """The squares of one backend: a row for each block, and the taps outside blocks."""

    backend: str
    columns: Sequence[str]
    blocks: Sequence[tuple[str, Sequence[_Square | None]]]
    others: Sequence[tuple[str, _Square]]

    @property
    def squares(self) -> Iterator[_Square]:
        """Every square."""
        inside = (one for _, squares in self.blocks for one in squares if one is not None)
        return itertools.chain(inside, (one for _, one in self.others))


_SYMBOLS = {
    "pass": ("·", "ok", "ok"),
    "guilty": ("×", "WRONG", "WRONG: the difference starts here"),
    "inherited": ("↓", "follows", "follows: its inputs were wrong already"),
    "nonfinite": ("!", "NONFINITE", "NONFINITE"),
    "other": ("?", "NOT COMPARED", "NOT COMPARED"),
    "none": ("", "not formed", "not formed"),
}
"""Symbol, word and meaning by kind of square."""


def _kind(rows: Sequence[Row], report: Report) -> str:
    """Return the kind of a tap's square, which is that of its worst row."""
    found = {row.status for row in rows}
    if Status.NONFINITE in found:
        return "nonfinite"
    if found - {Status.PASS, Status.FAIL}:
        return "other"
    return mark_of(rows, report) or "pass"


def _maps(report: Report) -> Iterator[_Map]:
    """Yield the map of each backend, if the taps belong to blocks."""
    taps = ordered(report.results)
    absent = {(one["backend"], one["tap"]): one["reason"] for one in report.plan.exempt}
    if stack_of(taps) is None or len(report.results) > MOST:
        return
    inside = {tap: block_of(tap) for tap in taps if operation_of(tap) != tap}
    columns = list(dict.fromkeys(map(operation_of, inside)))
    blocks = list(dict.fromkeys(inside.values()))
    names = {(block, operation_of(tap)): tap for tap, block in inside.items()}
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in report.results:
        rows.setdefault((row.backend, row.tap), []).append(row)

    def square(backend: str, tap: str) -> _Square | None:
        found = rows.get((backend, tap), [])
        if found:
            kind = _kind(found, report)
            failing = [str(row.mode) for row in found if row.status is not Status.PASS]
            failing = list(dict.fromkeys(failing))
            title = f"{shortened(tap, _NAME)}: " + (
                f"differs in {', '.join(failing)}" if failing else "pass"
            )
            return _Square(kind=kind, title=title)
        why = absent.get((backend, tap))
        return (
            None if why is None else _Square(kind="none", title=f"{shortened(tap, _NAME)}: {why}")
        )

    for backend in dict.fromkeys(row.backend for row in report.results):
        others = [(tap, square(backend, tap)) for tap in taps if tap not in inside]
        yield _Map(
            backend=backend,
            columns=columns,
            blocks=[
                (block, [square(backend, names.get((block, name), "")) for name in columns])
                for block in blocks
            ],
            others=[(shortened(tap, _NAME), found) for tap, found in others if found is not None],
        )


# ---- The table of all rows: a line for each tap and backend. ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    """A line: `kinds` are its CSS classes, `ranks` its place by the size of each column."""

    tap: str
    backend: str
    kinds: str
    word: str
    cells: Sequence[tuple[str, bool]]
    worst: Sequence[str]
    ranks: Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Every:
    """The table: `columns` are a name, the reference, and the bound; `note` explains numbers."""

    columns: Sequence[tuple[str, str, str]]
    note: str
    lines: Sequence[_Line]
    left_out: int
    backends: Sequence[str]
    blocks: Sequence[str]
    operations: Sequence[str]


_MEANINGS = {
    Mode.EXACT: "number of mismatches",
    Mode.FLOAT64: "largest error over the RMS of the reference",
    Mode.FLOAT64_PER_OP: "the same, each operation on the oracle's inputs",
    Mode.END_TO_END: "our error over Hugging Face's",
    Mode.PER_OP: "our error over Hugging Face's, each operation on the oracle's inputs",
    Mode.PUBLISHED: "difference from the published number",
}

_REFERENCES = {"huggingface": "Hugging Face"}

_Column = tuple[Mode, str, str]


def _column(row: Row) -> _Column:
    return (row.mode, row.dtype, row.against)


def _every(report: Report) -> _Every | None:
    """Return the table of all rows; None without any."""
    taps = {tap: n for n, tap in enumerate(ordered(report.results))}
    grouped: dict[tuple[str, str], dict[_Column, list[Row]]] = {}
    for row in report.results:
        grouped.setdefault((row.tap, row.backend), {}).setdefault(_column(row), []).append(row)
    if not grouped:
        return None
    columns = list(dict.fromkeys(_column(row) for row in report.results))
    backends = list(dict.fromkeys(row.backend for row in report.results))
    keys = sorted(grouped, key=lambda key: (taps[key[0]], backends.index(key[1])))
    kept = _most_important(keys, grouped, report)
    blocks = list(dict.fromkeys(block_of(tap) for tap, _ in kept))
    operations = list(dict.fromkeys(operation_of(tap) for tap, _ in kept))
    backends, blocks, operations = (
        names if 1 < len(names) <= _CHOICES else [] for names in (backends, blocks, operations)
    )
    ranks = [_ranks([_worst(grouped[key].get(column, ())) for key in kept]) for column in columns]
    lines = []
    for n, (tap, backend) in enumerate(kept):
        cells = grouped[tap, backend]
        rows = [row for column in columns for row in cells.get(column, ())]
        failing = [row for row in rows if row.status is not Status.PASS]
        kind, mark = _kind(rows, report), mark_of(rows, report)
        kinds = [
            "ok" if not failing else "bad",
            *([mark] if mark == GUILTY else []),
            *(f"c{i}" for i, column in enumerate(columns) if _fails(cells.get(column, ()))),
            *(
                f"{letter}{names.index(name)}"
                for letter, names, name in (
                    ("b", backends, backend),
                    ("p", blocks, block_of(tap)),
                    ("o", operations, operation_of(tap)),
                )
                if names
            ),
        ]
        lines.append(
            _Line(
                tap=shortened(tap, _NAME),
                backend=shortened(backend, _NAME),
                kinds=" ".join(kinds),
                word=" ".join(_SYMBOLS[kind][:2]),
                cells=[
                    (_shown(found := cells.get(column, ())), _fails(found)) for column in columns
                ],
                worst=_worst_element((failing or rows)[0]),
                ranks=[of_column[n] for of_column in ranks],
            )
        )
    bounds = [[r.bound for r in report.results if _column(r) == column] for column in columns]
    return _Every(
        columns=[
            (
                " ".join(dict.fromkeys([str(mode), dtype])),
                _REFERENCES.get(against, against),
                f"{statistics.mode(found):g}",
            )
            for (mode, dtype, against), found in zip(columns, bounds, strict=True)
        ],
        note="; ".join(
            f"{mode}: {_MEANINGS[mode]}" for mode in dict.fromkeys(c[0] for c in columns)
        ),
        lines=lines,
        left_out=len(keys) - len(kept),
        backends=[shortened(name, _OPTION) for name in backends],
        blocks=[shortened(name, _OPTION) for name in blocks],
        operations=[shortened(name, _OPTION) for name in operations],
    )


def _most_important(
    keys: Sequence[tuple[str, str]],
    grouped: Mapping[tuple[str, str], Mapping[_Column, Sequence[Row]]],
    report: Report,
) -> list[tuple[str, str]]:
    """Return as many lines as a page has, in their order: wrong ones first, then failing ones."""

    def rank(key: tuple[str, str]) -> int:
        rows = [row for cell in grouped[key].values() for row in cell]
        return (GUILTY, INHERITED, "").index(mark_of(rows, report))

    chosen = set(sorted(keys, key=rank)[:_LINES])
    return [key for key in keys if key in chosen]


def _fails(rows: Sequence[Row]) -> bool:
    return any(row.status is not Status.PASS for row in rows)


def _worst(rows: Sequence[Row]) -> float:
    """Return the largest number of some rows; infinity where one has none, -1 without rows."""
    sizes = [row.required_tolerance for row in rows]
    return max((math.inf if s is None or math.isnan(s) else s for s in sizes), default=-1.0)


def _ranks(sizes: Sequence[float]) -> list[int]:
    """Return the place of each number, the largest first."""
    places = [0] * len(sizes)
    for place, n in enumerate(sorted(range(len(sizes)), key=lambda n: -sizes[n])):
        places[n] = place
    return places


def _shown(rows: Sequence[Row]) -> str:
    """Return the number of a cell, or the status that kept it from having one."""
    if not rows:
        return ""
    worst = max(rows, key=lambda row: _worst([row]))
    size = worst.required_tolerance
    if size is None:
        return worst.status.value.replace("_", " ")
    if size == 0:
        return "0"
    if worst.mode in (Mode.FLOAT64, Mode.FLOAT64_PER_OP, Mode.PUBLISHED):
        return f"{size:.2e}"
    whole = worst.mode is Mode.EXACT or size >= 1_000  # noqa: PLR2004 - an exponent comes later
    return f"{size:,.0f}" if whole else number(size)


def _worst_element(row: Row) -> tuple[str, str, str]:
    """Return the index of the largest difference, or why there is none, and both values."""
    if not row.worst_index:
        return shortened(row.detail, _NAME), "", ""
    values = (row.value_ours, row.value_against)
    ours, theirs = ("" if value is None else f"{value:.6g}" for value in values)
    return str(list(row.worst_index)), ours, theirs
