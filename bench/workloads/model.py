"""Passes of whole models as contestants, the limits that are no models, and peak memory."""

import functools
import tempfile
from collections.abc import Callable

import torch

from bench import memory
from bench.contest import Contender, NoTimeError, Run, closed_row
from bench.models import Measurement, Models, prove_both, prove_forward
from bench.results import Outcome, Status, paired_ratios, spread
from bench.targets import Target, Work
from bench.timing import bare_read, products_alone


def ours(name: str) -> bool:
    """Return whether a contestant is this project's."""
    return name != "huggingface"


LIMITS: dict[str, Callable[[Models, Work], Run]] = {
    "products alone": lambda models, task: products_alone(
        models.ours, task.shape.batch, task.shape.time
    ),
    "bare read": lambda models, _task: bare_read(list(models.ours.parameters())),
}
"""What no model can beat."""


def make(name: str, task: Work, _device: torch.device, run: Measurement) -> Contender:
    """Return a whole model's pass, proved; or a limit."""
    models, ids = run.models, run.models.ids(task.shape)
    if name in LIMITS:
        return Contender(torch.no_grad()(LIMITS[name](models, task)))
    path, dtype = named(name, task)
    wanted = getattr(torch, dtype)
    model = models.huggingface(wanted) if path == "huggingface" else models.path(path, wanted)
    prove = prove_both if task.shape.backward else functools.partial(prove_forward, dtype=dtype)
    timed, error = prove(models, model, ids)
    return Contender(timed, error, lambda: prove(models, model, ids)[1])


def named(name: str, task: Work) -> tuple[str, str]:
    """Return the path and the dtype that a contestant's name says: `fused in bfloat16`.

    Raises:
        NoTimeError: The processor lacks the dtype.
    """
    path, _, dtype = name.partition(" in ")
    dtype = dtype or task.shape.dtype
    check_dtype(dtype)
    return path, dtype


def check_dtype(dtype: str) -> None:
    """Require a processor with products of its own in a dtype.

    Raises:
        NoTimeError: It would compute in float32 and round.
    """
    if dtype == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - torch has no public question
        raise NoTimeError(Status.NOT_RUN, "no AVX512-BF16")


def peaks(row: Target, run: Measurement, job: str = "step") -> Outcome:
    """Return the peak memory of a job over the other side's, a fresh process each."""
    shape = row.task.shape
    sizes: dict[str, list[float]] = {row.ours: [], row.against: []}
    with tempfile.TemporaryDirectory() as folder:
        run.models.ours.save_pretrained(folder)
        for _ in range(memory.REPEATS):
            for side, found in sizes.items():
                taken = memory.fresh(job, side, folder, str(shape.batch), str(shape.time))
                found.append(float(taken))
    ours, theirs = sizes.values()
    return closed_row(
        row, spread(paired_ratios(ours, theirs)), spread(ours), spread(theirs), "byte"
    )
