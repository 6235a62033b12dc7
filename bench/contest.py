"""Several contestants on one task, round by round, so that a drifting machine cannot lie.

Each round runs every contestant once, in an order that turns from round to round. A contestant
that runs out of memory drops out; the others go on.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from bench.kernels import Subject
from bench.results import Outcome, Spread, Status, judged, paired_ratios, spread
from bench.shapes import Shape
from bench.targets import Target
from bench.timing import calls_for, seconds
from bench.verify import WrongKernelError

# What can go wrong with one row while the others go on.


class NoTimeError(Exception):
    """A row that gets no time.

    Attributes:
        status: Which kind.
        why: One phrase.
    """

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status}: {why}")
        self.status = status
        self.why = why


@contextlib.contextmanager
def attempted(*, ours: bool) -> Iterator[None]:
    """Turn what a kernel may raise into the reason why it gets no time.

    Args:
        ours: Whether any other error is raised as it is: of others' kernels it is a reason, for
            they may lack a dtype, a direction or a device.
    """
    try:
        yield
    except NoTimeError:
        raise
    except WrongKernelError as error:
        raise NoTimeError(Status.WRONG, str(error)) from error
    except Exception as error:
        if out_of_memory(error):
            raise NoTimeError(Status.OOM, first_line(error)) from error
        if ours:
            raise
        raise NoTimeError(Status.NOT_RUN, first_line(error)) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory was lacking. On the CPU torch says so in words alone."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return an error in one phrase."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def check_planned(subject: Subject, shape: Shape, device: torch.device, memory: int) -> None:
    """Require that a kernel is to be run at a shape on a device at all.

    Raises:
        NoTimeError: It is not, and why.
    """
    if subject.device not in {None, device.type}:
        raise NoTimeError(Status.NOT_RUN, f"no {str(subject.device).upper()}")
    if why := shape.unplanned(subject.squares, memory):
        raise NoTimeError(Status.NOT_PLANNED, why.removeprefix("not planned: "))


def memory_for(device: torch.device) -> int:
    """Return the bytes that one row may plan with: half of what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _available() // 2


def _available() -> int:
    """Return the memory that the system could give; 8 GB where it does not say."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no file to be found, a question to the kernel
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 8 << 30


Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A contestant that was proved right and may be timed.

    Attributes:
        run: What is timed.
        error: How far its answers are from the truth; 0 of a limit, which has no answer.
        check: Proves it once more, when the clock has stopped.
        before: Called before each timed call, and not timed.
        remark: What to know about its time; mostly nothing.
    """

    run: Run
    error: float = 0.0
    check: Callable[[], float] | None = None
    before: Run | None = None
    remark: str = ""


@dataclasses.dataclass
class InterleavedTiming:
    """One task's contestants, and what they took.

    Attributes:
        ready: Who still takes part.
        taken: Seconds of each round.
        out: Why the others do not.
    """

    ready: dict[str, Contender] = dataclasses.field(default_factory=dict)
    taken: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    out: dict[str, NoTimeError] = dataclasses.field(default_factory=dict)

    def enter(self, name: str, make: Callable[[], Contender], *, ours: bool) -> None:
        """Let a contestant take part, unless it cannot be made, or is wrong."""
        try:
            with attempted(ours=ours):
                self.ready[name] = make()
        except NoTimeError as error:
            self.out[name] = error

    def drop(self, name: str, error: NoTimeError) -> None:
        """Take a contestant out, and what it had taken with it."""
        self.ready.pop(name, None)
        self.taken.pop(name, None)
        self.out[name] = error


def held(contest: InterleavedTiming, device: torch.device, rounds: int) -> InterleavedTiming:
    """Time every contestant in every round; return the contest.

    Args:
        contest: Who takes part.
        device: Where they run.
        rounds: How often each is measured, after a call that is not.
    """
    calls: dict[str, int] = {}
    for name in list(contest.ready):
        once = _measured(contest, name, device, 1)
        calls[name] = calls_for(once) if once is not None else 0
    contest.taken = {name: [] for name in contest.ready}
    for number in range(rounds):
        for name in take_turns(list(contest.ready), number):
            taken = _measured(contest, name, device, calls[name])
            if taken is not None:
                contest.taken[name].append(taken)
    return contest


def take_turns(names: list[str], number: int) -> Iterable[str]:
    """Return the order of a round: each name comes first once before any comes first again."""
    start = number % max(1, len(names))
    return [*names[start:], *names[:start]]


def _measured(
    contest: InterleavedTiming, name: str, device: torch.device, calls: int
) -> float | None:
    """Return the seconds of one call; None where the contestant dropped out.

    That somebody who was proved right fails now is nobody's excuse but memory's.
    """
    try:
        with attempted(ours=True):
            ready = contest.ready[name]
            return seconds(ready.run, device, calls=calls, flush=ready.before)
    except NoTimeError as error:
        contest.drop(name, error)
        return None


def proved_after(contest: InterleavedTiming) -> None:
    """Take out whoever's answers are wrong once the clock has stopped."""
    for name, ready in list(contest.ready.items()):
        if ready.check is not None:
            try:
                with attempted(ours=True):
                    ready.check()
            except NoTimeError as error:
                contest.drop(name, error)


# From figures to outcomes: rows that have one, judged, and rows that have none.


def timed_outcome(row: Target, contest: InterleavedTiming) -> Outcome:
    """Return one row of a contest."""
    for name in (row.ours, row.against):
        if name in contest.out:
            error = contest.out[name]
            return open_row(row, error.status, f"{name}: {error.why}")
    ours, theirs = contest.taken[row.ours], contest.taken[row.against]
    remarks = dict.fromkeys(contest.ready[name].remark for name in (row.ours, row.against))
    found = closed_row(row, spread(paired_ratios(ours, theirs)), spread(ours), spread(theirs))
    return dataclasses.replace(found, why="; ".join(filter(None, remarks)))


def closed_row(
    row: Target, ratio: Spread, ours: Spread | None, theirs: Spread | None, unit: str = "s"
) -> Outcome:
    """Return a row that has a figure, judged."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=judged(ratio, row.bound), bound=row.bound, ratio=ratio, ours=ours,
                   theirs=theirs, unit=unit)  # fmt: skip


def open_row(row: Target, status: Status, why: str) -> Outcome:
    """Return a row that has none."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=status, bound=row.bound, why=why)  # fmt: skip


def somewhere_below(outcomes: Sequence[Outcome], against: str, bound: float) -> str:
    """Return, in words, the smallest ratio against a peer, and whether it is below a bound.

    Of the rows that are held to something; nothing where none of them was asked for.
    """
    found = [o for o in outcomes if o.against == against and o.ratio is not None]
    found = [o for o in found if o.bound is not None]
    least = min(found, key=lambda o: o.ratio.median if o.ratio else math.inf, default=None)
    if least is None or least.ratio is None:
        return ""
    kept = "met" if least.ratio.median < bound else "MISSED"
    return (f"below {bound:g} somewhere against {against}: {kept}, "
            f"{least.ratio.median:.2f} at {least.name}")  # fmt: skip
