"""Time calls on a CPU or a GPU, with warm or cold caches, and measure the machine's limits.

On a GPU a call returns before its work is done. Events are recorded in the GPU's queue, so the time
between two of them is that of the work. The host waits only once, after the last call: a wait after
each call would take ten times as long as a short kernel.
"""

import statistics
import time
from collections.abc import Callable

import torch

from parity.errors import EnvironmentUnfitError

Run = Callable[[], object]

FLUSH_BYTES = {"cpu": 128 << 20, "cuda": 512 << 20}
"""Bytes written to flush the caches: several times the largest cache."""

MIN_SECONDS = 0.02
"""Least duration of a measurement; shorter calls are repeated."""


def cache_flusher(device: torch.device) -> Run:
    """Return a function that flushes the caches of a device; it returns None."""
    buffer = torch.empty(FLUSH_BYTES[device.type], dtype=torch.uint8, device=device)

    def flush() -> None:  # pytest-benchmark passes a setup's return value as arguments
        buffer.zero_()

    return flush


def seconds(run: Run, device: torch.device, *, calls: int = 1, flush: Run | None = None) -> float:
    """Return the seconds of one call: the mean over `calls` on a CPU, the median on a GPU.

    `flush` is called before each call, outside the clock; None leaves the caches warm.
    """
    if device.type == "cuda":
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]  # type: ignore[no-untyped-call]
        for begin, end in pairs:
            if flush is not None:
                flush()
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return float(statistics.median(begin.elapsed_time(end) / 1e3 for begin, end in pairs))
    if flush is None:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    total = 0.0
    for _ in range(calls):
        flush()
        start = time.perf_counter()
        run()
        total += time.perf_counter() - start
    return total / calls


def calls_for(once: float) -> int:
    """Return how many calls of `once` seconds make a measurement long enough."""
    return max(1, min(1000, round(MIN_SECONDS / max(once, 1e-9))))


class EventTimer:
    """A timer for pytest-benchmark: seconds since its creation, in the GPU's queue.

    It waits for the GPU only when it is read, before and after a round of calls.
    """

    def __init__(self) -> None:
        self._start = self._event()

    def __call__(self) -> float:
        """Return the seconds since the start."""
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
        fix = "run it on a machine with a GPU"
        raise EnvironmentUnfitError("no CUDA", where="this machine", fix=fix)
    return torch.device("cuda")


# Limits of the machine, measured in the same run.

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product gives the matrix rate."""

COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
"""Bytes that are copied to measure the bandwidth: many times any cache."""

ROUNDS = 5

RATE_MARGIN = 1.10
"""Largest believable rate of a kernel over the measured matrix rate, which has a spread too.
Beyond it, the clock or the count of operations is wrong."""


def matrix_rate(dtype: str, device: torch.device) -> float:
    """Return the operations per second of a large square product: the best of five rounds."""
    side = MATRIX_SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device).to(getattr(torch, dtype))
    return 2.0 * side**3 / _least(lambda: torch.mm(left, right), device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes per second, read and written, of a copy larger than the caches."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _least(lambda: target.copy_(source), device)


def _least(run: Run, device: torch.device) -> float:
    run()
    calls = calls_for(seconds(run, device))
    return min(seconds(run, device, calls=calls) for _ in range(ROUNDS))
