"""The picture of a report: error by depth, on a log scale, as SVG.

A panel for each mode has our error and Hugging Face's at every tap in network order, the bound, and
the rounding of the dtype. Where an operation is wrong by itself, a line crosses all panels.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row
from parity.core.tolerances import PRECISIONS
from parity.report.content import GUILTY, mark_of

_UNITS = {"float64": 2.0**-53, **{name: one.unit for name, one in PRECISIONS.items()}}
"""Unit roundoff by dtype."""

_MODES = (Mode.FLOAT64, Mode.FLOAT64_PER_OP, Mode.END_TO_END, Mode.PER_OP)

_FEWEST = 4
"""Taps that a picture has at least."""

MOST = 6_000
"""Rows that have a picture, or a square for each tap: a full-size check has 3,000."""


def ordered(rows: Sequence[Row]) -> list[str]:
    """Return the names of the taps in network order; the backend with most taps comes first."""
    by_backend: dict[str, dict[str, None]] = {}
    for row in rows:
        by_backend.setdefault(row.backend, {})[row.tap] = None
    names: dict[str, None] = {}
    for taps in sorted(by_backend.values(), key=len, reverse=True):
        names |= taps
    blocks: dict[str, list[str]] = {}  # a tap that one backend lacks stays in its block
    for name in names:
        blocks.setdefault(block_of(name) if _BLOCK.match(name) else name, []).append(name)
    return [name for taps in blocks.values() for name in taps]


_BLOCK = re.compile(r"((?:[^.\s]+\.)*?\d+)[.:] ?")


def block_of(tap: str) -> str:
    """Return the block of a tap, such as `h.3`; outside blocks the first part of its name."""
    found = _BLOCK.match(tap)
    return found[1] if found else tap.partition(".")[0]


def operation_of(tap: str) -> str:
    """Return a tap's name without its block."""
    return _BLOCK.sub("", tap, count=1) if _BLOCK.match(tap) else tap


def stack_of(taps: Iterable[str]) -> str | None:
    """Return the start of the names of blocks, such as `h.`; None without one stack of blocks."""
    starts = {block_of(tap).rstrip("0123456789") for tap in taps if _BLOCK.match(tap)}
    return starts.pop() if len(starts) == 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A symbol or a word at a place: `kind` is its CSS class, `title` its explanation."""

    x: float
    y: float
    kind: str
    text: str
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The plot of one mode; `lines` are pairs of a CSS class and the data of a path."""

    title: str
    unit: str
    top: float
    bottom: float
    ticks: Sequence[Mark]
    lines: Sequence[tuple[str, str]]
    marks: Sequence[Mark]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing in pixels.

    Attributes:
        bands: Left edge and width of every second block.
        labels: Names of blocks below the plots.
        legend: Marks at the start of a sample line; `kind` is the line's CSS class.
        guides: Horizontal places of the operations that are wrong by themselves.
    """

    width: int
    height: float
    left: float
    right: float
    title: str
    summary: str
    panels: Sequence[Panel]
    bands: Sequence[tuple[float, float]]
    labels: Sequence[Mark]
    legend: Sequence[Mark]
    guides: Sequence[Mark]


_LEFT, _RIGHT, _PLOT, _TITLE, _LINE, _LETTER = 52, 10, 140, 32, 20, 6.7
"""Margins, height of a plot and of its title, distance of lines of text, width of a letter."""


def draw(report: Report, width: int) -> Picture | None:
    """Return the picture, `width` pixels wide; None if the rows are no errors by depth."""
    rows = [row for row in report.results if row.mode in _MODES]
    taps = ordered(rows)
    blocks = [(name, list(group)) for name, group in groupby(taps, key=block_of)]
    stack = stack_of(taps)
    if stack is None or len(taps) < _FEWEST or len(rows) > MOST:
        return None
    right = width - _RIGHT
    step = (right - _LEFT) / len(taps)
    place = {tap: round(_LEFT + (n + 0.5) * step, 1) for n, tap in enumerate(taps)}
    backends = list(dict.fromkeys(row.backend for row in rows))
    legend = list(_legend(backends, rows, right))
    top = legend[-1].y + 6
    first = report.first_divergence.tap if report.first_divergence is not None else None
    wrong = list(dict.fromkeys(row.tap for row in rows if _is_wrong(row, report)))
    wrong = [tap for tap in taps if tap in wrong or tap == first]
    panels = []
    for mode in _MODES:
        if chosen := _of_one_reference([row for row in rows if row.mode is mode]):
            top += _TITLE
            panels.append(_panel(mode, chosen, backends, place, top, wrong))
            top += _PLOT
    return Picture(
        width=width,
        height=top + 2.2 * _LINE,
        left=_LEFT,
        right=right,
        title="Error of every tap by depth, on a log scale",
        summary=_summary(report, panels, wrong),
        panels=panels,
        bands=[
            (place[names[0]] - step / 2, step * len(names))
            for n, (_, names) in enumerate(blocks)
            if n % 2
        ],
        labels=list(_labels(blocks, stack, place, step, top)),
        legend=legend,
        guides=_guides(wrong, place, legend[-1].y, right),
    )


def _is_wrong(row: Row, report: Report) -> bool:
    """Return whether a row's own operation is wrong, by its numbers."""
    return row.status is Status.FAIL and mark_of([row], report) == GUILTY


def _of_one_reference(rows: Sequence[Row]) -> list[Row]:
    """Return the rows against the reference that most rows have: the oracle, if several do."""
    counts = Counter(row.against for row in rows)
    chosen = max(counts, key=lambda name: (counts[name], name == "oracle"), default="")
    return [row for row in rows if row.against == chosen]


def _legend(backends: Sequence[str], rows: Sequence[Row], right: float) -> Iterator[Mark]:
    names = [(f"ours{n % 4}", shortened(f"ours: {name}")) for n, name in enumerate(backends)]
    if any(row.error_reference is not None for row in rows):
        names.append(("theirs", "Hugging Face"))
    names += [("bound", "bound"), ("floor", "rounding of the dtype")]
    x, y = float(_LEFT), 14.0
    for kind, name in names:
        wide = 34 + _LETTER * len(name) + 14
        if x > _LEFT and x + wide > right:
            x, y = float(_LEFT), y + _LINE
        yield Mark(x=x, y=y, kind=kind, text=name)
        x += wide


def shortened(name: str, longest: int = 28) -> str:
    """Return a name that has no end, without its middle."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _labels(
    blocks: Sequence[tuple[str, Sequence[str]]],
    stack: str,
    place: Mapping[str, float],
    step: float,
    top: float,
) -> Iterator[Mark]:
    """Yield the name of every block that has space for it, and for the axis."""
    for name, taps in blocks:
        text = name.removeprefix(stack)
        if len(text) * _LETTER <= step * len(taps):
            x = (place[taps[0]] + place[taps[-1]]) / 2
            yield Mark(x=round(x, 1), y=top + 16, kind="middle", text=text)
    middle = (min(place.values()) + max(place.values())) / 2
    text = "block, in the order of the computation"
    yield Mark(x=round(middle, 1), y=top + 2 * _LINE - 2, kind="middle dim", text=text)


def _guides(wrong: Sequence[str], place: Mapping[str, float], y: float, right: float) -> list[Mark]:
    """Return a line for each wrong operation; the first one has its name."""
    marks = []
    for n, tap in enumerate(wrong):
        text = "" if n else shortened(tap)
        fits = place[tap] + 6 + _LETTER * len(text) <= right
        marks.append(Mark(x=place[tap], y=y, kind="start" if fits else "end", text=text))
    return marks


def _panel(  # noqa: PLR0913 - the parts of a plot
    mode: Mode,
    rows: Sequence[Row],
    backends: Sequence[str],
    place: Mapping[str, float],
    top: float,
    wrong: Sequence[str],
) -> Panel:
    dtype = rows[0].dtype
    unit = _UNITS.get(dtype)
    # A row that fails by its largest element has that element's bound.
    bound = min(row.bound for row in rows)
    limits = {row.tap: limit for row in rows if (limit := _limit(row, bound, unit)) is not None}
    theirs = {row.tap: row.error_reference for row in rows if row.error_reference is not None}
    ours = [
        {row.tap: row.error_ours for row in rows if row.backend == backend} for backend in backends
    ]
    drawn = [*limits.values(), *theirs.values(), *(v for line in ours for v in line.values())]
    seen = [v for v in [*drawn, unit] if v is not None and 0 < v < math.inf]
    low, high = _decades(seen)
    bottom = top + _PLOT

    def level(value: float) -> float:
        """Return the height of a value; 0 has the bottom edge."""
        return bottom if value <= 0 else height(math.log10(value))

    def height(power: float) -> float:
        share = (power - low) / (high - low)
        return round(bottom - 8 - min(max(share, 0.0), 1.0) * (_PLOT - 8), 1)

    lines = [("bound", _path(limits, place, level)), ("theirs", _path(theirs, place, level))]
    if unit is not None:
        lines.insert(0, ("floor", f"M{min(place.values())} {level(unit)}H{max(place.values())}"))
    lines += [(f"ours{n % 4}", _path(line, place, level)) for n, line in enumerate(ours)]
    marks = []
    for row in rows:
        error = row.error_ours
        title = f"{row.tap}, {row.backend}: {row.status}"
        if row.status is Status.NONFINITE or (error is not None and not math.isfinite(error)):
            marks.append(Mark(x=place[row.tap], y=top + 11, kind="stop", text="×", title=title))
        elif error is not None and row.status is Status.FAIL and row.tap in wrong:
            title = f"{title}, error {error:.3g}"
            marks.append(Mark(x=place[row.tap], y=level(error), kind="fault", text="", title=title))
    reference = "Hugging Face" if rows[0].against == "huggingface" else rows[0].against
    title, meaning = (part.format(dtype, shortened(reference)) for part in _TITLES[mode])
    fits = _LETTER * len(title + meaning) < max(place.values()) - _LEFT
    every = math.ceil((high - low) / 5)
    ticks = [
        Mark(x=_LEFT - 6, y=height(power), kind="end", text=_power(power))
        for power in range(low, high + 1, every)
    ]
    if 0 in drawn:
        ticks = [Mark(x=_LEFT - 6, y=bottom, kind="end", text="0"), *ticks[1:]]
    return Panel(
        title=title,
        unit=meaning if fits else "",
        top=top,
        bottom=bottom,
        ticks=ticks,
        lines=[(kind, path) for kind, path in lines if path],
        marks=marks,
    )


_TITLES = {
    Mode.FLOAT64: ("float64, end to end", "largest error over the RMS of the reference ({1})"),
    Mode.FLOAT64_PER_OP: ("float64, each operation by itself", "the same, on the oracle's inputs"),
    Mode.END_TO_END: ("{0}, end to end", "RMS error over the RMS of the reference ({1})"),
    Mode.PER_OP: ("{0}, each operation by itself", "the same, on the oracle's rounded inputs"),
}
"""Title of a plot and meaning of its numbers, by mode."""


def _limit(row: Row, bound: float, unit: float | None) -> float | None:
    """Return the largest error that would pass; None if it is not known."""
    if row.mode in (Mode.FLOAT64, Mode.FLOAT64_PER_OP):
        return row.bound or None  # of a tap that is copied, not computed
    if unit is None or row.error_reference is None:
        return None
    return bound * max(row.error_reference, unit)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around some positive numbers, at least two apart."""
    low = math.floor(math.log10(min(values, default=1.0)))
    high = math.ceil(math.log10(max(values, default=1.0)) + 0.1)  # a line at the edge is not seen
    return low, max(high, low + 2)


def _path(
    values: Mapping[str, float | None], place: Mapping[str, float], level: Callable[[float], float]
) -> str:
    """Return a path through values in network order; it is broken where one is no number."""
    parts, pen = [], "M"
    for tap in place:
        if tap not in values:
            continue  # this backend does not form the tap
        value = values[tap]
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{place[tap]} {level(value)}")
        pen = "L"
    return "".join(parts)


def _power(power: int) -> str:
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _summary(report: Report, panels: Sequence[Panel], wrong: Sequence[str]) -> str:
    """Return the picture in words."""
    rows = [row for row in report.results if row.mode in _MODES]
    failing = sum(row.status is not Status.PASS for row in rows)
    found = f"{failing} of {len(rows)} comparisons differ" if failing else "all are within bounds"
    start = f"; a difference starts at {', '.join(wrong[:3])}" if wrong else ""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""  # noqa: PLR2004 - as above
    return f"{len(panels)} plots, one for each mode: {found}{start}{more}."
