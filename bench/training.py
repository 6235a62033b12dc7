"""A whole training step, proved by what it changes: every parameter, against float64.

What is right comes from Hugging Face's model in float64 with autograd, and from the formula of
AdamW written out in `bench.adam`. Half of the gradients' norm is cut off, so that clipping is part
of what is proved.

With dropout no two steps are alike. A contestant is then proved without it, and timed with it
after two losses of the same weights and tokens were seen to differ.
"""

import copy
import dataclasses
import math

import torch
from torch import Tensor

from bench.adam import Start, changes, right_change, start_from
from bench.attempt import NoTimeError
from bench.contest import Ready
from bench.measurement import Measurement
from bench.models import Models, Truths, largest_error, noises, true_gradients
from bench.outcome import Outcome, Status
from bench.passes import peaks as peaks_of
from bench.task import Row, Task
from bench.training_steps import Training, parameters_of
from parity.compare import Held
from parity.tolerances import PRECISIONS


@dataclasses.dataclass(frozen=True)
class Right:
    """Where a step begins, and what it changes in float64."""

    start: Start
    changes: Truths


def right_for(models: Models, token_ids: Tensor) -> Right:
    """Return the start and the right changes of a step on some tokens."""
    gradients = {name: held.tensor for name, held in true_gradients(models, token_ids).items()}
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    clipped = {name: gradient.mul_(0.5) for name, gradient in gradients.items()}
    values = {name: p.detach() for name, p in parameters_of(models.ours).items()}
    scales = {name: float(g.square().mean().sqrt()) for name, g in clipped.items()}
    start = start_from(values, scales, maximum=0.5 * norm)
    changed = {name: Held(right_change(name, clipped.pop(name), start)) for name in list(clipped)}
    return Right(start, changed)


def contestant(models: Models, name: str) -> Training:
    """Return one side, on weights of its own."""
    its = models.theirs if name == "huggingface" else models.path(name)
    return Training(copy.deepcopy(its))


def changed(side: Training, token_ids: Tensor, start: Start) -> dict[str, Tensor]:
    """Return what one step from the start changes."""
    side.begin(start)
    side.step(token_ids)
    return changes(side.parameters, start)


def prove(models: Models, side: Training, token_ids: Tensor, *, dropout: bool) -> Ready:
    """Return a side ready to be timed: step after step on the same tokens, weights moving on.

    Before the proof it made a step on other tokens in the same tensor.

    Raises:
        WrongKernelError: It changes a parameter by something else than rounding explains.
        NoTimeError: There is to be dropout, and there is none.
    """
    key = tuple(token_ids.shape)
    right: Right = models.kept(("step", key), lambda: right_for(models, token_ids))

    def noise() -> object:
        yardstick = contestant(models, "huggingface")
        return noises(changed(yardstick, token_ids, right.start), right.changes)

    allowed = models.kept(("step noise", key), noise)
    wanted = token_ids.clone()
    token_ids.copy_(wanted.flip(0, 1))
    changed(side, token_ids, right.start)
    token_ids.copy_(wanted)

    def check() -> float:
        side.model.eval()
        found = changed(side, token_ids, right.start)
        return largest_error(found, right.changes, allowed, PRECISIONS["float32"])

    error = check()
    if dropout:
        check_dropout(side, token_ids, right.start)
    return Ready(lambda: side.step(token_ids), error, check)


def check_dropout(side: Training, token_ids: Tensor, start: Start) -> None:
    """Put a side into training mode, and require that this makes its losses random.

    Raises:
        NoTimeError: It does not.
    """
    side.model.train()
    losses = set()
    for _ in range(2):
        side.begin(start)
        losses.add(side.step(token_ids))
    if len(losses) == 1:
        raise NoTimeError(Status.INCONCLUSIVE, "there is no dropout: both losses are the same")


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Ready:
    """Return a side's training step, proved."""
    dropout = task.label.endswith("-dropout")
    ids = run.models.ids(task.shape)
    return prove(run.models, contestant(run.models, name), ids, dropout=dropout)


def peaks(row: Row, run: Measurement) -> Outcome:
    """Return the peak memory of a training step over the other side's."""
    return peaks_of(row, run, "train")
