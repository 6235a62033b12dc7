"""From the rows asked for to outcomes: contests are held, other figures taken, bounds judged."""

import functools
from collections.abc import Iterable, Sequence

import torch

from bench.attempt import NoTimeError, attempted
from bench.clock import cuda
from bench.contest import Contest, held, proved_after
from bench.figures import open_row, timed_outcome
from bench.measurement import Measurement
from bench.outcome import Outcome, Status
from bench.rooms import ROOMS
from bench.task import Row, Task
from parity.errors import EnvironmentUnfitError


def measure(rows: Sequence[Row], run: Measurement) -> list[Outcome]:
    """Return an outcome for every row, in their order."""
    found: dict[str, Outcome] = {}
    tasks = list(dict.fromkeys(row.task for row in rows))
    for done, task in enumerate(tasks):
        run.progress(str(task), done, len(tasks))
        mine = [row for row in rows if row.task == task]
        for outcome in _of_task(task, mine, run):
            found[outcome.name] = outcome
    return [found[row.name] for row in rows]


def _of_task(task: Task, rows: Sequence[Row], run: Measurement) -> Iterable[Outcome]:
    timed = [row for row in rows if row.figure == "time"]
    if timed:
        yield from _contested(task, timed, run)
    for row in rows:
        if row.figure != "time":
            yield _weighed(row, run)


def _contested(task: Task, rows: Sequence[Row], run: Measurement) -> Iterable[Outcome]:
    try:
        device = torch.device("cpu") if task.device == "cpu" else cuda()
    except EnvironmentUnfitError as error:
        yield from (open_row(row, Status.NOT_RUN, error.what) for row in rows)
        return
    room, contest = ROOMS[task.room], Contest()
    for name in dict.fromkeys(name for row in rows for name in (row.ours, row.against)):
        make = functools.partial(room.make, name, task, device, run)
        contest.enter(name, make, ours=room.ours(name))
    held(contest, device, run.rounds or task.rounds)
    proved_after(contest)
    room.after(contest, task, device, run)
    yield from (timed_outcome(row, contest) for row in rows)


def _weighed(row: Row, run: Measurement) -> Outcome:
    try:
        with attempted(ours=False):
            return ROOMS[row.task.room].figures[row.figure](row, run)
    except NoTimeError as error:
        return open_row(row, error.status, error.why)
