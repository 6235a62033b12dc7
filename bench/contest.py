"""Several contestants on one task, round by round, so that a drifting machine cannot lie.

Each round runs every contestant once, in an order that turns from round to round. A contestant
that runs out of memory drops out; the others go on.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import torch

from bench.attempt import NoTimeError, attempted
from bench.clock import calls_for, seconds

Run = Callable[[], object]


@dataclasses.dataclass
class Contest:
    """One task's contestants, and what they took.

    Attributes:
        runs: Who still takes part: what each of them runs.
        taken: Seconds of each round.
        out: Why the others do not.
        errors: How far each one's answers are from the oracle's.
    """

    runs: dict[str, Run] = dataclasses.field(default_factory=dict)
    taken: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    out: dict[str, NoTimeError] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)

    def enter(self, name: str, make: Callable[[], tuple[Run, float]], *, ours: bool) -> None:
        """Let a contestant take part, unless it cannot be made, or is wrong."""
        try:
            with attempted(ours=ours):
                self.runs[name], self.errors[name] = make()
        except NoTimeError as error:
            self.out[name] = error

    def drop(self, name: str, error: NoTimeError) -> None:
        """Take a contestant out, and what it had taken with it."""
        self.runs.pop(name, None)
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
    for name in list(contest.runs):
        once = _measured(contest, name, device, 1)
        calls[name] = calls_for(once) if once is not None else 0
    contest.taken = {name: [] for name in contest.runs}
    for number in range(rounds):
        for name in turned(list(contest.runs), number):
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
            return seconds(contest.runs[name], device, calls=calls)
    except NoTimeError as error:
        contest.drop(name, error)
        return None


def proved_after(contest: Contest, checks: Mapping[str, Callable[[], float]]) -> None:
    """Take out whoever's answers are wrong once the clock has stopped."""
    for name, check in checks.items():
        if name in contest.runs:
            try:
                with attempted(ours=True):
                    check()
            except NoTimeError as error:
                contest.drop(name, error)
