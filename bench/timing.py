"""How long something takes: the CPU's clock, or events on a GPU; caches warm or cold.

On a GPU a call returns before its work is done. Events stand in the GPU's own queue, so the time
between two of them is the work's and not the caller's, and nothing waits before the last call
was given: a wait for each would cost a short kernel ten times its own length.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from parity.errors import EnvironmentUnfitError

Run = Callable[[], object]

FLUSH_BYTES = {"cpu": 128 << 20, "cuda": 512 << 20}
"""Bytes written to push everything else out of the caches; several times the largest there are."""

MIN_SECONDS = 0.02
"""What one measurement takes at least: calls are repeated until it is so long."""


def cache_flusher(device: torch.device) -> Run:
    """Return what fills the caches of a device with something else."""
    buffer = torch.empty(FLUSH_BYTES[device.type], dtype=torch.uint8, device=device)

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
    return max(1, min(1000, round(MIN_SECONDS / max(once, 1e-9))))


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


# What the machine can do at most, measured in the same run: no kernel is faster than that.


SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product is the matrix rate."""

COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
"""Bytes that are copied for the bandwidth: many times any cache."""

ROUNDS = 5

RATE_MARGIN = 1.10
"""How far above the measured matrix rate a kernel may seem to be: the rate has a spread too.
Beyond that either the clock or the count of operations is wrong."""


def matrix_rate(dtype: str, device: torch.device) -> float:
    """Return the operations a second of a large square product; the best of some rounds."""
    side = SIDE[device.type]
    left, right = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    return 2.0 * side**3 / _least(lambda: torch.mm(left, right), device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes a second, read and written, of a copy larger than the caches."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _least(lambda: target.copy_(source), device)


def _least(run: Callable[[], object], device: torch.device) -> float:
    run()
    calls = calls_for(seconds(run, device))
    return min(seconds(run, device, calls=calls) for _ in range(ROUNDS))


def products_alone(model: nn.Module, batch: int, time: int) -> Callable[[], object]:
    """Return the matrix products of a forward pass with nothing between them.

    Args:
        model: Ours; the very same weights are multiplied, by rows that are drawn.
        batch: Rows of text.
        time: Tokens of each.
    """
    named = dict(model.named_parameters())
    table = named.pop("tokens_embed.weight").detach()
    positions = "positions_embed.weight"
    weights = [w.detach() for name, w in named.items() if w.ndim > 1 and name != positions]
    rows = {
        width: torch.randn(batch * time, width, device=table.device).to(table.dtype)
        for width in {weight.shape[0] for weight in weights} | {table.shape[1]}
    }

    def run() -> None:
        for weight in weights:
            torch.mm(rows[weight.shape[0]], weight)
        torch.mm(rows[table.shape[1]], table.T)

    return run


def product_flops(model: nn.Module, batch: int, time: int) -> int:
    """Return the operations of these products."""
    numel = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and name != "positions_embed.weight"
    )
    return 2 * batch * time * numel


def bare_read(weights: Sequence[Tensor]) -> Callable[[], object]:
    """Return a read of every weight once: what a forward pass of one token cannot beat.

    A matrix is read by its product with a vector, the fastest read that torch has.
    """
    kept = [weight.detach() for weight in weights]
    ones = {w.shape[-1]: torch.ones(w.shape[-1], dtype=w.dtype, device=w.device) for w in kept}

    def run() -> None:
        for weight in kept:
            weight @ ones[weight.shape[-1]]

    return run
