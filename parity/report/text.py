"""A report as text: heading, one table in network order, and the first divergence in full.

In the table of rows a block is one line. Its taps have lines of their own where an operation of the
block is wrong: in the first block that differs, and in any with a tap that fails in mode per-op.
Sections, the tables that only one check has, are rendered as they come.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from parity.core.metrics import Status
from parity.core.results import (
    FirstDivergence,
    Mode,
    Reason,
    Report,
    Row,
    Section,
    Verdict,
    WrongOperation,
)

_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold red",
}

_WORDS = {
    "ok": "green",
    "pass": "green",
    "inconclusive": "bold yellow",
    "not run": "bold yellow",
    **dict.fromkeys(("DIFFERS", "PROBLEM", "NONFINITE", "NOT RUN", "FAIL", "ERROR"), "bold red"),
}
"""Styles of cells that begin with one of these words."""


_FIT = {True: "ok", False: "PROBLEM", None: ""}


def render(report: Report, console: Console) -> None:
    """Print the report."""
    for part in _parts(report):
        console.print(part, highlight=False)


def _parts(report: Report) -> Iterator[RenderableType]:
    if report.identity.get("weights") or not report.sections:
        yield _heading(report)
    for place, wrong in enumerate(report.wrong):
        yield from _wrong(wrong, "first wrong operation" if not place else "also wrong")
    if report.sections:
        yield from _sections(report.sections)
    elif report.results:
        yield _rows(report)
    if report.appendix:
        yield Text()
        yield from _sections(report.appendix)
    if report.findings:
        yield facts(
            (f.name, f.found + (f" ({f.why})" if f.fit is False else ""), _FIT[f.fit])
            for f in report.findings
        )
    first = report.first_divergence
    if first is not None and not first.row.details and not report.wrong:  # else a section has it
        yield from _divergence(first, report.results)
    if report.consequences:
        yield from _consequences(report.consequences)
    if report.explanation is not None:
        yield from _explanation(report.explanation, report.results)
    yield from map(_reason, report.reasons)
    yield _last_line(report)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[int] = (),
    folds: Sequence[int] = (),
    widths: Sequence[int] = (),
) -> Table:
    """Return a table, with status words in color; without column names it has no header.

    `right` and `folds` are indices of columns that are right-justified, or may be narrowed, their
    cells on several lines; `widths` is the least width of each column.
    """
    cells = [list(row) for row in rows]
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=bool(columns),
        header_style="bold",
    )
    for index, name in enumerate(columns or [""] * max(map(len, cells), default=0)):
        width, may_fold = widths[index] if widths else 0, index in folds
        made.add_column(
            Text(name.ljust(width) if may_fold else name),  # as wide, but it may be narrowed
            justify="right" if index in right else "left",
            min_width=None if may_fold else width,
            no_wrap=not may_fold,
            overflow="fold",
        )
    for row in cells:
        made.add_row(*(_styled(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def facts(pairs: Iterable[Sequence[str]]) -> Table:
    """Return lines of a name and a fact, which may take several lines."""
    return table((), pairs, folds=(1,))


def _styled(cell: str) -> Text:
    text = Text(cell)
    for word, style in _WORDS.items():
        if cell == word or cell.startswith(f"{word} "):
            text.stylize(style, 0, len(cell if word in ("ok", "DIFFERS") else word))
    return text


PAGE = 92
"""Columns that a text has at least, however narrow the terminal."""

_GAP, _NAME, _FOLDED = 2, 32, 44
"""Blanks between columns; the widest first column of a table that is split; the widest column of
several equally wide tables that may fold."""


def _sections(sections: Sequence[Section]) -> Iterator[RenderableType]:
    for place, section in enumerate(sections):
        if place:
            yield Text()
        if section.title:
            yield Text(section.title, style="bold red" if section.failed else "bold")
        if section.splits:
            yield from _split(section)
        elif section.columns or section.rows:
            group = [
                of for of in sections if section.group and of.group == section.group and of.rows
            ]
            widths = [
                min(max(map(len, column)), _FOLDED)
                for column in zip(
                    *(row for s in group for row in (s.columns, *s.rows)), strict=True
                )
            ]
            yield table(
                section.columns,
                section.rows,
                right=section.right,
                folds=section.folds,
                widths=widths,
            )
        if section.note:
            yield Text(section.note, style="dim")
        yield from map(Text, section.lines)


def _split(section: Section) -> Iterator[RenderableType]:
    """Yield tables of all rows, each with as many of the columns as a page has space for."""
    columns = list(zip(section.columns, *section.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    room = PAGE - min(widths[0], _NAME) - _GAP
    groups: list[list[int]] = [[]]
    for index in range(1, len(columns)):
        if groups[-1] and sum(_GAP + widths[i] for i in (*groups[-1], index)) > room:
            groups.append([])
        groups[-1].append(index)
    for place, group in enumerate(groups):
        if place:
            yield Text()
        kept = (0, *group)
        yield table(
            [section.columns[i] for i in kept],
            [[row[i] for i in kept] for row in section.rows],
            right=[new for new, old in enumerate(kept) if old in section.right],
            folds=range(len(kept)),
        )


def _heading(report: Report) -> RenderableType:
    weights: Mapping[str, Any] = report.identity.get("weights", {})
    lines = [("weights", str(weights.get("source", "unknown")))]
    if "sha256" in weights:
        lines.append(("", f"{weights['revision']}, sha256 {weights['sha256'][:16]}…"))
    lines += [("", _file(file)) for file in weights.get("files", ())]
    lines += [
        ("note" if not place else "", note) for place, note in enumerate(weights.get("notes", ()))
    ]
    inputs = {key: value for key, value in report.inputs.items() if key != "not_run"}
    lines.append(("inputs", ", ".join(f"{key} {value}" for key, value in inputs.items())))
    lines += [
        ("not run", f"{backend}: {why}")
        for backend, why in report.inputs.get("not_run", {}).items()
    ]
    if hidden := [one["tap"] for one in report.plan.exempt if one["backend"] == "candidate"]:
        kinds = dict.fromkeys(re.sub(r"^h\.\d+\.", "h.*.", tap) for tap in hidden)
        lines.append(("not shown", f"{len(hidden)} taps of the candidate: {', '.join(kinds)}"))
    settings = report.environment
    versions = (f"{name} {settings[name]}" for name in ("torch", "transformers", "threads"))
    lines.append(("environment", ", ".join(versions)))
    return Text("\n".join(f"{name:<13}{fact}" for name, fact in lines))


def _file(file: Mapping[str, Any]) -> str:
    """Return the line of a file that weights were read from."""
    status = file["standing"]
    status = {"known": "as published", "unknown": "unknown provenance"}.get(status, status)
    return f"{file['name']}  {file['size']:,} bytes, sha256 {file['sha256'][:16]}…, {status}"


_COLUMNS = {
    Mode.EXACT: ("mismatches", "elements", "{:,.0f}"),
    Mode.FLOAT64: ("float64", "max error / RMS", "{:.1e}"),
    Mode.END_TO_END: ("end-to-end", "error vs HF's", "{:.2f}"),
    Mode.PER_OP: ("per-op", "error vs HF's", "{:.2f}"),
}
"""For each mode the column's name, the meaning of its numbers, and their format."""


def _rows(report: Report) -> Table:
    """Return a line for each block, and for each tap of a block that differs."""
    modes = [mode for mode in _COLUMNS if any(row.mode is mode for row in report.results)]
    lines: list[list[str | Text]] = []
    for name, rows in _folded(report.results):
        for backend in report.plan.per_backend:
            chosen = [row for row in rows if row.backend == backend]
            if chosen:
                cells = [_cell([row for row in chosen if row.mode is mode]) for mode in modes]
                passed = all(row.status is Status.PASS for row in chosen)
                lines.append([name, backend, *cells, "ok" if passed else "DIFFERS"])
    bounds = [_bound([row for row in report.results if row.mode is mode]) for mode in modes]
    lines.append([])
    lines.append([Text(cell, style="dim") for cell in ("bound", "", *bounds)])
    lines.append([Text(cell, style="dim") for cell in ("", "", *(_COLUMNS[m][1] for m in modes))])
    names = ("tap", "backend", *(_COLUMNS[mode][0] for mode in modes), "")
    return table(names, lines, right=range(2, 2 + len(modes)))


def _folded(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return (name, rows) for each line, in network order."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        parts = row.tap.split(".")
        group = ".".join(parts[:2]) if parts[0] == "h" else parts[0]
        groups.setdefault(group, {}).setdefault(row.tap, []).append(row)
    lines: list[tuple[str, list[Row]]] = []
    seen: list[list[str]] = []  # the operations at fault of each block that has lines of its own
    alike: list[str] = []  # blocks that fail like one of these, in the last line
    for group, taps in groups.items():
        fault = [tap.split(".", 2)[-1] for tap in taps if _differs({tap: taps[tap]}, Mode.PER_OP)]
        together = [row for of_tap in taps.values() for row in of_tap]
        if len(taps) == 1 or (_differs(taps) and (not seen or (fault and fault not in seen))):
            lines += _runs(taps)
            seen += [fault] * (len(taps) > 1)
            alike = []
        elif not _differs(taps):
            lines.append((f"{group} ({len(taps)})", together))
            alike = []
        else:
            before = lines.pop()[1] if alike else []
            alike.append(group)
            name = group if len(alike) == 1 else f"{alike[0]} to {group}"
            count = len({row.tap for row in (*before, *together)})
            lines.append((f"{name} ({count})", before + together))
    return lines


_RUN = 3
"""Right operations in a row that are one line in a block with a wrong one."""


def _runs(taps: Mapping[str, list[Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Yield a line for each tap, or for several right ones in a row."""
    for fails, run in groupby(taps, key=lambda tap: _differs({tap: taps[tap]})):
        names = list(run)
        if fails or len(names) < _RUN:
            yield from ((name, taps[name]) for name in names)
        else:
            last = names[-1].split(".", 2)[-1]
            rows = [row for name in names for row in taps[name]]
            yield f"{names[0]} to {last} ({len(names)})", rows


def _differs(taps: Mapping[str, Sequence[Row]], mode: Mode | None = None) -> bool:
    """Return whether a row of some taps does not pass, in one mode or in any."""
    return any(
        row.status is not Status.PASS and mode in (None, row.mode)
        for rows in taps.values()
        for row in rows
    )


def _cell(rows: Sequence[Row]) -> Text:
    """Return the worst number of some rows, or the status that kept them from having one."""
    stopped = [row for row in rows if row.required_tolerance is None]
    if stopped:
        return Text(stopped[0].status.value)
    if not rows:
        return Text()
    worst = max(row.required_tolerance or 0.0 for row in rows)
    failed = any(row.status is not Status.PASS for row in rows)
    return Text(_COLUMNS[rows[0].mode][2].format(worst), style="bold red" if failed else "")


def _bound(rows: Sequence[Row]) -> str:
    """Return the bound that most of the rows have."""
    bounds = [row.bound for row in rows if row.bound] or [0.0]
    return f"{max(bounds, key=bounds.count):g}"


def _divergence(first: FirstDivergence, rows: Sequence[Row]) -> Iterator[RenderableType]:
    """Yield the facts about the first failing tap."""
    row = first.row
    values = f"ours {_number(row.value_ours)}, {row.against} {_number(row.value_against)}"
    # Hugging Face's own error is in rows against the oracle alone.
    theirs = next(
        (
            other.error_reference
            for other in rows
            if (other.tap, other.mode, other.backend) == (row.tap, row.mode, row.backend)
            and other.error_reference is not None
        ),
        None,
    )
    run = dict.fromkeys([row.backend, row.dtype, row.mode])  # the float64 mode runs in float64
    yield Text()
    yield Text(f"first divergence: {first.tap}", style="bold red")
    error, amplification = row.error_ours, row.amplification
    pairs = {
        "backend": f"{', '.join(run)}, against {row.against}",
        "found": first.why,
        "shape": row.shape and str(list(row.shape)),
        "worst at": row.worst_index and f"{list(row.worst_index)}: {values}",
        "errors": error and f"ours {error:.6g}, Hugging Face's {_number(theirs)}",
        "ratio": row.ratio and f"{row.ratio:.6g} (bound {row.bound:g})",
        "amplification": amplification and f"{amplification:.6g} times the error of its inputs",
        "required tolerance": row.required_tolerance and _number(row.required_tolerance),
        "likely cause": first.suspects,
    }
    yield facts((name, fact) for name, fact in pairs.items() if fact)
    yield Text()


def _wrong(wrong: WrongOperation, title: str) -> Iterator[RenderableType]:
    """Yield what a candidate computes otherwise than the reference."""
    place = wrong.place or "no operation takes its inputs"
    yield Text.assemble("\n", (f"{title}: {place}", "bold red"))
    pairs = {
        "code": wrong.code,
        "reference tap": wrong.tap,
        "diagnosis": wrong.diagnosis,
        "fix": wrong.fix,
    }
    yield facts((f"  {name}", fact) for name, fact in pairs.items() if fact)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


_EFFECTS = {
    "loss_ours": "loss, ours",
    "loss_oracle": "loss, oracle",
    "log_softmax_largest": "largest change of a log-probability",
    "kl_largest": "largest KL divergence of a position",
    "top1_agreement": "same first choice",
    "top5_agreement": "same first five",
    "rank_change_largest": "largest change of rank in the first five",
}


def _consequences(by_backend: Mapping[str, Mapping[str, float]]) -> Iterator[RenderableType]:
    yield Text()
    yield table(
        ("effect on the logits", *by_backend),
        [
            [label, *(f"{values[name]:.8g}" for values in by_backend.values())]
            for name, label in _EFFECTS.items()
        ],
        right=range(1, len(by_backend) + 1),
        folds=(0,),
    )


def _explanation(explanation: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[RenderableType]:
    """Yield the histogram of errors, the worst elements, and the amplification of the tap."""
    tap = str(explanation["tap"])
    yield Text(f"\nerrors at {tap}", style="bold")
    for name, seen in explanation["runs"].items():
        yield Text(f"\n{name}: absolute differences from the oracle")
        counts: Mapping[str, int] = seen["histogram"]
        most = max([*counts.values(), 1])
        bars = [(f"  {at}", f"{n:,}", "#" * round(40 * n / most)) for at, n in counts.items()]
        yield table((), bars)
        for worst in seen["worst"]:
            yield Text(
                f"  {worst['index']}  ours {worst['ours']:.9g}  oracle {worst['oracle']:.9g}"
                f"  difference {worst['difference']:.3g}"
            )
    lines = [
        f"  {row.backend}, {row.dtype} {row.mode} against {row.against}: error "
        f"{_number(row.error_ours)}, {_number(row.amplification)} times that of its inputs"
        for row in rows
        if row.tap == tap
    ]
    yield Text("\n" + "\n".join(lines))


def _reason(reason: Reason) -> RenderableType:
    words = f"\n  where  {reason.where}\n  fix    {reason.fix}"
    return Text.assemble("\n", (reason.what, "bold"), words)


_THINGS = {
    "layerwise": "taps on {}",
    "gradients": "gradients on {}",
    "weights": "tensors of {}",
    "tokens": "strings with {}",
    "doctor": "settings",
    "training": "quantities on {}",
    "generation": "rules, texts and searches",
    "golden": "published numbers",
}


def _last_line(report: Report) -> RenderableType:
    things = _THINGS.get(report.check, "comparisons on {}")
    counted = ", ".join(
        f"{done} of {planned} {things.format(backend)}"
        for backend, (planned, done) in report.plan.per_backend.items()
    )
    checked = "checked" if report.findings else "compared"
    first = report.first_divergence
    where = f", first divergence at {first.tap}" if first is not None else ""
    return Text.assemble(
        "\n",
        (report.verdict.value.upper(), _STYLES[report.verdict]),
        f"  {report.summary or f'{counted} {checked}{where}'}",
    )
