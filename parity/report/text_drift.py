"""Rows of reports side by side for a person: verdicts, what differs, what moved and how far."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from parity.drift.findings import Drift
from parity.drift.rows import DriftRow
from parity.report.text_drift_blocks import blocks
from parity.report.text_drift_columns import tables
from parity.report.text_drift_moves import moved
from parity.report.text_drift_numbers import arrow, short
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

_NUMBERS = (
    f"identity: float64, largest difference over RMS, at most {short(Bounds().identity)}; "
    "ratio: ours / HF's error"
)


def render_drift(report: Report, drift: Drift) -> Iterator[RenderableType]:
    """Yield the rows, their verdicts, what differs between them, and what moved."""
    rows = [row for row in report.results if isinstance(row, DriftRow)]
    checks = list(dict.fromkeys(row.tap for row in rows))
    yield _rows(drift)
    for table in _verdicts(rows, checks, drift):
        yield Text()
        yield table
    yield Text(_NUMBERS, style="dim")
    yield from _differences(drift)
    yield from moved(drift)
    yield from blocks(drift)
    yield from _notes(drift)


def _notes(drift: Drift) -> Iterator[Text]:
    for note in drift.notes:
        pairs = ", ".join(arrow(drift, drift.pairs[pair]) for pair in note.pairs)
        yield Text(f"\nnote on {pairs}: {note.what}")


def closing(report: Report, drift: Drift) -> Text:
    """Return the last line: the verdict, of how many reports, and of how many what moved."""
    plan, rows = report.plan, len(drift.rows)
    colour = {Verdict.PASS: "green", Verdict.FAIL: "red"}.get(report.verdict, "yellow")
    known = sum(isinstance(row, DriftRow) and row.fingerprints > 0 for row in report.results)
    return Text.assemble(
        "\n",
        (report.verdict.value.upper(), f"bold {colour}"),
        f"  {plan.compared} of {_counted(plan.planned, 'report')} laid side by side, "
        f"in {_counted(rows, 'row')}; {known} with fingerprints",
    )


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + "s" * (number != 1)


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


def _verdicts(rows: Sequence[DriftRow], checks: Sequence[str], drift: Drift) -> Iterator[Table]:
    """Yield the tables of verdicts: each with the worst identity error and the worst ratio."""
    found = {(row.attention, row.tap): row for row in rows}
    numbers = [str(number) for number, _ in enumerate(drift.rows, 1)]

    def cell(line: int, column: int) -> Text:
        return _cell(found[drift.rows[line].label, checks[column]])

    yield from tables(numbers, checks, cell)


def _cell(row: DriftRow) -> Text:
    word, style = _WORDS[row.verdict]
    identity = "" if row.error_ours is None else f" {short(row.error_ours)}"
    ratio = "" if row.ratio is None else f" {row.ratio:.2f}"
    return Text.assemble((word, style), f"{identity}{ratio}")


def _differences(drift: Drift) -> Iterator[RenderableType]:
    """Yield what differs between the rows, but for the versions that stand in the first table."""
    numbers = {row.label: str(number) for number, row in enumerate(drift.rows, 1)}
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for name in (name for name in drift.differences if name not in _VERSIONS):
        values = drift.differences[name]
        for place, (value, bare) in enumerate(zip(values, _bare(list(values)), strict=True)):
            rows = " ".join(numbers[label] for label in values[value])
            table.add_row(*map(Text, ("" if place else f"  {name}", bare, f"in {rows}")))
    if table.row_count:
        yield Text("\ndiffers besides", style="bold")
        yield table


_DIGEST = "sha256 "


def _bare(values: Sequence[str]) -> list[str]:
    """Return values as they are; of the code's the digests alone, where the versions are one."""
    parts = [value.partition(_DIGEST) for value in values]
    alike = len({(version, found) for version, found, _ in parts}) == 1
    return [
        digest if alike and found else value
        for value, (_, found, digest) in zip(values, parts, strict=True)
    ]
