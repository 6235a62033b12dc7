"""Time several contenders in turns, round by round, so that a drifting machine affects all alike.

Each round runs every contender once, in rotating order. A contender that runs out of memory is
excluded; the others go on.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch

from bench.kernels import AttentionKernel
from bench.results import Outcome, Spread, Status, judge, paired_ratios, spread
from bench.shapes import Shape
from bench.targets import Target
from bench.timing import Run, calls_for, seconds
from bench.verify import WrongKernelError


class NotTimedError(Exception):
    """A contender gets no time: its status and the reason, one phrase."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status}: {why}")
        self.status = status
        self.why = why


@contextlib.contextmanager
def mapped_errors(*, ours: bool) -> Iterator[None]:
    """Turn a contender's exceptions into `NotTimedError`.

    Of our contenders only a wrong answer and a lack of memory are turned. Other libraries' may also
    lack a dtype, a direction or a device.
    """
    try:
        yield
    except NotTimedError:
        raise
    except WrongKernelError as error:
        raise NotTimedError(Status.WRONG, str(error)) from error
    except Exception as error:
        # On the CPU torch raises a RuntimeError.
        allocator = "DefaultCPUAllocator: can't allocate memory" in str(error)
        if allocator or isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise NotTimedError(Status.OOM, first_line(error)) from error
        if ours:
            raise
        raise NotTimedError(Status.NOT_RUN, first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def check_planned(kernel: AttentionKernel, shape: Shape, device: torch.device, memory: int) -> None:
    """Require that a kernel runs on this device and that the shape fits into `memory` bytes.

    Raises:
        NotTimedError: It does not.
    """
    if kernel.device not in {None, device.type}:
        raise NotTimedError(Status.NOT_RUN, f"no {str(kernel.device).upper()}")
    if why := shape.too_large(kernel.score_matrices, memory):
        raise NotTimedError(Status.NOT_PLANNED, why)


def memory_for(device: torch.device) -> int:
    """Return the bytes that one row may use: half of the free memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no regular file
        for line in lines:
            if line.startswith("MemAvailable:"):
                return (int(line.split()[1]) << 10) // 2
    return 4 << 30  # systems without /proc


@dataclasses.dataclass(frozen=True)
class Contender:
    """A verified implementation that may be timed."""

    run: Run
    error: float = 0.0  # to the float64 reference; 0 for a limit without results
    check: Callable[[], float] | None = None  # verifies it after timing; returns the error
    setup: Run | None = None  # called before each timed call, outside the clock
    remark: str = ""  # for the report


@dataclasses.dataclass
class InterleavedTiming:
    """The contenders of one task, the seconds of each round, and the excluded contenders."""

    contenders: dict[str, Contender] = dataclasses.field(default_factory=dict)
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    excluded: dict[str, NotTimedError] = dataclasses.field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Contender], *, ours: bool) -> None:
        """Make and add a contender; exclude it if it is wrong or cannot run."""
        try:
            with mapped_errors(ours=ours):
                self.contenders[name] = make()
        except NotTimedError as error:
            self.excluded[name] = error

    def exclude(self, name: str, error: NotTimedError) -> None:
        """Remove a contender and its times; keep the reason."""
        self.contenders.pop(name, None)
        self.seconds.pop(name, None)
        self.excluded[name] = error


def time_rounds(timing: InterleavedTiming, device: torch.device, rounds: int) -> InterleavedTiming:
    """Time every contender in every round, after one call that does not count; return `timing`."""
    calls: dict[str, int] = {}
    for name in list(timing.contenders):
        once = _seconds_per_call(timing, name, device, 1)
        calls[name] = calls_for(once) if once is not None else 0
    timing.seconds = {name: [] for name in timing.contenders}
    for number in range(rounds):
        names = list(timing.contenders)
        start = number % max(1, len(names))
        for name in [*names[start:], *names[:start]]:
            taken = _seconds_per_call(timing, name, device, calls[name])
            if taken is not None:
                timing.seconds[name].append(taken)
    return timing


def _seconds_per_call(
    timing: InterleavedTiming, name: str, device: torch.device, calls: int
) -> float | None:
    """Return the seconds of one call, or exclude the contender and return None.

    A verified contender may fail here only by running out of memory.
    """
    try:
        with mapped_errors(ours=True):
            contender = timing.contenders[name]
            return seconds(contender.run, device, calls=calls, flush=contender.setup)
    except NotTimedError as error:
        timing.exclude(name, error)
        return None


def verify_after(timing: InterleavedTiming) -> None:
    """Verify every contender again after timing; exclude those whose results are now wrong."""
    for name, contender in list(timing.contenders.items()):
        if contender.check is not None:
            try:
                with mapped_errors(ours=True):
                    contender.check()
            except NotTimedError as error:
                timing.exclude(name, error)


def timed_outcome(row: Target, timing: InterleavedTiming) -> Outcome:
    """Return one row's outcome: its ratio and verdict, or why one side was excluded."""
    for name in (row.ours, row.against):
        if name in timing.excluded:
            error = timing.excluded[name]
            return unmeasured_outcome(row, error.status, f"{name}: {error.why}")
    ours, theirs = timing.seconds[row.ours], timing.seconds[row.against]
    remarks = dict.fromkeys(timing.contenders[name].remark for name in (row.ours, row.against))
    found = measured_outcome(row, spread(paired_ratios(ours, theirs)), spread(ours), spread(theirs))
    return dataclasses.replace(found, why="; ".join(filter(None, remarks)))


def measured_outcome(
    row: Target, ratio: Spread, ours: Spread | None, theirs: Spread | None, unit: str = "s"
) -> Outcome:
    """Return a measured row with its verdict."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=judge(ratio, row.bound), bound=row.bound, ratio=ratio, ours=ours,
                   theirs=theirs, unit=unit)  # fmt: skip


def unmeasured_outcome(row: Target, status: Status, why: str) -> Outcome:
    """Return a row without a measurement, with the reason."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=status, bound=row.bound, why=why)  # fmt: skip


def smallest_ratio_note(outcomes: Sequence[Outcome], against: str, bound: float) -> str:
    """Return a line on the smallest ratio to a peer and whether it is below `bound`.

    Rows without a target do not count. Empty if no row is left.
    """
    ratios = {
        outcome.name: outcome.ratio.median
        for outcome in outcomes
        if outcome.against == against and outcome.ratio is not None and outcome.bound is not None
    }
    if not ratios:
        return ""
    name = min(ratios, key=lambda name: ratios[name])
    met = "met" if ratios[name] < bound else "MISSED"
    return f"at least one ratio to {against} below {bound:g}: {met}, {ratios[name]:.2f} at {name}"
