"""Rows of reports side by side for a person: verdicts, what differs, what moved and how far."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.findings import Drift
from parity.drift.rows import DriftRow
from parity.report.text_drift_blocks import blocks
from parity.report.text_drift_moves import moved
from parity.report.text_drift_numbers import short
from parity.results import Report, Verdict
from parity.tolerances import Bounds

_VERSIONS = ("python", "torch", "transformers")

_WORDS = {
    Verdict.PASS: ("pass", "green"),
    Verdict.FAIL: ("FAIL", "bold red"),
    Verdict.ERROR: ("ERROR", "bold red"),
    Verdict.INCONCLUSIVE: ("no verdict", "bold yellow"),
    None: ("not run", "bold yellow"),
}

_ACROSS = 5
"""Checks that one table has room for."""


_NUMBERS = (
    f"identity: float64, largest difference over RMS, at most {short(Bounds().identity)}; "
    "ratio: ours / HF's error"
)


def render_drift(report: Report, drift: Drift) -> Iterator[RenderableType]:
    """Yield the rows, their verdicts, what differs between them, and what moved."""
    rows = [row for row in report.results if isinstance(row, DriftRow)]
    checks = list(dict.fromkeys(row.tap for row in rows))
    yield _rows(drift)
    for start in range(0, len(checks), _ACROSS):
        yield Text()
        yield _verdicts(rows, checks[start : start + _ACROSS], drift)
    yield Text(_NUMBERS, style="dim")
    yield from _differences(drift)
    yield from moved(drift)
    yield from blocks(drift)
    for note in drift.notes:
        yield Text(f"\nnote: {note}")


def closing(report: Report, drift: Drift) -> Text:
    """Return the last line: the verdict, and of how many reports it is."""
    plan, reports = report.plan, f"{report.plan.planned} reports"
    colour = {Verdict.PASS: "green", Verdict.FAIL: "red"}.get(report.verdict, "yellow")
    return Text.assemble(
        "\n",
        (report.verdict.value.upper(), f"bold {colour}"),
        f"  {plan.compared} of {reports} laid side by side, in {len(drift.rows)} rows",
    )


def _rows(drift: Drift) -> Table:
    """Return the table of what the rows are; a long name takes more lines, and is not cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("row", overflow="fold")
    for name in _VERSIONS:
        table.add_column(name, no_wrap=True)
    for number, row in enumerate(drift.rows, 1):
        versions = [row.environment.get(name, "") for name in _VERSIONS]
        if not row.environment:
            versions[0] = "not run"
        table.add_row(*map(Text, (str(number), row.label, *versions)))
    return table


def _verdicts(rows: Sequence[DriftRow], checks: Sequence[str], drift: Drift) -> Table:
    """Return the table of verdicts: each with the worst identity error and the worst ratio."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    for check in checks:
        table.add_column(Text(check), no_wrap=True)
    for number, row in enumerate(drift.rows, 1):
        of_it = {entry.tap: entry for entry in rows if entry.attention == row.label}
        table.add_row(str(number), *(_cell(of_it[check]) for check in checks))
    return table


def _cell(row: DriftRow) -> Text:
    word, style = _WORDS[row.verdict]
    identity = "" if row.error_ours is None else f" {short(row.error_ours)}"
    ratio = "" if row.ratio is None else f" {row.ratio:.2f}"
    return Text.assemble((word, style), f"{identity}{ratio}")


def _differences(drift: Drift) -> Iterator[Text]:
    """Yield what differs between the rows, but for the versions that stand in the first table."""
    numbers = {row.label: str(number) for number, row in enumerate(drift.rows, 1)}
    lines = [
        f"{name}: "
        + ", ".join(
            f"{value} in {' '.join(numbers[label] for label in labels)}"
            for value, labels in values.items()
        )
        for name, values in drift.differences.items()
        if name not in _VERSIONS
    ]
    if lines:
        yield Text("\ndiffers besides", style="bold")
        yield from (Text(f"  {line}") for line in lines)
