"""A report for a person: one table in network order, and the first divergence opened up.

Blocks are folded into one line each. A block is written out where an operation of its own is
wrong: the first that differs, and any with a tap that fails on clean input. What only passes an
earlier difference on stays folded, and is marked.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.compare import Status
from parity.goldens.rows import GoldenRow
from parity.report.text_consequences import render_consequences
from parity.report.text_divergence import render_divergence
from parity.report.text_drift import closing, render_drift
from parity.report.text_explanation import render_explanation
from parity.report.text_golden import render_goldens
from parity.report.text_tokens import render_tokens
from parity.report.text_training import training_table
from parity.results import Finding, Mode, Reason, Report, Row, Verdict

_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold red",
}

_COLUMNS = {
    Mode.EXACT: ("differing", "elements"),
    Mode.IDENTITY: ("identity", "float64, max / RMS"),
    Mode.PROPAGATED: ("propagated", "ours / HF's error"),
    Mode.ISOLATED: ("isolated", "ours / HF's error"),
}

_FORMATS = {
    Mode.EXACT: "{:,.0f}",
    Mode.IDENTITY: "{:.1e}",
    Mode.PROPAGATED: "{:.2f}",
    Mode.ISOLATED: "{:.2f}",
}


def render(report: Report, console: Console) -> None:
    """Print the report."""
    for part in _parts(report):
        console.print(part, highlight=False)


def _parts(report: Report) -> Iterable[RenderableType]:
    if report.drift is not None:
        yield from render_drift(report, report.drift)
        yield from map(_reason, report.reasons)
        yield closing(report, report.drift)
        return
    if report.check == "tokens":
        yield from render_tokens(report)
        yield from map(_reason, report.reasons)
        yield _verdict(report)
        return
    yield _heading(report)
    goldens = [row for row in report.results if isinstance(row, GoldenRow)]
    if goldens:
        yield from render_goldens(goldens, report.plan.exempt)
    elif report.results:
        yield training_table(report) if report.check == "training" else _table(report)
    if report.findings:
        yield _findings(report.findings)
    if report.first_divergence is not None and not goldens:
        yield render_divergence(report.first_divergence, report.results)
    if report.consequences:
        yield render_consequences(report.consequences)
    if report.explanation is not None:
        yield render_explanation(report.explanation, report.results)
    yield from (_reason(reason) for reason in report.reasons)
    yield _verdict(report)


def _heading(report: Report) -> RenderableType:
    weights = report.identity.get("weights", {})
    lines = [f"weights   {escape(str(weights.get('source', 'not stated')))}"]
    if "sha256" in weights:
        lines.append(f"          {escape(weights['revision'])}, sha256 {weights['sha256'][:16]}…")
    lines += [f"          {_file(file)}" for file in weights.get("files", ())]
    lines.append(
        "inputs    "
        + ", ".join(
            f"{key} {escape(str(value))}"
            for key, value in report.inputs.items()
            if key != "not_run"
        )
    )
    for path, why in report.inputs.get("not_run", {}).items():
        lines.append(f"not run   {escape(path)}: {escape(why)}")
    settings = report.environment
    lines.append(
        "run on    "
        + ", ".join(f"{name} {settings[name]}" for name in ("torch", "transformers", "threads"))
    )
    return Text.from_markup("\n".join(lines))


def _file(file: Mapping[str, Any]) -> str:
    """Return a file that weights were read from, and how it stands to the published ones."""
    standing = file["standing"]
    said = {"known": "as published", "unknown": "unknown provenance"}.get(standing, standing)
    return f"{escape(file['name'])}  {file['size']:,} bytes, sha256 {file['sha256'][:16]}…, {said}"


def _table(report: Report) -> Table:
    """Return the table: a line for each block, and each tap of a block that differs."""
    modes = [mode for mode in Mode if any(row.mode is mode for row in report.results)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tap", no_wrap=True)
    table.add_column("path", no_wrap=True)
    for mode in modes:
        table.add_column(_COLUMNS[mode][0], justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, rows in _folded(report.results):
        for attention in report.plan.per_path:
            chosen = [row for row in rows if row.attention == attention]
            if chosen:
                cells = [_cell([row for row in chosen if row.mode is mode]) for mode in modes]
                table.add_row(escape(name), attention, *cells, _mark(chosen))
    table.add_row()
    bounds = [_bound([row for row in report.results if row.mode is mode]) for mode in modes]
    table.add_row("bound", "", *bounds, style="dim")
    table.add_row("", "", *[_COLUMNS[mode][1] for mode in modes], style="dim")
    return table


def _folded(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return (name, rows) a line, in network order."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(_group(row.tap), {}).setdefault(row.tap, []).append(row)
    first = next((group for group, taps in groups.items() if _differs(taps)), None)
    lines = []
    for group, taps in groups.items():
        together = [row for tap_rows in taps.values() for row in tap_rows]
        at_fault = group == first or _differs(taps, Mode.ISOLATED)
        if len(taps) == 1 or at_fault:
            lines += list(taps.items())
        else:
            lines.append((f"{group} ({len(taps)})", together))
    return lines


def _differs(taps: Mapping[str, Sequence[Row]], mode: Mode | None = None) -> bool:
    """Return whether a row of some taps does not pass, in one mode or in any."""
    return any(
        row.status is not Status.PASS and mode in (None, row.mode)
        for rows in taps.values()
        for row in rows
    )


def _group(tap: str) -> str:
    """Return `h.3` for `h.3.mlp.gelu`, `embeddings` for `embeddings.tokens`."""
    parts = tap.split(".")
    return ".".join(parts[:2]) if parts[0] == "h" else parts[0]


def _cell(rows: Sequence[Row]) -> str:
    """Return the worst number of some rows, or the status that kept them from having one."""
    stopped = [row for row in rows if row.minimum_tolerance is None]
    if stopped:
        return stopped[0].status.value
    if not rows:
        return ""
    worst = max(row.minimum_tolerance or 0.0 for row in rows)
    failed = any(row.status is not Status.PASS for row in rows)
    number = _FORMATS[rows[0].mode].format(worst)
    return f"[bold red]{number}[/]" if failed else number


def _bound(rows: Sequence[Row]) -> str:
    """Return the bound that most of the rows have; the guard on peaks is named where it fails."""
    bounds = [row.bound for row in rows if row.status is Status.PASS] or [rows[0].bound]
    return f"{max(bounds, key=bounds.count):g}"


def _mark(rows: Sequence[Row]) -> str:
    if all(row.status is Status.PASS for row in rows):
        return "[green]ok[/]"
    return "[bold red]DIFFERS[/]"


def _findings(findings: Sequence[Finding]) -> Table:
    """Return what was looked at, a line each; what is unfit says what that would mean."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(no_wrap=True)
    marks = {True: "[green]ok[/]", False: "[bold red]UNFIT[/]", None: ""}
    for finding in findings:
        why = f" ({finding.why})" if finding.fit is False else ""
        table.add_row(escape(finding.name), escape(finding.found + why), marks[finding.fit])
    return table


def _reason(reason: Reason) -> RenderableType:
    return Text.from_markup(
        f"\n[bold]{escape(reason.what)}[/]\n  where  {escape(reason.where)}"
        f"\n  to do  {escape(reason.fix)}"
    )


_THINGS = {
    "layerwise": "taps on {}",
    "gradients": "gradients on {}",
    "weights": "tensors of {}",
    "tokens": "strings with {}",
    "doctor": "things",
    "training": "places on {}",
    "generation": "rules, texts and searches",
    "golden": "published numbers",
}


def _verdict(report: Report) -> RenderableType:
    thing = _THINGS[report.check]
    counted = ", ".join(
        f"{done} of {planned} {thing.format(path)}"
        for path, (planned, done) in report.plan.per_path.items()
    )
    answer = f"[{_STYLES[report.verdict]}]{report.verdict.value.upper()}[/]"
    checked = "looked at" if report.findings else "compared"
    first = report.first_divergence
    where = f", first divergence at {escape(first.tap)}" if first is not None else ""
    return Text.from_markup(f"\n{answer}  {counted} {checked}{where}")
