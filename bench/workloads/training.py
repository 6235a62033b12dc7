"""A whole training step, verified by every parameter's change and gradient in float64.

Expected gradients come from Hugging Face's model in float64, expected changes from the formula of
AdamW in `bench.training_steps`. Clipping halves the gradients' norm, so that it is verified too.

With dropout two steps differ. A step is then verified without it, and timed with it after two
losses of the same weights and tokens differed.
"""

import copy
import dataclasses
import math

import torch
from torch import Tensor

from bench.contest import Contender, NotTimedError
from bench.models import (
    Measurement,
    Models,
    References,
    largest_error,
    parameters_of,
    reference_errors,
    reference_gradients,
)
from bench.results import Status
from bench.targets import Task
from bench.training_steps import (
    InitialState,
    Training,
    changes,
    expected_change,
    initial_state,
)
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS


@dataclasses.dataclass(frozen=True)
class ExpectedStep:
    """The state before a step, and the expected changes and clipped gradients in float64.

    Gains are near 1, so rounding may hide a thousandth of a gain's change; its gradient shows it.
    """

    start: InitialState
    left: References


def expected_step(models: Models, token_ids: Tensor) -> ExpectedStep:
    """Return the state before a step on some tokens, and its expected results."""
    clipped = {
        name: reference.tensor for name, reference in reference_gradients(models, token_ids).items()
    }
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in clipped.values()))
    for gradient in clipped.values():
        gradient.mul_(_KEPT)
    values = {name: p.detach() for name, p in parameters_of(models.ours).items()}
    scales = {name: float(g.square().mean().sqrt()) for name, g in clipped.items()}
    start = initial_state(values, scales, maximum=_KEPT * norm)
    left = {name: Reference(expected_change(name, g, start)) for name, g in clipped.items()}
    left |= {name + GRADIENT: Reference(gradient) for name, gradient in clipped.items()}
    return ExpectedStep(start, left)


_KEPT = 0.5
"""The norm after clipping over the norm before."""

GRADIENT = "'s gradient"


def training_side(models: Models, name: str) -> Training:
    """Return our training or Hugging Face's, on its own copy of the weights."""
    its = models.theirs if name == "huggingface" else models.with_backend(name)
    return Training(copy.deepcopy(its))


def step_results(side: Training, token_ids: Tensor, start: InitialState) -> dict[str, Tensor]:
    """Return the changes of one step from `start`, and its gradients."""
    side.reset(start)
    side.step(token_ids)
    gradients = {n: p.grad for n, p in side.parameters.items() if p.grad is not None}
    found = changes(side.parameters, start)
    return found | {name + GRADIENT: gradient for name, gradient in gradients.items()}


def verified(models: Models, side: Training, token_ids: Tensor, *, dropout: bool) -> Contender:
    """Return a verified training step; timed steps go on from its weights, on the same tokens.

    Before, it makes a step on other tokens in the same tensor.

    Raises:
        WrongKernelError: An error of a change or gradient is larger than rounding explains.
        NotTimedError: Dropout was asked for, and there is none.
    """
    key = tuple(token_ids.shape)
    right: ExpectedStep = models.cached(("step", key), lambda: expected_step(models, token_ids))

    def noise() -> object:
        yardstick = training_side(models, "huggingface")
        return reference_errors(step_results(yardstick, token_ids, right.start), right.left)

    allowed = models.cached(("step noise", key), noise)
    wanted = token_ids.clone()
    token_ids.copy_(wanted.flip(0, 1))
    step_results(side, token_ids, right.start)
    token_ids.copy_(wanted)

    def check() -> float:
        side.model.eval()
        found = step_results(side, token_ids, right.start)
        return largest_error(found, right.left, allowed, PRECISIONS["float32"])

    error = check()
    if dropout:
        side.model.train()
        losses = set()
        for _ in range(2):
            side.reset(right.start)
            losses.add(side.step(token_ids))
        if len(losses) == 1:
            why = "no dropout: two losses from one state are the same"
            raise NotTimedError(Status.INCONCLUSIVE, why)
    return Contender(lambda: side.step(token_ids), error, check)


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a verified training step."""
    dropout = task.label.endswith("-dropout")
    ids = run.models.ids(task.shape)
    return verified(run.models, training_side(run.models, name), ids, dropout=dropout)
