"""From the rows asked for to outcomes: contests are held, memory is weighed, bounds are judged."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence

import torch

from bench import memory
from bench.attempt import NoTimeError, attempted, check_planned, memory_for
from bench.clock import cuda
from bench.contest import Contest, held, proved_after
from bench.document import Series
from bench.held import Row, Task
from bench.kernels import SUBJECTS
from bench.limits import ABOVE, bare_read, matrix_rate, products_alone
from bench.models import Models, prove_both, prove_forward
from bench.outcome import Outcome, Status, judged
from bench.proof import prove
from bench.statistics import Spread, exponent, ratios, spread
from parity.errors import EnvironmentUnfitError

Progress = Callable[[str, int, int], None]

EXPONENT_TIMES = (1024, 2048, 4096, 8192)
"""Lengths between which the growth of memory is fitted."""


@dataclasses.dataclass
class Measurement:
    """What one run measures: its settings, and what is prepared once.

    Attributes:
        rounds: Rounds of every contest; None for each task's own.
        progress: Called as rows are done.
        rates: The matrix rate by device and dtype, measured when first needed.
        series: The points of the picture.
    """

    rounds: int | None
    progress: Progress
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    series: list[Series] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def models(self) -> Models:
        """Both models, built when the first row needs them."""
        self.progress("drawing the weights", 0, 1)
        return Models()

    def rate(self, task: Task, device: torch.device, seen: float) -> float:
        """Return the matrix rate; measured again where something seems to be above it."""
        key = f"{device.type}-{task.shape.dtype}"
        if seen > ABOVE * self.rates.get(key, 0.0):
            self.rates[key] = max(self.rates.get(key, 0.0), matrix_rate(task.shape.dtype, device))
        return self.rates[key]


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
    names = dict.fromkeys(name for row in rows for name in (row.ours, row.against))
    enter = {"core": enter_cores, "model": enter_models}[task.room]
    contest = Contest()
    checks = enter(contest, task, list(names), device, run)
    held(contest, device, run.rounds or task.rounds)
    proved_after(contest, checks)
    if task.room == "core":
        note(contest, task, device, run)
    yield from (timed_outcome(row, contest) for row in rows)


def enter_cores(
    contest: Contest, task: Task, names: Sequence[str], device: torch.device, _run: Measurement
) -> dict[str, Callable[[], float]]:
    """Let attention kernels take part; return how each is proved again."""
    checks: dict[str, Callable[[], float]] = {}

    def make(name: str) -> tuple[Callable[[], object], float]:
        check_planned(SUBJECTS[name], task.shape, device, memory_for(device))
        proved = prove(SUBJECTS[name], task.shape, device)
        checks[name] = lambda: proved.check(proved.run())
        return proved.run, proved.error

    for name in names:
        contest.enter(name, functools.partial(make, name), ours=SUBJECTS[name].ours)
    return checks


def enter_models(
    contest: Contest, task: Task, names: Sequence[str], _device: torch.device, run: Measurement
) -> dict[str, Callable[[], float]]:
    """Let whole models take part, and the limits that are no models."""
    models, shape = run.models, task.shape
    limits: dict[str, Callable[[], Callable[[], object]]] = {
        "products alone": lambda: products_alone(models.ours, shape.batch, shape.time),
        "bare read": lambda: bare_read(list(models.ours.parameters())),
    }

    def make(name: str) -> tuple[Callable[[], object], float]:
        if name in limits:
            return torch.no_grad()(limits[name]()), 0.0
        path, _, dtype = name.partition(" in ")
        dtype = dtype or shape.dtype
        check_dtype(dtype)
        wanted = getattr(torch, dtype)
        model = models.huggingface(wanted) if path == "huggingface" else models.path(path, wanted)
        ids = models.ids(shape)
        if shape.backward:
            return prove_both(models, model, ids)
        return prove_forward(models, model, ids, dtype)

    for name in names:
        contest.enter(name, functools.partial(make, name), ours=name != "huggingface")
    return {}


def check_dtype(dtype: str) -> None:
    """Require a processor with products of its own in a dtype.

    Raises:
        NoTimeError: It would compute in float32 and round.
    """
    if dtype == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - torch has no public question
        raise NoTimeError(Status.NOT_RUN, "no AVX512-BF16")


def note(contest: Contest, task: Task, device: torch.device, run: Measurement) -> None:
    """Keep what each kernel took for the picture; drop whoever is faster than the machine."""
    shape = task.shape
    for name, taken in list(contest.taken.items()):
        found = spread(taken)
        reached = shape.flops / found.median
        share = reached / run.rate(task, device, reached)
        if share > ABOVE:
            why = f"{share:.0%} of the matrix rate: the clock or the count of operations is wrong"
            contest.drop(name, NoTimeError(Status.INCONCLUSIVE, why))
            continue
        work = f"attention, {shape.direction}, {shape.dtype}, batch {shape.batch}, {device.type}"
        point = Series(work=work, subject=name, time=shape.time, seconds=found, flops=shape.flops,
                       bytes=shape.bytes, ceiling=share, error=contest.errors[name])  # fmt: skip
        run.series.append(point)


def timed_outcome(row: Row, contest: Contest) -> Outcome:
    """Return one row of a contest."""
    for name in (row.ours, row.against):
        if name in contest.out:
            error = contest.out[name]
            return open_row(row, error.status, f"{name}: {error.why}")
    ours, theirs = contest.taken[row.ours], contest.taken[row.against]
    return closed_row(row, spread(ratios(ours, theirs)), spread(ours), spread(theirs))


def closed_row(
    row: Row, ratio: Spread, ours: Spread | None, theirs: Spread | None, unit: str = "s"
) -> Outcome:
    """Return a row that has a figure, judged."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=judged(ratio, row.bound), bound=row.bound, ratio=ratio, ours=ours,
                   theirs=theirs, unit=unit)  # fmt: skip


def open_row(row: Row, status: Status, why: str) -> Outcome:
    """Return a row that has none."""
    return Outcome(name=row.name, work=f"{row.ours}: {row.task}", against=row.against,
                   status=status, bound=row.bound, why=why)  # fmt: skip


def _weighed(row: Row, run: Measurement) -> Outcome:
    try:
        with attempted(ours=False):
            return {"memory": _peaks, "exponent": _exponent}[row.figure](row, run)
    except NoTimeError as error:
        return open_row(row, error.status, error.why)


def _peaks(row: Row, run: Measurement) -> Outcome:
    """Return the peak memory of a training step over the other side's, a fresh process each."""
    shape = row.task.shape
    sizes: dict[str, list[float]] = {row.ours: [], row.against: []}
    with tempfile.TemporaryDirectory() as folder:
        run.models.ours.save_pretrained(folder)
        for _ in range(memory.REPEATS):
            for side, found in sizes.items():
                job = memory.fresh("step", side, folder, str(shape.batch), str(shape.time))
                found.append(float(job))
    ours, theirs = sizes.values()
    return closed_row(row, spread(ratios(ours, theirs)), spread(ours), spread(theirs), "byte")


def _exponent(row: Row, run: Measurement) -> Outcome:
    """Return how a core's peak memory grows with time, as a power of it."""
    fitted, longest = [], []
    for _ in range(memory.REPEATS):
        peaks = []
        for done, time in enumerate(EXPONENT_TIMES):
            run.progress(f"{row.name} at {time}", done, len(EXPONENT_TIMES))
            peaks.append(float(memory.fresh("core", row.ours, str(time))))
        fitted.append(exponent(EXPONENT_TIMES, peaks))
        longest.append(peaks[-1])
    return closed_row(row, spread(fitted), spread(longest), None, "byte")


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
