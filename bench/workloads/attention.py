"""Attention kernels, and the growth of a kernel's memory with the length of the text."""

import torch

from bench import memory
from bench.contest import (
    Contender,
    InterleavedTiming,
    NotTimedError,
    check_planned,
    measured_outcome,
    memory_for,
)
from bench.kernels import ATTENTION_KERNELS
from bench.models import Measurement
from bench.results import Outcome, Series, Status, exponent, spread
from bench.targets import Target, Task
from bench.timing import RATE_MARGIN
from bench.verify import verified

TIMES = (1024, 2048, 4096, 8192)
"""Lengths at which the growth of memory is measured."""


def ours(name: str) -> bool:
    """Return whether a kernel is this project's."""
    return ATTENTION_KERNELS[name].ours


def make(name: str, task: Task, device: torch.device, _run: Measurement) -> Contender:
    """Return a verified attention kernel."""
    check_planned(ATTENTION_KERNELS[name], task.shape, device, memory_for(device))
    kernel = verified(ATTENTION_KERNELS[name], task.shape, device)
    return Contender(kernel.run, kernel.error, lambda: kernel.check(kernel.run()))


def record_series(
    timing: InterleavedTiming, task: Task, device: torch.device, run: Measurement
) -> None:
    """Record each kernel's times for the picture; exclude those above the machine's matrix rate."""
    shape = task.shape
    for name, taken in list(timing.seconds.items()):
        found = spread(taken)
        reached = shape.flops / found.median
        share = reached / run.rate(task, device, reached)
        if share > RATE_MARGIN:
            why = f"{share:.0%} of the matrix rate: the clock or the count of operations is wrong"
            timing.exclude(name, NotTimedError(Status.INCONCLUSIVE, why))
            continue
        work = f"attention, {shape.direction}, {shape.dtype}, batch {shape.batch}, {device.type}"
        error = timing.contenders[name].error
        point = Series(work=work, subject=name, time=shape.time, seconds=found, flops=shape.flops,
                       bytes=shape.bytes, ceiling=share, error=error)  # fmt: skip
        run.series.append(point)


def memory_growth(row: Target, run: Measurement) -> Outcome:
    """Return the exponent with which a kernel's peak memory grows with the length of the text."""
    fitted, longest = [], []
    for _ in range(memory.REPEATS):
        peaks = []
        for done, time in enumerate(TIMES):
            run.progress(f"{row.name} at {time}", done, len(TIMES))
            peaks.append(float(memory.in_fresh_process("core", row.ours, str(time))))
        fitted.append(exponent(TIMES, peaks))
        longest.append(peaks[-1])
    return measured_outcome(row, spread(fitted), spread(longest), None, "byte")
