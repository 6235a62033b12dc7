"""No time without a proof: each kernel against the float64 oracle, on the very tensors timed.

What a fast kernel may do instead of its work is made to show:

- it returns a buffer that holds an earlier answer: every answer seen is overwritten with NaN;
- it keeps the answer for an address: the same tensors are filled with other numbers;
- it is right for one input, or at one shape: several seeds, and a ragged shape beside;
- it works only while it is looked at: after the clock has stopped its last answer is proved too.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.kernels import Subject
from bench.shapes import HEAD_WIDTH, Shape
from bench.truth import Answers, Inputs, Noise, Truth, Work, seeds, truths, work
from parity.compare import Held
from parity.tolerances import PEAK_GUARD, PRECISIONS, Precision

RAGGED = 2, 37
"""Batch and time that are proved beside: no multiple of any tile, and no batch of one."""


class WrongKernelError(AssertionError):
    """A kernel computes something else; the message says how far off."""


def distance(answers: Answers, right: Truth, dtype: str) -> float:
    """Return the largest error of some answers, relative RMS.

    Raises:
        WrongKernelError: One is missing, of another shape or dtype, not finite, or further off
            than rounding explains.
    """
    shapes, due = [tuple(a.shape) for a in answers], [right.sizes] * len(right.answers)
    if shapes != due:
        message = f"context and gradients of shapes {shapes} where {due} are due"
        raise WrongKernelError(message)
    found = right.part(answers)
    names = NAMES[: len(found)]
    around = max(h.scale for h in right.answers), max(h.largest for h in right.answers)
    parts = zip(names, found, right.answers, right.noise, strict=True)
    return max(error_of(*part, around, PRECISIONS[dtype]) for part in parts)


def error_of(  # noqa: PLR0913 - one comparison's whole context
    name: str, answer: Tensor, held: Held, noise: Noise, around: Noise, precision: Precision
) -> float:
    """Return one answer's error.

    What is zero in truth (at time 1 the gradients of query and key) has no scale of its own: it
    is the difference of two sums over the head's width, of numbers as large as the other answers.
    """
    apart = held.difference(answer, dtype=precision.dtype)
    error, peak = apart.relative_rms, apart.peak_ratio
    if held.scale == 0.0:
        summed = HEAD_WIDTH**0.5
        error, peak = apart.rms / around[0] / summed, apart.largest / around[1] / summed
    rounding = max(noise[0], precision.unit), max(noise[1], precision.unit)
    # Written so that NaN is refused.
    if not (error <= precision.quality * rounding[0] and peak <= PEAK_GUARD * rounding[1]):
        message = (
            f"the {name} is {error / rounding[0]:.3g} times as far off as the yardstick, at its "
            f"worst {peak / rounding[1]:.3g} times (allowed {precision.quality:g} and "
            f"{PEAK_GUARD:g}), at {list(apart.worst_index)} {apart.detail}"
        )
        raise WrongKernelError(message.strip())
    return error


NAMES = ("context", "gradient of query", "gradient of key", "gradient of value")


@dataclasses.dataclass(frozen=True)
class Proved:
    """A kernel that may be timed, on the tensors that it was proved on.

    Attributes:
        run: What is timed.
        error: How far off its answers are, relative RMS.
        check: Proves an answer that came later.
    """

    run: Work
    error: float
    check: Callable[[Answers], float]


def prove(subject: Subject, shape: Shape, device: torch.device) -> Proved:
    """Return a kernel ready to be timed.

    Raises:
        WrongKernelError: It computes something else, at this shape or at a ragged one.
    """
    _prove_at(subject, dataclasses.replace(shape, batch=RAGGED[0], time=RAGGED[1]), device)
    return _prove_at(subject, shape, device)


def _prove_at(subject: Subject, shape: Shape, device: torch.device) -> Proved:
    inputs = Inputs.empty(shape, device)
    run = work(subject.make(shape, device), inputs)
    every = list(zip(seeds(shape), truths(shape, device, subject.truth), strict=True))
    answers: Answers = ()
    error = 0.0
    for seed, right in (*every, every[-1]):  # the last one twice: after its answer was poisoned
        poison(answers)
        inputs.fill(seed)
        answers = run()
        error = distance(answers, right, shape.dtype)
    return Proved(run, error, lambda later: distance(later, every[-1][1], shape.dtype))


@torch.no_grad()
def poison(answers: Answers) -> None:
    """Overwrite answers with NaN, and leave NaN where the next ones may be allocated."""
    for answer in answers:
        answer.detach().fill_(math.nan)
        torch.full_like(answer, math.nan)
