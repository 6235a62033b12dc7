"""The table of workloads, and `measure`: from the selected targets to their outcomes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from bench.contest import (
    Contender,
    InterleavedTiming,
    NotTimedError,
    mapped_errors,
    time_rounds,
    timed_outcome,
    unmeasured_outcome,
    verify_after,
)
from bench.kernels import ATTENTION_KERNELS
from bench.limits import READS
from bench.models import Measurement
from bench.results import Outcome, Status
from bench.targets import MODEL_PEERS, Target, Task
from bench.timing import cuda
from bench.workloads import attention, decoding, model, optimizer, tokenizer, training
from parity.errors import EnvironmentUnfitError
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.optimizer import VARIANTS

MeasureFigure = Callable[[Target, Measurement], Outcome]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of work."""

    names: Sequence[str]  # of the contenders that `pytest bench` times
    make: Callable[[str, Task, torch.device, Measurement], Contender]  # returns a verified one
    ours: Callable[[str], bool] = lambda name: name != "huggingface"
    """Other libraries' contenders may lack a dtype or a device."""
    after: Callable[[InterleavedTiming, Task, torch.device, Measurement], None] | None = None
    figures: Mapping[str, MeasureFigure] = dataclasses.field(default_factory=dict)
    """How to measure figures other than time."""


WORKLOADS = {
    "core": Workload(
        names=tuple(ATTENTION_KERNELS),
        make=attention.make,
        ours=attention.ours,
        after=attention.record_series,
        figures={"exponent": attention.memory_growth},
    ),
    "model": Workload(
        names=(*BACKENDS, *MODEL_PEERS, *model.LIMITS),
        make=model.make,
        ours=lambda name: name not in MODEL_PEERS,
        figures={"memory": model.peak_memory},
    ),
    "decode": Workload(
        names=("fused", "fused in bfloat16", "huggingface", *READS),
        make=decoding.make,
    ),
    "train": Workload(
        names=("fused", "huggingface"),
        make=training.make,
        figures={"memory": functools.partial(model.peak_memory, job="train")},
    ),
    "optimizer": Workload(
        names=(*VARIANTS, "torch foreach", "torch fused"),
        make=optimizer.make,
        ours=optimizer.ours,
    ),
    "tokens": Workload(
        names=tuple(tokenizer.TOKENIZERS),
        make=tokenizer.make,
        figures={"exponent": tokenizer.time_growth},
    ),
}
"""Every workload by the name with which its targets begin."""


def measure(rows: Sequence[Target], run: Measurement) -> list[Outcome]:
    """Return an outcome for every row, in the same order; rows of one task are timed together."""
    found: dict[str, Outcome] = {}
    tasks = list(dict.fromkeys(row.task for row in rows))
    for done, task in enumerate(tasks):
        run.progress(str(task), done, len(tasks))
        mine = [row for row in rows if row.task == task]
        timed = [row for row in mine if row.figure == "time"]
        outcomes = [*_timed(task, timed, run)] if timed else []
        outcomes += [_figure(row, run) for row in mine if row.figure != "time"]
        found |= {outcome.name: outcome for outcome in outcomes}
    return [found[row.name] for row in rows]


def _timed(task: Task, rows: Sequence[Target], run: Measurement) -> Iterable[Outcome]:
    try:
        device = torch.device("cpu") if task.device == "cpu" else cuda()
    except EnvironmentUnfitError as error:
        return [unmeasured_outcome(row, Status.NOT_RUN, error.what) for row in rows]
    workload, timing = WORKLOADS[task.workload], InterleavedTiming()
    for name in dict.fromkeys(name for row in rows for name in (row.ours, row.against)):
        make = functools.partial(workload.make, name, task, device, run)
        timing.add(name, make, ours=workload.ours(name))
    time_rounds(timing, device, run.rounds or task.rounds)
    verify_after(timing)
    if workload.after is not None:
        workload.after(timing, task, device, run)
    return [timed_outcome(row, timing) for row in rows]


def _figure(row: Target, run: Measurement) -> Outcome:
    try:
        with mapped_errors(ours=False):
            return WORKLOADS[row.task.workload].figures[row.figure](row, run)
    except NotTimedError as error:
        return unmeasured_outcome(row, error.status, error.why)
