"""A check of training for a person: a line for each quantity of each form, over all its steps."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from parity.compare import Status
from parity.results import Mode, Report, Row
from parity.training.places import parsed


def training_table(report: Report) -> Table:
    """Return the table, in the order in which a step makes its quantities."""
    modes = [mode for mode in _FORMS if any(row.mode is mode for row in report.results)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("form", "quantity", "path"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", *(mode.value for mode in modes)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for (form, quantity, attention), rows in _grouped(report.results).items():
        cells = [_worst([row for row in rows if row.mode is mode], mode) for mode in modes]
        table.add_row(form, quantity, escape(attention), str(len(rows)), *cells, _mark(rows))
    table.add_row()
    table.add_row("", "", "", "", *[_UNITS[mode] for mode in modes], style="dim")
    return table


_FORMS = {Mode.IDENTITY: "{:.1e}", Mode.PROPAGATED: "{:.2f}"}
_UNITS = {Mode.IDENTITY: "float64, max / RMS", Mode.PROPAGATED: "ours / HF's error"}


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return the rows of each form, quantity and path."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        place = parsed(row.tap)
        groups.setdefault((place.form, place.quantity, row.attention), []).append(row)
    return groups


def _worst(rows: Sequence[Row], mode: Mode) -> str:
    """Return the worst number of some rows, or the status that kept one from having any."""
    stopped = [row.status.value for row in rows if row.minimum_tolerance is None]
    if stopped or not rows:
        return stopped[0] if stopped else ""
    return _FORMS[mode].format(max(row.minimum_tolerance or 0.0 for row in rows))


def _mark(rows: Sequence[Row]) -> str:
    """Return whether all agree, and from which step on they do not."""
    steps = [parsed(row.tap).step for row in rows if row.status is not Status.PASS]
    return f"[bold red]DIFFERS from step {min(steps)}[/]" if steps else "[green]ok[/]"
