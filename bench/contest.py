"""Several contestants on one task, round by round, so that a drifting machine cannot lie.

Each round runs every contestant once, in an order that turns from round to round. A contestant
that runs out of memory drops out; the others go on.
"""

import dataclasses
from collections.abc import Callable, Iterable

import torch

from bench.attempt import NoTimeError, attempted
from bench.clock import calls_for, seconds

Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Ready:
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
class Contest:
    """One task's contestants, and what they took.

    Attributes:
        ready: Who still takes part.
        taken: Seconds of each round.
        out: Why the others do not.
    """

    ready: dict[str, Ready] = dataclasses.field(default_factory=dict)
    taken: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    out: dict[str, NoTimeError] = dataclasses.field(default_factory=dict)

    def enter(self, name: str, make: Callable[[], Ready], *, ours: bool) -> None:
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


def held(contest: Contest, device: torch.device, rounds: int) -> Contest:
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
        for name in turned(list(contest.ready), number):
            taken = _measured(contest, name, device, calls[name])
            if taken is not None:
                contest.taken[name].append(taken)
    return contest


def turned(names: list[str], number: int) -> Iterable[str]:
    """Return the order of a round: each name comes first once before any comes first again."""
    start = number % max(1, len(names))
    return [*names[start:], *names[:start]]


def _measured(contest: Contest, name: str, device: torch.device, calls: int) -> float | None:
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


def proved_after(contest: Contest) -> None:
    """Take out whoever's answers are wrong once the clock has stopped."""
    for name, ready in list(contest.ready.items()):
        if ready.check is not None:
            try:
                with attempted(ours=True):
                    ready.check()
            except NoTimeError as error:
                contest.drop(name, error)
