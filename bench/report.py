"""The text report of a run, its comparison with a baseline, and the picture."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from bench.baseline import MARGIN, Change, Comparison
from bench.results import NOISY, Outcome, Series, Spread, Status
from parity.errors import EnvironmentUnfitError

_STYLES = {
    Status.MET: "green",
    Status.MISSED: "bold red",
    Status.WRONG: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.OOM: "yellow",
}
_CHANGES = {Change.WORSE: "bold red", Change.GONE: "yellow", Change.BETTER: "green"}

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
}


def format_quantity(value: float, unit: str) -> str:
    """Return a quantity in the largest unit in which it is at least 1."""
    scales = _SCALES[unit]
    scale, name = next((pair for pair in scales if value >= pair[0]), scales[-1])
    return f"{value / scale:.3g} {name}"


def format_spread(spread: Spread | None) -> str:
    """Return a median and its quartiles."""
    if spread is None:
        return ""
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def render(
    outcomes: Sequence[Outcome], machine: Mapping[str, str], notes: Sequence[str], console: Console
) -> None:
    """Print the machine, a table of the rows, reasons and notes."""
    about = ", ".join(f"{key} {machine[key]}" for key in sorted(machine))
    console.print(escape(about), highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("row", "ours", "theirs", "ratio (quartiles)", "target", "outcome"):
        justify: JustifyMethod = "left" if name in {"row", "outcome"} else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "row")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    console.print(table, highlight=False)
    reasons = [f"{row.status}: {row.name}: {row.why}" for row in outcomes if row.why]
    for line in (*reasons, *notes, summary(outcomes)):
        console.print(escape(line), highlight=False)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    style = _STYLES.get(outcome.status)
    word = outcome.status.upper() if outcome.status is Status.MISSED else str(outcome.status)
    word = f"[{style}]{word}[/]" if style else word
    figures = [
        format_quantity(found.median, outcome.unit) if found is not None else ""
        for found in (outcome.ours, outcome.theirs)
    ]
    bound = "" if outcome.bound is None else f"≤ {outcome.bound:.2f}"
    noisy = ", noisy" if outcome.noisy else ""
    return escape(outcome.name), *figures, format_spread(outcome.ratio), bound, word + noisy


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the number of rows by status, in one line."""
    counts = {status: sum(outcome.status is status for outcome in outcomes) for status in Status}
    words = [f"{count} {status}" for status, count in counts.items() if count]
    noisy = sum(outcome.noisy for outcome in outcomes)
    if noisy:
        words.append(f"{noisy} noisy: quartiles further apart than {NOISY:.0%} of the median")
    return ", ".join(words) or "no rows"


def render_changes(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print the change of each row since the baseline."""
    table = Table(box=None, pad_edge=False)
    for name in ("row", "baseline", "now", ""):
        table.add_column(name, overflow="fold")
    for each in comparisons:
        style = _CHANGES.get(each.change)
        word = f"[{style}]{each.change}[/]" if style else str(each.change)
        table.add_row(escape(each.name), format_spread(each.then), format_spread(each.now), word)
    console.print(table, highlight=False)
    rule = f"worse: the lower quartile is more than {MARGIN:.0%} above the baseline's upper one"
    console.print(rule, highlight=False)


LIMIT = "useful operations at the matrix rate"
"""Label of the dashed line: a lower bound of every kernel's time."""


def figure(series: Sequence[Series]) -> Any:  # noqa: ANN401 - matplotlib's Figure, without its import
    """Return a figure of time over length: a panel per work, a line with quartiles per kernel.

    A work with a single length is left out if another has several.

    Raises:
        EnvironmentUnfitError: matplotlib is not installed, or nothing was timed.
    """
    if not series:
        raise EnvironmentUnfitError(
            "nothing to draw: no attention kernel was timed",
            where="--picture",
            fix="select attention rows: --rows 'core/*'",
        )
    works = list(dict.fromkeys(point.work for point in series))
    lengths = {work: {point.time for point in series if point.work == work} for work in works}
    works = [work for work in works if len(lengths[work]) > 1] or works
    colours = {name: f"C{at}" for at, name in enumerate(dict.fromkeys(p.subject for p in series))}
    made = figure_class()(figsize=(6.0 * len(works), 4.5), layout="constrained")
    panels = made.subplots(1, len(works), squeeze=False)[0]
    for panel, work in zip(panels, works, strict=True):
        _draw(panel, work, [point for point in series if point.work == work], colours)
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines()}
    made.legend(lines.values(), lines.keys(), loc="outside right upper")  # it would hide lines
    return made


def _draw(
    panel: Any,  # noqa: ANN401 - as above
    work: str,
    points: Sequence[Series],
    colours: Mapping[str, str],
) -> None:
    for subject in dict.fromkeys(point.subject for point in points):
        mine = sorted((p for p in points if p.subject == subject), key=lambda p: p.time)
        times = [point.time for point in mine]
        median, low, high = (
            [1e3 * getattr(p.seconds, part) for p in mine] for part in ("median", "low", "high")
        )
        panel.plot(times, median, "o-", label=subject, color=colours[subject])
        panel.fill_between(times, low, high, color=colours[subject], alpha=0.2)
    least = {point.time: 1e3 * point.seconds.median * point.ceiling for point in points}
    times = sorted(least)
    panel.plot(times, [least[time] for time in times], "k--", label=LIMIT)
    panel.set(title=work, xlabel="tokens", ylabel="milliseconds", xscale="log", yscale="log")
    panel.set_xticks(times, [str(time) for time in times], rotation=90)
    panel.set_xticks([], minor=True)


def figure_class() -> Any:  # noqa: ANN401 - as above
    """Return matplotlib's `Figure`.

    Raises:
        EnvironmentUnfitError: It is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        fix = "pip install 'gpt1-parity[plot]'"
        what = "matplotlib is not installed"
        raise EnvironmentUnfitError(what, where="--picture", fix=fix) from error


def draw(series: Sequence[Series], path: Path) -> None:
    """Write the picture in the format of its suffix (.svg, .png, .pdf)."""
    figure(series).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
