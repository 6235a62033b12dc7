"""From the rows asked for to outcomes: contests are held, other figures taken, bounds judged."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from bench.contest import (
    Contender,
    InterleavedTiming,
    NoTimeError,
    attempted,
    held,
    open_row,
    proved_after,
    timed_outcome,
)
from bench.models import Measurement
from bench.results import Outcome, Status
from bench.targets import Target, Work
from bench.timing import cuda
from bench.workloads import attention, decoding, model, optimizer, tokenizer, training
from parity.errors import EnvironmentUnfitError

# The kinds of work that are measured: one file each, and who does what in it. A table.


Make = Callable[[str, Work, torch.device, Measurement], Contender]
Weigh = Callable[[Target, Measurement], Outcome]


def _nothing(
    _contest: InterleavedTiming, _task: Work, _device: torch.device, _run: Measurement
) -> None:
    """Leave a contest as it ended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of work.

    Attributes:
        make: Returns a contestant of some name, proved and ready to be timed.
        ours: Whether a contestant is this project's: others' may lack a dtype or a device.
        after: Called with a contest that is over.
        figures: What else than time is measured here, and how.
    """

    make: Make
    ours: Callable[[str], bool]
    after: Callable[[InterleavedTiming, Work, torch.device, Measurement], None] = _nothing
    figures: Mapping[str, Weigh] = dataclasses.field(default_factory=dict)


WORKLOADS = {
    "core": Workload(
        make=attention.make,
        ours=attention.ours,
        after=attention.note,
        figures={"exponent": attention.growth},
    ),
    "model": Workload(make=model.make, ours=model.ours, figures={"memory": model.peaks}),
    "decode": Workload(make=decoding.make, ours=model.ours),
    "train": Workload(make=training.make, ours=model.ours, figures={"memory": training.peaks}),
    "optimizer": Workload(make=optimizer.make, ours=optimizer.ours),
    "tokens": Workload(
        make=tokenizer.make, ours=tokenizer.ours, figures={"exponent": tokenizer.growth}
    ),
}
"""Every kind of work by its name in the rows."""


def measure(rows: Sequence[Target], run: Measurement) -> list[Outcome]:
    """Return an outcome for every row, in their order."""
    found: dict[str, Outcome] = {}
    tasks = list(dict.fromkeys(row.task for row in rows))
    for done, task in enumerate(tasks):
        run.progress(str(task), done, len(tasks))
        mine = [row for row in rows if row.task == task]
        for outcome in _of_task(task, mine, run):
            found[outcome.name] = outcome
    return [found[row.name] for row in rows]


def _of_task(task: Work, rows: Sequence[Target], run: Measurement) -> Iterable[Outcome]:
    timed = [row for row in rows if row.figure == "time"]
    if timed:
        yield from _contested(task, timed, run)
    for row in rows:
        if row.figure != "time":
            yield _weighed(row, run)


def _contested(task: Work, rows: Sequence[Target], run: Measurement) -> Iterable[Outcome]:
    try:
        device = torch.device("cpu") if task.device == "cpu" else cuda()
    except EnvironmentUnfitError as error:
        yield from (open_row(row, Status.NOT_RUN, error.what) for row in rows)
        return
    room, contest = WORKLOADS[task.room], InterleavedTiming()
    for name in dict.fromkeys(name for row in rows for name in (row.ours, row.against)):
        make = functools.partial(room.make, name, task, device, run)
        contest.enter(name, make, ours=room.ours(name))
    held(contest, device, run.rounds or task.rounds)
    proved_after(contest)
    room.after(contest, task, device, run)
    yield from (timed_outcome(row, contest) for row in rows)


def _weighed(row: Target, run: Measurement) -> Outcome:
    try:
        with attempted(ours=False):
            return WORKLOADS[row.task.room].figures[row.figure](row, run)
    except NoTimeError as error:
        return open_row(row, error.status, error.why)
