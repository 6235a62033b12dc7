"""Attention kernels as contestants, and how a core's memory grows with the text."""

import torch

from bench import memory
from bench.contest import (
    Contender,
    InterleavedTiming,
    NoTimeError,
    check_planned,
    closed_row,
    memory_for,
)
from bench.kernels import SUBJECTS
from bench.models import Measurement
from bench.results import Outcome, Series, Status, exponent, spread
from bench.targets import Target, Work
from bench.timing import ABOVE
from bench.verify import prove

TIMES = (1024, 2048, 4096, 8192)
"""Lengths between which the growth of memory is fitted."""


def ours(name: str) -> bool:
    """Return whether a kernel is this project's."""
    return SUBJECTS[name].ours


def make(name: str, task: Work, device: torch.device, _run: Measurement) -> Contender:
    """Return an attention kernel, proved."""
    check_planned(SUBJECTS[name], task.shape, device, memory_for(device))
    proved = prove(SUBJECTS[name], task.shape, device)
    return Contender(proved.run, proved.error, lambda: proved.check(proved.run()))


def note(contest: InterleavedTiming, task: Work, device: torch.device, run: Measurement) -> None:
    """Keep what each kernel took for the picture; drop whoever is faster than the machine."""
    shape = task.shape
    for name, taken in list(contest.taken.items()):
        found = spread(taken)
        reached = shape.flops / found.median
        share = reached / run.rate(task, device, reached)
        if share > ABOVE:
            why = f"{share:.0%} of the matrix rate: the clock or the count of operations is wrong"
            contest.drop(name, NoTimeError(Status.INCONCLUSIVE, why))
            continue
        work = f"attention, {shape.direction}, {shape.dtype}, batch {shape.batch}, {device.type}"
        error = contest.ready[name].error
        point = Series(work=work, subject=name, time=shape.time, seconds=found, flops=shape.flops,
                       bytes=shape.bytes, ceiling=share, error=error)  # fmt: skip
        run.series.append(point)


def growth(row: Target, run: Measurement) -> Outcome:
    """Return how a core's peak memory grows with time, as a power of it."""
    fitted, longest = [], []
    for _ in range(memory.REPEATS):
        peaks = []
        for done, time in enumerate(TIMES):
            run.progress(f"{row.name} at {time}", done, len(TIMES))
            peaks.append(float(memory.fresh("core", row.ours, str(time))))
        fitted.append(exponent(TIMES, peaks))
        longest.append(peaks[-1])
    return closed_row(row, spread(fitted), spread(longest), None, "byte")
