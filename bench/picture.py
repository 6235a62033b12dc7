"""Time against length, with peers and the limit, as a picture that matplotlib draws, if it can."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.document import Series
from parity.errors import EnvironmentUnfitError

LIMIT = "products"
"""Whoever computes attention computes these; drawn as the limit, dashed."""


def figure(series: Sequence[Series]) -> Any:  # noqa: ANN401 - matplotlib's Figure, without its import
    """Return one panel for each work, in which every kernel is a line with its quartiles.

    Raises:
        EnvironmentUnfitError: matplotlib is not installed, or there is nothing to draw.
    """
    if not series:
        raise EnvironmentUnfitError(
            "there is nothing to draw: no attention kernel was timed",
            where="--picture",
            fix="ask for rows of attention, --rows 'core/*'",
        )
    works = list(dict.fromkeys(point.work for point in series))
    made = _figure_class()(figsize=(6.0 * len(works), 4.5), layout="constrained")
    panels = made.subplots(1, len(works), squeeze=False)[0]
    for panel, work in zip(panels, works, strict=True):
        _draw(panel, work, [point for point in series if point.work == work])
    return made


def _draw(panel: Any, work: str, points: Sequence[Series]) -> None:  # noqa: ANN401 - as above
    for subject in dict.fromkeys(point.subject for point in points):
        mine = sorted((p for p in points if p.subject == subject), key=lambda p: p.time)
        times = [point.time for point in mine]
        medians = [1e3 * point.seconds.median for point in mine]
        limit = subject == LIMIT
        name = f"{subject} (limit)" if limit else subject
        line = panel.plot(times, medians, "k--" if limit else "o-", label=name)[0]
        low, high = ([1e3 * getattr(p.seconds, end) for p in mine] for end in ("low", "high"))
        panel.fill_between(times, low, high, color=line.get_color(), alpha=0.2)
    panel.set(title=work, xlabel="tokens", ylabel="milliseconds", xscale="log", yscale="log")
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
