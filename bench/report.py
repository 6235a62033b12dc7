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

_COLUMNS = ("row", "ours", "theirs", "ratio (quartiles)", "target", "outcome")

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
    for name in _COLUMNS:
        left = name in {"row", "outcome"}
        justify: JustifyMethod = "left" if left else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "row")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    console.print(table, highlight=False)
    for outcome in outcomes:
        if outcome.why:
            console.print(f"{outcome.status}: {escape(outcome.name)}: {escape(outcome.why)}",
                          highlight=False)  # fmt: skip
    for line in (*notes, summary(outcomes)):
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
    works = _with_lines(series)
    colours = {name: f"C{at}" for at, name in enumerate(dict.fromkeys(p.subject for p in series))}
    made = _figure_class()(figsize=(6.0 * len(works), 4.5), layout="constrained")
    panels = made.subplots(1, len(works), squeeze=False)[0]
    for panel, work in zip(panels, works, strict=True):
        _draw(panel, work, [point for point in series if point.work == work], colours)
    return made


def _with_lines(series: Sequence[Series]) -> list[str]:
    """Return the works with several lengths; all works if none has."""
    works = list(dict.fromkeys(point.work for point in series))
    lengths = {work: {point.time for point in series if point.work == work} for work in works}
    return [work for work in works if len(lengths[work]) > 1] or works


def _draw(
    panel: Any,  # noqa: ANN401 - as above
    work: str,
    points: Sequence[Series],
    colours: Mapping[str, str],
) -> None:
    for subject in dict.fromkeys(point.subject for point in points):
        mine = sorted((p for p in points if p.subject == subject), key=lambda p: p.time)
        times = [point.time for point in mine]
        panel.plot(
            times,
            [1e3 * p.seconds.median for p in mine],
            "o-",
            label=subject,
            color=colours[subject],
        )
        low, high = ([1e3 * getattr(p.seconds, end) for p in mine] for end in ("low", "high"))
        panel.fill_between(times, low, high, color=colours[subject], alpha=0.2)
    least = {point.time: 1e3 * point.seconds.median * point.ceiling for point in points}
    times = sorted(least)
    panel.plot(times, [least[time] for time in times], "k--", label=LIMIT)
    panel.set(title=work, xlabel="tokens", ylabel="milliseconds", xscale="log", yscale="log")
    panel.set_xticks(times, [str(time) for time in times], rotation=90)
    panel.set_xticks([], minor=True)
    panel.legend()


def _figure_class() -> Any:  # noqa: ANN401 - as above
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise EnvironmentUnfitError(
            "matplotlib is not installed",
            where="--picture",
            fix="pip install 'gpt1-parity[plot]'",
        ) from error


def check_installed() -> None:
    """Require matplotlib.

    Raises:
        EnvironmentUnfitError: It is not installed.
    """
    _figure_class()


def draw(series: Sequence[Series], path: Path) -> None:
    """Write the picture in the format of its suffix (.svg, .png, .pdf)."""
    figure(series).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
