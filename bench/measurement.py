"""What one run measures with: its settings, and what is prepared once for all rows."""

import dataclasses
import functools
from collections.abc import Callable

import torch

from bench.document import Series
from bench.limits import ABOVE, matrix_rate
from bench.models import Models
from bench.task import Task

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass
class Measurement:
    """What one run measures: its settings, and what is prepared once.

    Attributes:
        rounds: Rounds of every contest; None for each task's own.
        progress: Called as rows are done.
        rates: The matrix rate by device and dtype, measured when first needed.
        series: The points of the picture.
    """

    rounds: int | None
    progress: Progress
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    series: list[Series] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def models(self) -> Models:
        """Both models, built when the first row needs them."""
        self.progress("drawing the weights", 0, 1)
        return Models()

    def rate(self, task: Task, device: torch.device, seen: float) -> float:
        """Return the matrix rate; measured again where something seems to be above it."""
        key = f"{device.type}-{task.shape.dtype}"
        if seen > ABOVE * self.rates.get(key, 0.0):
            self.rates[key] = max(self.rates.get(key, 0.0), matrix_rate(task.shape.dtype, device))
        return self.rates[key]
