"""Passes of whole models, the limits of any model, and peak memory."""

import functools
import tempfile
from collections.abc import Callable

import torch

from bench import memory
from bench.contest import Contender, NotTimedError, measured_outcome
from bench.models import Measurement, Models, verify_backward, verify_forward
from bench.results import Outcome, Status, paired_ratios, spread
from bench.targets import Target, Task
from bench.timing import Run, bare_read, products_alone


def ours(name: str) -> bool:
    """Return whether a contender is this project's."""
    return name != "huggingface"


LIMITS: dict[str, Callable[[Models, Task], Run]] = {
    "products alone": lambda models, task: products_alone(
        models.ours, task.shape.batch, task.shape.time
    ),
    "bare read": lambda models, _task: bare_read(list(models.ours.parameters())),
}
"""Lower bounds of any model's time."""


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a whole model's verified pass, or a limit."""
    models, ids = run.models, run.models.ids(task.shape)
    if name in LIMITS:
        if task.shape.backward:
            raise NotTimedError(Status.NOT_PLANNED, "a limit of the forward pass alone")
        return Contender(torch.no_grad()(LIMITS[name](models, task)))
    path, dtype = named(name, task)
    wanted = getattr(torch, dtype)
    model = (
        models.huggingface(wanted) if path == "huggingface" else models.with_backend(path, wanted)
    )
    verify = (
        verify_backward if task.shape.backward else functools.partial(verify_forward, dtype=dtype)
    )
    timed, error = verify(models, model, ids)
    return Contender(timed, error, lambda: verify(models, model, ids)[1])


def named(name: str, task: Task) -> tuple[str, str]:
    """Return the backend and the dtype of a name such as `fused in bfloat16`.

    Raises:
        NotTimedError: The processor lacks the dtype, or the backend needs a GPU.
    """
    path, _, dtype = name.partition(" in ")
    dtype = dtype or task.shape.dtype
    if path == "triton":
        raise NotTimedError(Status.NOT_RUN, "no CUDA")
    check_dtype(dtype)
    return path, dtype


def check_dtype(dtype: str) -> None:
    """Require a processor with native products in a dtype.

    Raises:
        NotTimedError: It would compute in float32 and round.
    """
    if dtype == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - torch has no public query
        raise NotTimedError(Status.NOT_RUN, "no AVX512-BF16")


def peak_memory(row: Target, run: Measurement, job: str = "step") -> Outcome:
    """Return our peak memory in a job over theirs; each is measured in a fresh process."""
    shape = row.task.shape
    sizes: dict[str, list[float]] = {row.ours: [], row.against: []}
    with tempfile.TemporaryDirectory() as folder:
        run.models.ours.save_pretrained(folder)
        for _ in range(memory.REPEATS):
            for side, found in sizes.items():
                taken = memory.in_fresh_process(
                    job, side, folder, str(shape.batch), str(shape.time)
                )
                found.append(float(taken))
    ours, theirs = sizes.values()
    return measured_outcome(
        row, spread(paired_ratios(ours, theirs)), spread(ours), spread(theirs), "byte"
    )
