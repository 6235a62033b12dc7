"""A whole training step, proved by what it leaves: every change and gradient, against float64.

What is right comes from Hugging Face's model in float64 with autograd, and from the formula of
AdamW written out in `bench.training_steps`. Half of the gradients' norm is cut off, so that
clipping is part of what is proved.

With dropout no two steps are alike. A contestant is then proved without it, and timed with it
after two losses of the same weights and tokens were seen to differ.
"""

import copy
import dataclasses
import math

import torch
from torch import Tensor

from bench.contest import Contender, NotTimedError
from bench.models import Measurement, Models, Truths, largest_error, noises, true_gradients
from bench.results import Outcome, Status
from bench.targets import Target, Task
from bench.training_steps import (
    Start,
    Training,
    changes,
    expected_change,
    initial_state,
    parameters_of,
)
from bench.workloads.model import peak_memory as model_peak_memory
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS


@dataclasses.dataclass(frozen=True)
class Right:
    """Where a step begins, and in float64 what it leaves: changes, and the clipped gradients.

    A gain is near 1, so that rounding hides a thousandth of its change; its gradient hides nothing.
    """

    start: Start
    left: Truths


def right_for(models: Models, token_ids: Tensor) -> Right:
    """Return the start and what a step on some tokens leaves."""
    clipped = {name: held.tensor for name, held in true_gradients(models, token_ids).items()}
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in clipped.values()))
    for gradient in clipped.values():
        gradient.mul_(_KEPT)
    values = {name: p.detach() for name, p in parameters_of(models.ours).items()}
    scales = {name: float(g.square().mean().sqrt()) for name, g in clipped.items()}
    start = initial_state(values, scales, maximum=_KEPT * norm)
    left = {name: Reference(expected_change(name, g, start)) for name, g in clipped.items()}
    left |= {name + GRADIENT: Reference(gradient) for name, gradient in clipped.items()}
    return Right(start, left)


_KEPT = 0.5
"""What clipping leaves of the norm."""

GRADIENT = "'s gradient"


def contestant(models: Models, name: str) -> Training:
    """Return one side, on weights of its own."""
    its = models.theirs if name == "huggingface" else models.with_backend(name)
    return Training(copy.deepcopy(its))


def left_by(side: Training, token_ids: Tensor, start: Start) -> dict[str, Tensor]:
    """Return what one step from the start leaves: changes, and the gradients it was made of."""
    side.begin(start)
    side.step(token_ids)
    gradients = {n: p.grad for n, p in side.parameters.items() if p.grad is not None}
    found = changes(side.parameters, start)
    return found | {name + GRADIENT: gradient for name, gradient in gradients.items()}


def verified(models: Models, side: Training, token_ids: Tensor, *, dropout: bool) -> Contender:
    """Return a side ready to be timed: step after step on the same tokens, weights moving on.

    Before the proof it made a step on other tokens in the same tensor.

    Raises:
        WrongKernelError: It changes a parameter by something else than rounding explains.
        NotTimedError: There is to be dropout, and there is none.
    """
    key = tuple(token_ids.shape)
    right: Right = models.cached(("step", key), lambda: right_for(models, token_ids))

    def noise() -> object:
        yardstick = contestant(models, "huggingface")
        return noises(left_by(yardstick, token_ids, right.start), right.left)

    allowed = models.cached(("step noise", key), noise)
    wanted = token_ids.clone()
    token_ids.copy_(wanted.flip(0, 1))
    left_by(side, token_ids, right.start)
    token_ids.copy_(wanted)

    def check() -> float:
        side.model.eval()
        found = left_by(side, token_ids, right.start)
        return largest_error(found, right.left, allowed, PRECISIONS["float32"])

    error = check()
    if dropout:
        check_dropout(side, token_ids, right.start)
    return Contender(lambda: side.step(token_ids), error, check)


def check_dropout(side: Training, token_ids: Tensor, start: Start) -> None:
    """Put a side into training mode, and require that this makes its losses random.

    Raises:
        NotTimedError: It does not.
    """
    side.model.train()
    losses = set()
    for _ in range(2):
        side.begin(start)
        losses.add(side.step(token_ids))
    if len(losses) == 1:
        raise NotTimedError(Status.INCONCLUSIVE, "there is no dropout: both losses are the same")


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a side's training step, proved."""
    dropout = task.label.endswith("-dropout")
    ids = run.models.ids(task.shape)
    return verified(run.models, contestant(run.models, name), ids, dropout=dropout)


def peak_memory(row: Target, run: Measurement) -> Outcome:
    """Return the peak memory of a training step over the other side's."""
    return model_peak_memory(row, run, "train")
