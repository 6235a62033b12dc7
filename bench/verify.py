"""What a kernel is held against: tensors, their float64 truth, and a yardstick's own rounding.

An error is judged as everywhere here: against the error that Hugging Face's core makes in the
same dtype on the same numbers. The two bare products are judged against the same products in
the other order.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.kernels import AttentionKernel, Kernel, huggingface
from bench.shapes import HEAD_WIDTH, Shape
from parity.core.metrics import Reference
from parity.core.tolerances import PEAK_GUARD, PRECISIONS, Precision
from reference import attention_oracle
from scratch_gpt.kernels.tiled_attention import TILE

Array = NDArray[np.float64]
Answers = tuple[Tensor, ...]
Run = Callable[[], Answers]

SEEDS = (0, 1, 2)
"""Of the numbers that a kernel is proved on; those of the last one are timed."""

WHOLE = 512
"""Longest text of which the oracle computes every row; past it, rows and heads are sampled."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The tensors of one shape: query, key, value, and what is sent back through them."""

    shape: Shape
    triple: tuple[Tensor, ...]
    upstream: Tensor

    @classmethod
    def empty(cls, shape: Shape, device: torch.device) -> "Inputs":
        """Return tensors of the shape that hold nothing yet."""
        dtype = getattr(torch, shape.dtype)
        made = [torch.empty(shape.sizes, dtype=dtype, device=device) for _ in range(4)]
        triple = tuple(tensor.requires_grad_(shape.backward) for tensor in made[:3])
        return cls(shape, triple, made[3])

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """Put a seed's numbers into the same tensors."""
        generator = torch.Generator().manual_seed(seed)
        for tensor in (*self.triple, self.upstream):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def part(self, index: int, *, whole: bool) -> Array:
        """Return one tensor as float64: all of it, or the last head of the last row of text."""
        tensor = (*self.triple, self.upstream)[index].detach()
        return (tensor if whole else tensor[-1:, -1:]).double().cpu().numpy()


def timed_call(kernel: Kernel, inputs: Inputs) -> Run:
    """Return what is timed: the kernel alone, or with the gradients of its inputs."""
    if not inputs.shape.backward:
        return lambda: (kernel(*inputs.triple),)

    def both() -> Answers:
        context = kernel(*inputs.triple)
        return context.detach(), *torch.autograd.grad(context, inputs.triple, inputs.upstream)

    return both


COARSEST = 32.0
"""Largest error of a yardstick, in unit roundoffs. Measured up to time 600: 8 in float32, where
nothing is kept wider, and 2 in half precision. Its largest fault is a thousand times that."""


class YardstickError(Exception):
    """What others are measured against is wrong itself."""


Noise = tuple[float, float]
"""A yardstick's error: relative RMS, and the largest over the largest value."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is right for some inputs, and how far off a yardstick in the same dtype is.

    Attributes:
        rows: Queries whose context was computed.
        answers: The context of these rows, then any gradients; float64.
        noise: The yardstick's error at each.
        whole: Whether all heads of all rows of text were computed, or the last head alone.
        sizes: Shape of each answer.
    """

    rows: Sequence[int]
    answers: tuple[Reference, ...]
    noise: tuple[Noise, ...]
    whole: bool
    sizes: tuple[int, ...]

    def part(self, answers: Answers) -> list[Tensor]:
        """Return of some answers what was computed here."""
        context, *gradients = answers
        if not self.whole:
            gradients = [gradient[-1:, -1:] for gradient in gradients]
        return [context[:, :, list(self.rows)].detach(), *gradients]


def _other_order(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same two products in the other order."""
    return query @ (key.transpose(-2, -1) @ value)


ORACLES = {
    "attention": (attention_oracle.context, attention_oracle.gradients),
    "products": (attention_oracle.products, attention_oracle.products_gradients),
}
"""The oracle of each kind: its answers, and their gradients."""

YARDSTICKS: dict[str, Callable[[Shape, torch.device], Kernel]] = {
    "attention": huggingface,
    "products": lambda _shape, _device: _other_order,
}
"""Whose rounding others' is measured against."""


def truth(inputs: Inputs, kind: str) -> Truth:
    """Return what is right for these inputs: `attention`, or its two `products`."""
    shape = inputs.shape
    whole = shape.time <= WHOLE
    rows = range(shape.time) if whole else attention_oracle.sampled_rows(shape.time, tile=TILE)
    forward, backward = ORACLES[kind]
    query, key, value = (inputs.part(index, whole=True) for index in range(3))
    answers = [forward(query, key, value, rows)]
    if shape.backward:
        answers += backward(*(inputs.part(index, whole=whole) for index in range(4)))
    held = tuple(Reference(torch.from_numpy(answer)) for answer in answers)
    right = Truth(rows, held, (), whole, shape.sizes)
    return dataclasses.replace(right, noise=_noise(inputs, right, kind))


def _noise(inputs: Inputs, right: Truth, kind: str) -> tuple[Noise, ...]:
    """Return how far the yardstick is off; of a long text in its last head alone."""
    shape = inputs.shape
    some = Inputs(
        shape,
        tuple(_own(tensor, right).requires_grad_(shape.backward) for tensor in inputs.triple),
        _own(inputs.upstream, right),
    )
    found = right.part(timed_call(YARDSTICKS[kind](shape, inputs.upstream.device), some)())
    held = list(right.answers)
    if not right.whole:
        held[0] = Reference(held[0].tensor[-1:, -1:])
    apart = [h.difference(a, dtype=a.dtype) for h, a in zip(held, found, strict=True)]
    noise = tuple((e.relative_rms, e.peak_ratio) if e.scale else (0.0, 0.0) for e in apart)
    return checked(noise, PRECISIONS[shape.dtype])


def checked(noise: tuple[Noise, ...], precision: Precision) -> tuple[Noise, ...]:
    """Return a yardstick's errors, where they are those of rounding.

    Raises:
        YardstickError: One is not: whatever was held against it would pass.
    """
    # Written so that NaN is refused.
    if not all(rms <= COARSEST * precision.unit for rms, _ in noise):
        message = f"the yardstick's own errors are no rounding: {noise}"
        raise YardstickError(message)
    return noise


def _own(tensor: Tensor, right: Truth) -> Tensor:
    return (tensor if right.whole else tensor[-1:, -1:]).detach().clone()


@functools.lru_cache(maxsize=8)
def truths(shape: Shape, device: torch.device, kind: str) -> tuple[Truth, ...]:
    """Return the truth for each seed; kept, for the next kernel comes with the same shape."""
    inputs = Inputs.empty(shape, device)
    found = []
    for seed in seeds(shape):
        inputs.fill(seed)
        found.append(truth(inputs, kind))
    return tuple(found)


def seeds(shape: Shape) -> tuple[int, ...]:
    """Return the seeds that a shape is proved on; of a long text the last one alone."""
    return SEEDS if shape.time <= WHOLE else SEEDS[-1:]


# No time without a proof: each kernel against the float64 oracle, on the very tensors timed.
#
# What a fast kernel may do instead of its work is made to show:
#
# - it returns a buffer that holds an earlier answer: every answer seen is overwritten with NaN;
# - it keeps the answer for an address: the same tensors are filled with other numbers;
# - it is right for one input, or at one shape: several seeds, and a ragged shape beside;
# - it works only while it is looked at: after the clock has stopped its last answer is proved too.


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
    name: str, answer: Tensor, held: Reference, noise: Noise, around: Noise, precision: Precision
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
class VerifiedKernel:
    """A kernel that may be timed, on the tensors that it was proved on.

    Attributes:
        run: What is timed.
        error: How far off its answers are, relative RMS.
        check: Proves an answer that came later.
    """

    run: Run
    error: float
    check: Callable[[Answers], float]


def verified(kernel: AttentionKernel, shape: Shape, device: torch.device) -> VerifiedKernel:
    """Return a kernel ready to be timed.

    Raises:
        WrongKernelError: It computes something else, at this shape or at a ragged one.
    """
    _verified_at(kernel, dataclasses.replace(shape, batch=RAGGED[0], time=RAGGED[1]), device)
    return _verified_at(kernel, shape, device)


def _verified_at(kernel: AttentionKernel, shape: Shape, device: torch.device) -> VerifiedKernel:
    inputs = Inputs.empty(shape, device)
    run = timed_call(kernel.make(shape, device), inputs)
    every = list(zip(seeds(shape), truths(shape, device, kernel.computes), strict=True))
    answers: Answers = ()
    error = 0.0
    for seed, right in (*every, every[-1]):  # the last one twice: after its answer was poisoned
        poison(answers)
        inputs.fill(seed)
        answers = run()
        error = distance(answers, right, shape.dtype)
    return VerifiedKernel(run, error, lambda later: distance(later, every[-1][1], shape.dtype))


@torch.no_grad()
def poison(answers: Answers) -> None:
    """Overwrite answers with NaN, and leave NaN where the next ones may be allocated."""
    for answer in answers:
        answer.detach().fill_(math.nan)
        torch.full_like(answer, math.nan)
