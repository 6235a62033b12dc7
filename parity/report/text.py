"""A report for a person: one table in network order, and the first divergence opened up.

Blocks are folded into one line each. A block is written out where an operation of its own is
wrong: the first that differs, and any with a tap that fails on clean input. What only passes an
earlier difference on stays folded, and is marked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parity.checks.golden.rows import GoldenRow
from parity.checks.tokens.check import DifferenceRow, TokenRow
from parity.checks.training.steps import parse_quantity
from parity.core.metrics import Status
from parity.core.results import Finding, FirstDivergence, Mode, Reason, Report, Row, Verdict
from parity.report.drift_table import closing, render_drift
from parity.report.golden_table import render_goldens

# What follows from the logits for a person: loss, probabilities and rankings.


_CONSEQUENCE_LABELS = {
    "loss_ours": "loss, ours",
    "loss_oracle": "loss, oracle",
    "log_softmax_largest": "largest change of a log-probability",
    "kl_largest": "largest KL divergence of a position",
    "top1_agreement": "same first choice",
    "top5_agreement": "same first five",
    "rank_change_largest": "largest change of rank in the first five",
}


def render_consequences(by_path: Mapping[str, Mapping[str, float]]) -> RenderableType:
    """Return what follows for loss, probabilities and rankings."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("effect on the logits")
    for path in by_path:
        table.add_column(path, justify="right", no_wrap=True)
    for name, label in _CONSEQUENCE_LABELS.items():
        table.add_row(label, *[f"{values[name]:.8g}" for values in by_path.values()])
    return Group(Text(), table)


# A comparison of tokenizers for a person: a line a source, and every difference with its cause.


_SHOWN = 2
"""Differences of one source and step that are written out; the rest are in the JSON."""


def render_tokens(report: Report) -> Iterator[RenderableType]:
    """Yield the heading, the table, what was not compared, and the differences."""
    yield _tokens_heading(report)
    yield _tokens_table([row for row in report.results if isinstance(row, TokenRow)])
    for entry in report.plan.exempt:
        yield Text(f"not compared, {entry['tap']}: {entry['reason']}")
    differences = [row for row in report.results if isinstance(row, DifferenceRow)]
    for tap in dict.fromkeys(row.tap for row in differences):
        of_it = [row for row in differences if row.tap == tap]
        yield from map(_difference, of_it[:_SHOWN])
        if len(of_it) > _SHOWN:
            yield Text(f"and {len(of_it) - _SHOWN} more of {tap}; --format json has them all")


def _tokens_heading(report: Report) -> RenderableType:
    vocabulary: Mapping[str, Any] = report.identity.get("vocabulary", {})
    lines = [f"vocabulary  {vocabulary.get('source', 'unknown')}"]
    if vocabulary:
        standing = "as published" if vocabulary["released"] else "not the released one"
        lines.append(
            f"            {vocabulary['tokens']:,} tokens, {vocabulary['merges']:,} merges, digest "
            f"{vocabulary['digest'][:16]}…, {standing}"
        )
    said = (f"{key} {value}" for key, value in report.inputs.items())
    packages = report.identity.get("packages", {})
    versions = (f"{name} {number}" for name, number in packages.items())
    return Text("\n".join([*lines, f"strings     {', '.join(said)}", _on(", ".join(versions))]))


def _on(packages: str) -> str:
    return f"environment {packages}\n"


def _tokens_table(rows: Sequence[TokenRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source", no_wrap=True)
    table.add_column("reference", no_wrap=True)
    for name in ("strings", "characters", "removed", "ids", "unknown", "mismatches"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row.tap),
            row.against + ("" if row.places else " (ids)"),
            *(f"{number:,}" for number in (row.strings, row.characters)),
            "-" if row.dropped is None else f"{row.dropped:,}",
            f"{row.ids:,}",
            f"{row.unknown / row.ids:.2%}" if row.ids else "-",
            f"{row.error_ours or 0:,.0f}",
            "[green]ok[/]" if row.status is Status.PASS else "[bold red]DIFFERS[/]",
        )
    return table


def _difference(row: DifferenceRow) -> RenderableType:
    """Return a difference: the step, the shortest string, both sides' words and ids."""
    cause = row.cause
    facts = (
        ("why", cause.why),
        ("character", cause.character),
        ("shortest", cause.text),
        ("ours", f"{' '.join(cause.words_ours)}  {list(cause.ids_ours)}"),
        (row.against, f"{' '.join(cause.words_theirs)}  {list(cause.ids_theirs)}"),
        ("strings", f"{row.strings} of those taken apart"),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        grid.add_row(name, escape(fact))
    return Group(Text(f"\n{row.tap}", style="bold red"), grid)


# The first failing tap of a report for a person: everything that is known about it.


def render_divergence(first: FirstDivergence, rows: Sequence[Row]) -> RenderableType:
    """Return everything known about the first failing tap."""
    row = first.row
    facts = [
        ("backend", f"{row.backend}, {row.dtype}, {row.mode}, against {row.against}"),
        ("found", first.why),
        ("shape", str(list(row.shape))),
        ("worst at", _worst_element(row)),
        (
            "errors",
            f"ours {format_number(row.error_ours)}, Hugging Face's {_error_of_theirs(row, rows)}",
        ),
        ("ratio", f"{format_number(row.ratio)} (bound {row.bound:g})"),
        ("amplification", f"{format_number(row.amplification)} times the error of its inputs"),
        ("required tolerance", format_number(row.required_tolerance)),
        ("likely cause", first.suspects),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        grid.add_row(name, escape(fact))
    title = Text(f"first divergence: {first.tap}", style="bold red")
    return Group(Text(), title, grid, Text())


def _worst_element(row: Row) -> str:
    """Return where the largest difference is, and both values there."""
    values = (
        f"ours {format_number(row.value_ours)}, {row.against} {format_number(row.value_against)}"
    )
    return f"{list(row.worst_index)}: {values}"


def _error_of_theirs(row: Row, rows: Sequence[Row]) -> str:
    """Return Hugging Face's own error at the tap, which only rows against the oracle hold."""
    same = [
        other.error_reference
        for other in rows
        if (other.tap, other.mode, other.backend) == (row.tap, row.mode, row.backend)
        and other.error_reference is not None
    ]
    return format_number(same[0] if same else None)


def format_number(value: float | None) -> str:
    """Return a number as it stands in prose; what is not there is said."""
    return "none" if value is None else f"{value:.6g}"


# One tap of a report for a person, closely: histogram, worst elements, and what fed it.


def render_explanation(explanation: Mapping[str, object], rows: Sequence[Row]) -> RenderableType:
    """Return the histogram of errors, the worst elements, and what fed the tap."""
    tap = str(explanation["tap"])
    parts: list[RenderableType] = [Text(), Text(f"a close look at {tap}", style="bold")]
    runs = explanation["runs"]
    assert isinstance(runs, Mapping)  # noqa: S101 - made by parity.core.explain
    for name, seen in runs.items():
        parts.append(Text(f"\n{name}: absolute differences from the oracle"))
        parts.append(_histogram(seen["histogram"]))
        parts += [
            Text(
                f"  {worst['index']}  ours {worst['ours']:.9g}  oracle {worst['oracle']:.9g}"
                f"  apart {worst['difference']:.3g}"
            )
            for worst in seen["worst"]
        ]
    parts.append(_fed(tap, rows))
    return Group(*parts)


def _histogram(counts: Mapping[str, int]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    most = max([*counts.values(), 1])
    for decade, count in counts.items():
        grid.add_row(f"  {decade}", f"{count:,}", "#" * round(40 * count / most))
    return grid


def _fed(tap: str, rows: Sequence[Row]) -> RenderableType:
    """Return the rows of the tap itself, with how much each amplified its inputs' error."""
    lines = [
        f"  {row.backend}, {row.dtype} {row.mode} against {row.against}: error "
        f"{format_number(row.error_ours)}, "
        f"{format_number(row.amplification)} times that of its inputs"
        for row in rows
        if row.tap == tap
    ]
    return Text("\n" + "\n".join(lines))


# A check of training for a person: a line for each quantity of each form, over all its steps.


def training_table(report: Report) -> Table:
    """Return the table, in the order in which a step makes its quantities."""
    modes = [mode for mode in _FORMS if any(row.mode is mode for row in report.results)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("form", "quantity", "backend"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", *(mode.value for mode in modes)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for (form, quantity, backend), rows in _grouped(report.results).items():
        cells = [_worst([row for row in rows if row.mode is mode], mode) for mode in modes]
        table.add_row(form, quantity, escape(backend), str(len(rows)), *cells, _training_mark(rows))
    table.add_row()
    table.add_row("", "", "", "", *[_UNITS[mode] for mode in modes], style="dim")
    return table


_FORMS = {Mode.FLOAT64: "{:.1e}", Mode.END_TO_END: "{:.2f}"}
_UNITS = {Mode.FLOAT64: "max error / RMS", Mode.END_TO_END: "error vs HF's"}


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return the rows of each form, quantity and path."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        place = parse_quantity(row.tap)
        groups.setdefault((place.variant, place.quantity, row.backend), []).append(row)
    return groups


def _worst(rows: Sequence[Row], mode: Mode) -> str:
    """Return the worst number of some rows, or the status that kept one from having any."""
    stopped = [row.status.value for row in rows if row.required_tolerance is None]
    if stopped or not rows:
        return stopped[0] if stopped else ""
    return _FORMS[mode].format(max(row.required_tolerance or 0.0 for row in rows))


def _training_mark(rows: Sequence[Row]) -> str:
    """Return whether all agree, and from which step on they do not."""
    steps = [parse_quantity(row.tap).step for row in rows if row.status is not Status.PASS]
    return f"[bold red]DIFFERS from step {min(steps)}[/]" if steps else "[green]ok[/]"


_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ERROR: "bold red",
}

_COLUMNS = {
    Mode.EXACT: ("mismatches", "elements"),
    Mode.FLOAT64: ("float64", "max error / RMS"),
    Mode.END_TO_END: ("end-to-end", "error vs HF's"),
    Mode.PER_OP: ("per-op", "error vs HF's"),
}

_FORMATS = {
    Mode.EXACT: "{:,.0f}",
    Mode.FLOAT64: "{:.1e}",
    Mode.END_TO_END: "{:.2f}",
    Mode.PER_OP: "{:.2f}",
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
    lines = [f"weights      {escape(str(weights.get('source', 'unknown')))}"]
    if "sha256" in weights:
        lines.append(
            f"             {escape(weights['revision'])}, sha256 {weights['sha256'][:16]}…"
        )
    lines += [f"             {_file(file)}" for file in weights.get("files", ())]
    lines.append(
        "inputs       "
        + ", ".join(
            f"{key} {escape(str(value))}"
            for key, value in report.inputs.items()
            if key != "not_run"
        )
    )
    for path, why in report.inputs.get("not_run", {}).items():
        lines.append(f"not run      {escape(path)}: {escape(why)}")
    settings = report.environment
    lines.append(
        "environment  "
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
    table.add_column("backend", no_wrap=True)
    for mode in modes:
        table.add_column(_COLUMNS[mode][0], justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, rows in _folded(report.results):
        for backend in report.plan.per_backend:
            chosen = [row for row in rows if row.backend == backend]
            if chosen:
                cells = [_cell([row for row in chosen if row.mode is mode]) for mode in modes]
                table.add_row(escape(name), backend, *cells, _mark(chosen))
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
        at_fault = group == first or _differs(taps, Mode.PER_OP)
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
    stopped = [row for row in rows if row.required_tolerance is None]
    if stopped:
        return stopped[0].status.value
    if not rows:
        return ""
    worst = max(row.required_tolerance or 0.0 for row in rows)
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
    marks = {True: "[green]ok[/]", False: "[bold red]PROBLEM[/]", None: ""}
    for finding in findings:
        why = f" ({finding.why})" if finding.fit is False else ""
        table.add_row(escape(finding.name), escape(finding.found + why), marks[finding.fit])
    return table


def _reason(reason: Reason) -> RenderableType:
    return Text.from_markup(
        f"\n[bold]{escape(reason.what)}[/]\n  where  {escape(reason.where)}"
        f"\n  fix    {escape(reason.fix)}"
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
        for path, (planned, done) in report.plan.per_backend.items()
    )
    answer = f"[{_STYLES[report.verdict]}]{report.verdict.value.upper()}[/]"
    checked = "looked at" if report.findings else "compared"
    first = report.first_divergence
    where = f", first divergence at {escape(first.tap)}" if first is not None else ""
    return Text.from_markup(f"\n{answer}  {counted} {checked}{where}")
