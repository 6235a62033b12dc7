"""A run for a person: one table of ratios, and what became of the baseline. Pure drawing."""

from collections.abc import Mapping, Sequence

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from bench.baseline import MARGIN, Change, Comparison
from bench.outcome import Outcome, Status
from bench.statistics import NOISY, Spread

_STYLES = {
    Status.MET: "green",
    Status.MISSED: "bold red",
    Status.WRONG: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.OOM: "yellow",
}
_CHANGES = {Change.WORSE: "bold red", Change.GONE: "yellow", Change.BETTER: "green"}

_COLUMNS = ("row", "ours", "theirs", "ratio (quartiles)", "held to", "outcome")

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
}


def shown(value: float, unit: str) -> str:
    """Return a figure in the largest unit that it fills."""
    scales = _SCALES[unit]
    scale, name = next((pair for pair in scales if value >= pair[0]), scales[-1])
    return f"{value / scale:.3g} {name}"


def spread_shown(spread: Spread | None) -> str:
    """Return a median between its quartiles."""
    if spread is None:
        return ""
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def render(
    outcomes: Sequence[Outcome], machine: Mapping[str, str], notes: Sequence[str], console: Console
) -> None:
    """Print the rows, one line each, and what else there is to say."""
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
    for line in (*notes, summed(outcomes)):
        console.print(escape(line), highlight=False)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    style = _STYLES.get(outcome.status)
    word = outcome.status.upper() if outcome.status is Status.MISSED else str(outcome.status)
    word = f"[{style}]{word}[/]" if style else word
    figures = [
        shown(found.median, outcome.unit) if found is not None else ""
        for found in (outcome.ours, outcome.theirs)
    ]
    bound = "" if outcome.bound is None else f"≤ {outcome.bound:.2f}"
    noisy = ", noisy" if outcome.noisy else ""
    return escape(outcome.name), *figures, spread_shown(outcome.ratio), bound, word + noisy


def summed(outcomes: Sequence[Outcome]) -> str:
    """Return how many rows ended how, in one line."""
    counts = {status: sum(outcome.status is status for outcome in outcomes) for status in Status}
    words = [f"{count} {status}" for status, count in counts.items() if count]
    noisy = sum(outcome.noisy for outcome in outcomes)
    if noisy:
        words.append(f"{noisy} noisy: quartiles further apart than {NOISY:.0%} of the median")
    return ", ".join(words) or "no rows"


def render_changes(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print what became of each row since the baseline."""
    table = Table(box=None, pad_edge=False)
    for name in ("row", "baseline", "now", ""):
        table.add_column(name, overflow="fold")
    for each in comparisons:
        style = _CHANGES.get(each.change)
        word = f"[{style}]{each.change}[/]" if style else str(each.change)
        table.add_row(escape(each.name), spread_shown(each.then), spread_shown(each.now), word)
    console.print(table, highlight=False)
    rule = f"worse: the lower quartile lies more than {MARGIN:.0%} above the baseline's upper one"
    console.print(rule, highlight=False)
