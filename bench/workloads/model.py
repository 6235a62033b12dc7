"""Passes of whole models, the limits of any model, and peak memory."""

import functools
import tempfile
from collections.abc import Callable

import torch

from bench import memory
from bench.contest import Contender, NotTimedError, measured_outcome
from bench.limits import READS, fastest, matrices, products_alone
from bench.models import Measurement, Model, Models, verify_backward, verify_forward
from bench.results import Outcome, Status, paired_ratios, spread
from bench.targets import MODEL_PEERS, Target, Task
from bench.timing import Run

LIMITS: dict[str, Callable[[Models, Task], Run]] = {
    "products alone": lambda models, task: products_alone(
        models.ours, task.shape.batch, task.shape.time
    ),
    "bare read": lambda models, _task: fastest(matrices(models.ours), READS["bare read"]),
}
"""Lower bounds of any model's time."""


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a whole model's verified pass, or a limit."""
    models, ids = run.models, run.models.ids(task.shape)
    if name in LIMITS:
        if task.shape.backward:
            raise NotTimedError(Status.NOT_PLANNED, "a limit of the forward pass alone")
        return Contender(torch.no_grad()(LIMITS[name](models, task)))
    model, dtype = model_named(name, task, models)
    forward = functools.partial(verify_forward, dtype=dtype)
    verify = verify_backward if task.shape.backward else forward
    timed, error = verify(models, model, ids)
    return Contender(timed, error, lambda: verify(models, model, ids)[1])


def model_named(name: str, task: Task, models: Models) -> tuple[Model, str]:
    """Return the model and the dtype of a name such as `fused in bfloat16`.

    Raises:
        NotTimedError: The processor lacks the dtype, or the backend needs a GPU.
    """
    path, _, dtype = name.partition(" in ")
    dtype = dtype or task.shape.dtype
    if path == "triton":
        raise NotTimedError(Status.NOT_RUN, "no CUDA")
    # Other processors compute in float32 and round.
    if dtype == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - torch has no public query
        raise NotTimedError(Status.NOT_RUN, "no AVX512-BF16")
    wanted = getattr(torch, dtype)
    if path in MODEL_PEERS:
        return models.peer(path, wanted), dtype
    return models.with_backend(path, wanted), dtype


def peak_memory(row: Target, run: Measurement, job: str = "step") -> Outcome:
    """Return our peak memory in a job over theirs; each is measured in a fresh process."""
    shape = row.task.shape
    sizes: dict[str, list[float]] = {row.ours: [], row.against: []}
    with tempfile.TemporaryDirectory() as folder:
        run.models.ours.save_pretrained(folder)
        for _ in range(memory.REPEATS):
            for side, found in sizes.items():
                arguments = (job, side, folder, str(shape.batch), str(shape.time))
                found.append(float(memory.in_fresh_process(*arguments)))
    ours, theirs = sizes.values()
    return measured_outcome(
        row, spread(paired_ratios(ours, theirs)), spread(ours), spread(theirs), "byte"
    )
