"""The loss curve as a picture: the one place that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scratch_gpt.files.write_error import write_error


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG with the training loss of every step and the validation losses.

    Args:
        lines: The log's lines.
        path: The picture; one that is there is replaced.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        WriteError: The file system refused.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for field, label, width, marker in (
        ("loss", "training", 0.7, ""),
        ("validation_loss", "validation", 1.5, "o"),
    ):
        points = [(line["step"], line[field]) for line in lines if _is_number(line.get(field))]
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        axes.plot(steps, losses, label=label, linewidth=width, marker=marker, markersize=3.0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    try:
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise write_error(error, path) or error from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
