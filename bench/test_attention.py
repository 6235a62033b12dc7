"""Attention kernels, ours and others', verified before and after they are timed.

Run it with `make bench`; `ARGS="--grid whole"` runs every shape, `ARGS="-k '1x512 and both'"` some.
`pytest bench/test_attention.py --kernel FILE.py:NAME` times one's own beside them.
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import NotTimedError, check_planned, mapped_errors, memory_for
from bench.kernels import ATTENTION_KERNELS, AttentionKernel
from bench.memory import peak_bytes
from bench.results import Status
from bench.shapes import Shape, Timing, timings
from bench.timing import RATE_MARGIN, cache_flusher, calls_for, matrix_rate, seconds
from bench.verify import VerifiedKernel, verified

ROUNDS = 9


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the timings of the chosen grid."""
    grid = metafunc.config.getoption("--grid")
    metafunc.parametrize("timing", timings(grid, list(ATTENTION_KERNELS)), ids=str)


RATES: dict[tuple[str, int], float] = {}
"""The highest matrix rate measured in this run, by dtype and threads."""


def reached(shape: Shape, median: float, device: torch.device) -> float:
    """Return a kernel's rate over the matrix rate, which is measured again if it seems too low."""
    key = shape.dtype, torch.get_num_threads()
    rate = shape.flops / median
    if rate > RATE_MARGIN * RATES.get(key, 0.0):
        RATES[key] = max(RATES.get(key, 0.0), matrix_rate(shape.dtype, device))
    return rate / RATES[key]


def ready(kernel: AttentionKernel, shape: Shape, device: torch.device) -> VerifiedKernel:
    """Return a verified kernel; skip or fail if it cannot be timed."""
    try:
        with mapped_errors(ours=kernel.ours):
            check_planned(kernel, shape, device, memory_for(device))
            return verified(kernel, shape, device)
    except NotTimedError as error:
        (pytest.fail if error.status is Status.WRONG else pytest.skip)(str(error))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_attention_kernel(
    benchmark: BenchmarkFixture, timing: Timing, pytestconfig: pytest.Config
) -> None:
    """The kernel's results are right before and after timing."""
    device = torch.device(pytestconfig.getoption("--bench-device"))
    torch.set_num_threads(timing.threads or torch.get_num_threads())
    shape = timing.shape
    benchmark.group = str(timing).removeprefix(f"{timing.kernel}-")
    kernel = ready(ATTENTION_KERNELS[timing.kernel], shape, device)
    cold = timing.cache == "cold"
    calls = 1 if cold else calls_for(seconds(kernel.run, device))
    answers = benchmark.pedantic(  # type: ignore[no-untyped-call]
        kernel.run,
        setup=cache_flusher(device) if cold else None,
        rounds=ROUNDS,
        iterations=calls,
        warmup_rounds=1,
    )
    share = reached(shape, benchmark.stats.stats.median, device) if benchmark.stats else 0.0
    assert share <= RATE_MARGIN, (
        f"inconclusive: {share:.0%} of the matrix rate; clock or count is wrong"
    )
    benchmark.extra_info.update(
        error=kernel.check(answers),
        flops=shape.flops,
        bytes=shape.bytes,
        percent_of_matrix_rate=100.0 * share,
        peak_bytes=peak_bytes(kernel.run, device),
    )
