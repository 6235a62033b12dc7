"""Clipping by the global norm: all gradients are scaled alike, so that their direction stays."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from scratch_gpt.runs import longest_run, runs

# The gradient that a parameter must have before a step is made of it.


class GradientError(ValueError):
    """Gradients that no step can be made of; no parameter was changed.

    Attributes:
        what: What is wrong, in one line.
        where: The parameters concerned.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class NotFiniteError(GradientError):
    """Gradients that are not finite, or too large for their norm to be."""


def checked_gradient(name: str, parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient itself, not a copy.

    Raises:
        GradientError: There is none, or a sparse one: a parameter left out of a step without a
            word is a fault that shows as slow learning and nowhere else.
    """
    gradient = parameter.grad
    if gradient is None:
        raise GradientError(
            f"{name} has no gradient",
            where=name,
            fix="call backward before the step, or leave out parameters that the loss does not use",
        )
    if gradient.is_sparse:
        raise GradientError(
            f"the gradient of {name} is sparse",
            where=name,
            fix="look rows up by indexing, whose gradient is dense",
        )
    return gradient


def list_names(names: list[str]) -> str:
    """Return names for a message: the first three, and how many more there are."""
    shown, more = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_SHOWN = 3


_GROUP = 2**13
"""Elements whose squares are summed by one thread; every run holds a whole number of groups."""


@torch.no_grad()
def clip_global_norm(named_parameters: Iterable[tuple[str, nn.Parameter]], maximum: float) -> float:
    """Scale all gradients so that the norm of them all together is at most `maximum`.

    The norm is the root of the sum of every gradient's every square. Squares and sums are float64,
    in which no finite float32 overflows, and the sums of fixed groups are added exactly: the norm
    is the same to the bit for any number of threads and any order of the parameters. Gradients
    within the maximum are left as they are, to the bit.

    Args:
        named_parameters: Names and parameters, each with a dense gradient; scaled in place.
        maximum: Largest norm, above 0; infinity measures and scales nothing.

    Returns:
        The norm before the scaling.

    Raises:
        ValueError: `maximum` is not above 0.
        GradientError: A parameter has no gradient, or a sparse one. No gradient was changed.
        NotFiniteError: One is not finite: no scale makes a step of that. None was changed.

    Source: finetune-transformer-lm opt.py, `tf.clip_by_global_norm` (a69b5c4); Pascanu et al.
    2013, algorithm 1. The official PyTorch port clips each parameter by itself instead, and
    `torch.nn.utils.clip_grad_norm_` divides by the norm plus 1e-6.
    """
    if not maximum > 0.0:
        message = f"the largest norm must be above 0, got {maximum!r}"
        raise ValueError(message)
    gradients = {name: checked_gradient(name, parameter) for name, parameter in named_parameters}
    squares = {name: _exact_sum(_sums_of_squares(g)) for name, g in gradients.items()}
    norm = math.sqrt(_exact_sum(squares.values()))
    if not math.isfinite(norm):
        raise _not_finite(squares)
    if norm > maximum:
        for gradient in gradients.values():
            gradient.mul_(maximum / norm)
    return norm


def _sums_of_squares(gradient: Tensor) -> Iterator[float]:
    """Give the sums of squares of consecutive groups of elements.

    One room serves every run: memory that is new each time costs more than the arithmetic.
    """
    length = min(gradient.numel(), longest_run(gradient.device))
    room = torch.empty(length, dtype=torch.float64, device=gradient.device)
    for (run,) in runs(gradient.contiguous()):
        squares = room[: len(run)].copy_(run)
        squares.mul_(squares)
        grouped = squares.numel() - squares.numel() % _GROUP
        yield from squares[:grouped].view(-1, _GROUP).sum(-1).tolist()
        yield from squares[grouped:].sum(0, keepdim=True).tolist()


def _exact_sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once; infinity where no float holds it."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def _not_finite(squares: dict[str, float]) -> NotFiniteError:
    """Return the error that names the gradients whose squares have no finite sum."""
    names = [name for name, square in squares.items() if not math.isfinite(square)] or list(squares)
    return NotFiniteError(
        f"{len(names)} of {len(squares)} gradients are not finite, or too large to be squared",
        where=list_names(names),
        fix="lower the learning rate or lengthen its warm-up; with float16, scale the loss",
    )
