"""The kinds of work that are measured: one file each, and who does what in it. A table."""

import dataclasses
from collections.abc import Callable, Mapping

import torch

from bench import cores, decoding, optimizing, passes, tokens, training
from bench.contest import Contest, Ready
from bench.measurement import Measurement
from bench.outcome import Outcome
from bench.task import Row, Task

Make = Callable[[str, Task, torch.device, Measurement], Ready]
Weigh = Callable[[Row, Measurement], Outcome]


def _nothing(_contest: Contest, _task: Task, _device: torch.device, _run: Measurement) -> None:
    """Leave a contest as it ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """One kind of work.

    Attributes:
        make: Returns a contestant of some name, proved and ready to be timed.
        ours: Whether a contestant is this project's: others' may lack a dtype or a device.
        after: Called with a contest that is over.
        figures: What else than time is measured here, and how.
    """

    make: Make
    ours: Callable[[str], bool]
    after: Callable[[Contest, Task, torch.device, Measurement], None] = _nothing
    figures: Mapping[str, Weigh] = dataclasses.field(default_factory=dict)


ROOMS = {
    "core": Room(
        make=cores.make, ours=cores.ours, after=cores.note, figures={"exponent": cores.growth}
    ),
    "model": Room(make=passes.make, ours=passes.ours, figures={"memory": passes.peaks}),
    "decode": Room(make=decoding.make, ours=passes.ours),
    "train": Room(make=training.make, ours=passes.ours, figures={"memory": training.peaks}),
    "optimizer": Room(make=optimizing.make, ours=optimizing.ours),
    "tokens": Room(make=tokens.make, ours=tokens.ours, figures={"exponent": tokens.growth}),
}
"""Every kind of work by its name in the rows."""
