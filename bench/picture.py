"""Time against length, with peers and the limit, as a picture that matplotlib draws, if it can."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.document import Series
from parity.errors import EnvironmentUnfitError

LIMIT = "useful operations at the matrix rate"
"""What nobody is faster than, drawn dashed: what the visible pairs cost where all is products."""


def figure(series: Sequence[Series]) -> Any:  # noqa: ANN401 - matplotlib's Figure, without its import
    """Return one panel for each work, in which every kernel is a line with its quartiles.

    What was timed at one length alone is left out where something else makes a line.

    Raises:
        EnvironmentUnfitError: matplotlib is not installed, or there is nothing to draw.
    """
    if not series:
        raise EnvironmentUnfitError(
            "there is nothing to draw: no attention kernel was timed",
            where="--picture",
            fix="ask for rows of attention, --rows 'core/*'",
        )
    works = _with_lines(series)
    colours = {name: f"C{at}" for at, name in enumerate(dict.fromkeys(p.subject for p in series))}
    made = _figure_class()(figsize=(6.0 * len(works), 4.5), layout="constrained")
    panels = made.subplots(1, len(works), squeeze=False)[0]
    for panel, work in zip(panels, works, strict=True):
        _draw(panel, work, [point for point in series if point.work == work], colours)
    return made


def _with_lines(series: Sequence[Series]) -> list[str]:
    """Return the works that were timed at several lengths; all of them where none was."""
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
    """Write the picture; its suffix names the form (.svg, .png, .pdf)."""
    figure(series).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
