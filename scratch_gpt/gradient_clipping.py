"""Gradient clipping by the global norm: one factor for all gradients keeps their direction."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from scratch_gpt.runs import longest_run, runs


class GradientError(ValueError):
    """Gradients that cannot be used: missing, sparse or not finite. No parameter was changed.

    As in a `CommandError`, one line each of what is wrong, where, and the fix.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what, self.where, self.fix = what, where, fix


class NotFiniteError(GradientError):
    """Gradients that are not finite, or so large that their norm is not."""


def checked_gradient(name: str, parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient itself, not a copy.

    Raises:
        GradientError: It is missing or sparse. A step that skipped the parameter silently would
            show only as slow learning.
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


@torch.no_grad()
def clip_global_norm(named_parameters: Iterable[tuple[str, nn.Parameter]], maximum: float) -> float:
    """Scale all gradients in place so that their global norm is at most `maximum`.

    The norm is the root of the sum of the squares of all elements of all gradients. Squares and
    sums are float64, in which no finite float32 overflows, and the sums of fixed groups are added
    exactly. The norm is therefore bitwise the same for any number of threads and any order of the
    parameters. Gradients within the maximum keep their bits.

    Returns the norm before the scaling. A `maximum` of infinity measures and scales nothing.

    Raises:
        ValueError: `maximum` is not above 0.
        GradientError: A gradient is missing or sparse; no gradient was changed.
        NotFiniteError: A gradient or the norm is not finite; no gradient was changed.

    Source: finetune-transformer-lm opt.py, `tf.clip_by_global_norm` (a69b5c4); Pascanu et al.
    2013, algorithm 1. The official PyTorch port clips each parameter by itself instead, and
    `torch.nn.utils.clip_grad_norm_` divides by the norm plus 1e-6.
    """
    if not maximum > 0.0:
        raise ValueError(f"the largest norm must be above 0, got {maximum!r}")
    gradients = {name: checked_gradient(name, parameter) for name, parameter in named_parameters}
    squares = {name: _exact_sum(_sums_of_squares(g)) for name, g in gradients.items()}
    norm = math.sqrt(_exact_sum(squares.values()))
    if not math.isfinite(norm):
        names = [name for name, square in squares.items() if not math.isfinite(square)]
        names = names or list(squares)  # every square is finite, and only their sum is not
        more = len(names) - _LISTED
        raise NotFiniteError(
            f"{len(names)} of {len(squares)} gradients are not finite, or too large to be squared",
            where=", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else ""),
            fix="lower the learning rate or lengthen its warm-up; with float16, scale the loss",
        )
    if norm > maximum:
        for gradient in gradients.values():
            gradient.mul_(maximum / norm)
    return norm


_LISTED = 3

_GROUP = 2**13
"""Elements whose squares one thread adds; every run holds a whole number of groups."""


def _sums_of_squares(gradient: Tensor) -> Iterator[float]:
    """Yield the sums of squares of consecutive groups of elements.

    All runs share one buffer: allocating it anew costs more than the arithmetic.
    """
    length = min(gradient.numel(), longest_run(gradient.device))
    buffer = torch.empty(length, dtype=torch.float64, device=gradient.device)
    for (run,) in runs(gradient.contiguous()):
        squares = buffer[: len(run)].copy_(run)
        squares.mul_(squares)
        grouped = squares.numel() - squares.numel() % _GROUP
        yield from squares[:grouped].view(-1, _GROUP).sum(-1).tolist()
        yield from squares[grouped:].sum(0, keepdim=True).tolist()


def _exact_sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once; infinity where float64 overflows."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
