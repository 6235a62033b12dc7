"""How long something takes: the CPU's clock, or events on a GPU; caches warm or cold.

On a GPU a call returns before its work is done. Events stand in the GPU's own queue, so the time
between two of them is the work's and not the caller's, and nothing waits before the last call
was given: a wait for each would cost a short kernel ten times its own length.
"""

import statistics
import time
from collections.abc import Callable

import torch

from parity.errors import EnvironmentUnfitError

Run = Callable[[], object]

FLUSHED = {"cpu": 128 << 20, "cuda": 512 << 20}
"""Bytes written to push everything else out of the caches; several times the largest there are."""

LEAST_SECONDS = 0.02
"""What one measurement takes at least: calls are repeated until it is so long."""


def flusher(device: torch.device) -> Run:
    """Return what fills the caches of a device with something else."""
    buffer = torch.empty(FLUSHED[device.type], dtype=torch.uint8, device=device)

    def flush() -> None:  # what a setup returns, pytest-benchmark takes for arguments
        buffer.zero_()

    return flush


def seconds(run: Run, device: torch.device, *, calls: int = 1, flush: Run | None = None) -> float:
    """Return the seconds that one call takes, as the mean (events: the median) of some.

    Args:
        run: What is timed.
        device: Where its work is done.
        calls: How often it is called.
        flush: Called before each call and not timed; None leaves the caches warm.
    """
    if device.type == "cuda":
        return _by_events(run, calls, flush)
    if flush is None:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    return statistics.fmean(_after(flush, run) for _ in range(calls))


def _after(flush: Run, run: Run) -> float:
    flush()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _by_events(run: Run, calls: int, flush: Run | None) -> float:
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]  # type: ignore[no-untyped-call]
    for start, end in pairs:
        if flush is not None:
            flush()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs))


def calls_for(once: float) -> int:
    """Return how often to call what takes `once` seconds, so that a measurement is long enough."""
    return max(1, min(1000, round(LEAST_SECONDS / max(once, 1e-9))))


class EventTimer:
    """A clock for pytest-benchmark: seconds since it was made, on the GPU's own queue.

    It is read before and after a round of calls, and waits for the GPU only then.
    """

    def __init__(self) -> None:
        self._start = self._event()

    def __call__(self) -> float:
        """Return the seconds that the GPU's queue has come since the start."""
        now = self._event()
        now.synchronize()
        return float(self._start.elapsed_time(now)) / 1e3

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def cuda() -> torch.device:
    """Return the GPU.

    Raises:
        EnvironmentUnfitError: There is none.
    """
    if not torch.cuda.is_available():
        raise EnvironmentUnfitError(
            "no CUDA", where="this machine", fix="run it on a machine with a GPU"
        )
    return torch.device("cuda")
