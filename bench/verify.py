"""Verify an attention kernel against the float64 oracle before and after it is timed.

Its error may be a small multiple of the error of a yardstick: Hugging Face's attention in the same
dtype on the same numbers, or, for the two bare products, the products in the other order.

Shortcuts that a fast but wrong kernel could take, and how each is found:

- It returns a buffer with an earlier result: every seen result is overwritten with NaN.
- It caches a result by address: the same tensors are filled with other numbers.
- It is right for one input or one shape only: several seeds, and a ragged shape.
- It is right only while it is verified: its last result is verified after timing, too.
- It computes in its inputs: they are compared with copies.
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
"""Seeds of the inputs that a kernel is verified on; the last one's inputs are timed."""

WHOLE = 512
"""Longest text with every row computed by the oracle; beyond it, rows and heads are sampled."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The tensors of one shape: query, key, value, and the upstream gradient."""

    shape: Shape
    triple: tuple[Tensor, ...]
    upstream: Tensor

    @classmethod
    def empty(cls, shape: Shape, device: torch.device) -> "Inputs":
        """Return uninitialized tensors of the shape."""
        dtype = getattr(torch, shape.dtype)
        made = [torch.empty(shape.sizes, dtype=dtype, device=device) for _ in range(4)]
        triple = tuple(tensor.requires_grad_(shape.backward) for tensor in made[:3])
        return cls(shape, triple, made[3])

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """Fill the tensors with a seed's random numbers."""
        generator = torch.Generator().manual_seed(seed)
        for tensor in (*self.triple, self.upstream):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def part(self, index: int, *, whole: bool) -> Array:
        """Return one tensor as float64: all of it, or the last head of the last row of text."""
        tensor = (*self.triple, self.upstream)[index].detach()
        return (tensor if whole else tensor[-1:, -1:]).double().cpu().numpy()


def timed_call(kernel: Kernel, inputs: Inputs) -> Run:
    """Return the timed call: the kernel alone, or with the gradients of its inputs."""
    if not inputs.shape.backward:
        return lambda: (kernel(*inputs.triple),)

    def both() -> Answers:
        context = kernel(*inputs.triple)
        return context.detach(), *torch.autograd.grad(context, inputs.triple, inputs.upstream)

    return both


COARSEST = 32.0
"""Largest accepted error of a yardstick, in unit roundoffs. Measured up to time 600: 8 in float32
and 2 in half precision, which accumulates in float32. Wrong ones are off by 1,000 times more."""


class YardstickError(Exception):
    """The yardstick's error is larger than rounding explains."""


Noise = tuple[float, float]
"""A yardstick's error: relative RMS, and largest error over largest value."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """The expected results for some inputs, and a yardstick's error in the same dtype.

    If they are not `whole`, the gradients are those of the last head of the last text.
    """

    rows: Sequence[int]  # query positions whose context was computed
    answers: tuple[Reference, ...]  # the context of these rows, then any gradients; float64
    noise: tuple[Noise, ...]  # the yardstick's error for each answer
    whole: bool
    sizes: tuple[int, ...]  # shape of each full answer

    def part(self, answers: Answers) -> list[Tensor]:
        """Return the parts of some answers that were computed here."""
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
"""The oracle of each kind of kernel: the forward function and the gradients."""

YARDSTICKS: dict[str, Callable[[Shape, torch.device], Kernel]] = {
    "attention": huggingface,
    "products": lambda _shape, _device: _other_order,
}
"""The kernels whose rounding error is the unit of the criterion."""


def expected(inputs: Inputs, kind: str) -> Expected:
    """Return the expected results of `attention`, or of its two `products`."""
    shape = inputs.shape
    whole = shape.time <= WHOLE
    rows = range(shape.time) if whole else attention_oracle.sampled_rows(shape.time, tile=TILE)
    forward, backward = ORACLES[kind]
    query, key, value = (inputs.part(index, whole=True) for index in range(3))
    answers = [forward(query, key, value, rows)]
    if shape.backward:
        answers += backward(*(inputs.part(index, whole=whole) for index in range(4)))
    reference = tuple(Reference(torch.from_numpy(answer)) for answer in answers)
    right = Expected(rows, reference, (), whole, shape.sizes)
    return dataclasses.replace(right, noise=_noise(inputs, right, kind))


def _noise(inputs: Inputs, right: Expected, kind: str) -> tuple[Noise, ...]:
    """Return the yardstick's error; for a long text, in its last head only.

    Raises:
        YardstickError: An error is larger than rounding explains; any kernel would pass then.
    """
    shape = inputs.shape

    def own(tensor: Tensor) -> Tensor:
        return (tensor if right.whole else tensor[-1:, -1:]).detach().clone()

    triple = tuple(own(tensor).requires_grad_(shape.backward) for tensor in inputs.triple)
    some = Inputs(shape, triple, own(inputs.upstream))
    found = right.part(timed_call(YARDSTICKS[kind](shape, inputs.upstream.device), some)())
    reference = list(right.answers)
    if not right.whole:
        reference[0] = Reference(reference[0].tensor[-1:, -1:])
    apart = [h.difference(a, dtype=a.dtype) for h, a in zip(reference, found, strict=True)]
    noise = tuple((e.relative_rms, e.peak_ratio) if e.scale else (0.0, 0.0) for e in apart)
    # Written so that NaN is refused.
    if not all(rms <= COARSEST * PRECISIONS[shape.dtype].unit for rms, _ in noise):
        message = f"the yardstick's errors are larger than rounding explains: {noise}"
        raise YardstickError(message)
    return noise


@functools.lru_cache(maxsize=8)
def expected_for_seeds(shape: Shape, device: torch.device, kind: str) -> tuple[Expected, ...]:
    """Return the expected results for each seed; cached, as all kernels of a shape share them."""
    inputs = Inputs.empty(shape, device)
    found = []
    for seed in seeds(shape):
        inputs.fill(seed)
        found.append(expected(inputs, kind))
    return tuple(found)


def seeds(shape: Shape) -> tuple[int, ...]:
    """Return the seeds that a shape is verified on; for a long text only the last."""
    return SEEDS if shape.time <= WHOLE else SEEDS[-1:]


RAGGED = 2, 37
"""Batch and time that are also verified: no multiple of a tile, and no batch of one."""


class WrongKernelError(AssertionError):
    """A kernel's results are wrong; the message gives the error."""


def distance(answers: Answers, right: Expected, dtype: str) -> float:
    """Return the largest error of some answers, relative RMS.

    Raises:
        WrongKernelError: An answer is missing, has another shape or dtype, is not finite, or its
            error is larger than rounding explains.
    """
    made = dict.fromkeys(a.dtype if isinstance(a, Tensor) else type(a) for a in answers)
    if list(made) != [PRECISIONS[dtype].dtype]:
        message = f"context and gradients are {', '.join(map(str, made))}, expected {dtype}"
        raise WrongKernelError(message)
    shapes, due = [tuple(a.shape) for a in answers], [right.sizes] * len(right.answers)
    if shapes != due:
        message = f"context and gradients have shapes {shapes}, expected {due}"
        raise WrongKernelError(message)
    found = right.part(answers)
    names = NAMES[: len(found)]
    around = max(h.scale for h in right.answers), max(h.largest for h in right.answers)
    parts = zip(names, found, right.answers, right.noise, strict=True)
    return max(error_of(*part, around, PRECISIONS[dtype]) for part in parts)


def error_of(  # noqa: PLR0913 - one comparison's whole context
    name: str,
    answer: Tensor,
    reference: Reference,
    noise: Noise,
    around: Noise,
    precision: Precision,
) -> float:
    """Return one answer's error.

    An answer that is exactly zero (at time 1 the gradients of query and key) has no scale: it is
    the difference of two sums over the head's width. `around` gives the scale of the other answers.

    Raises:
        WrongKernelError: The error is larger than rounding explains.
    """
    apart = reference.difference(answer, dtype=precision.dtype)
    error, peak = apart.relative_rms, apart.peak_ratio
    if reference.scale == 0.0:
        summed = HEAD_WIDTH**0.5
        error, peak = apart.rms / around[0] / summed, apart.largest / around[1] / summed
    rounding = max(noise[0], precision.unit), max(noise[1], precision.unit)
    # Written so that NaN is refused.
    if not (error <= precision.quality * rounding[0] and peak <= PEAK_GUARD * rounding[1]):
        message = (
            f"{name}: RMS error {error / rounding[0]:.3g} times the yardstick's, largest error "
            f"{peak / rounding[1]:.3g} times (allowed {precision.quality:g} and {PEAK_GUARD:g}), "
            f"at {list(apart.worst_index)} {apart.detail}"
        )
        raise WrongKernelError(message.strip())
    return error


NAMES = ("context", "gradient of query", "gradient of key", "gradient of value")


@dataclasses.dataclass(frozen=True)
class VerifiedKernel:
    """A verified kernel: the timed call, its relative RMS error, and a check of later answers."""

    run: Run
    error: float
    check: Callable[[Answers], float]


def verified(kernel: AttentionKernel, shape: Shape, device: torch.device) -> VerifiedKernel:
    """Return a kernel that was verified at this shape and at a ragged one.

    Raises:
        WrongKernelError: Its results are wrong.
    """
    _verified_at(kernel, dataclasses.replace(shape, batch=RAGGED[0], time=RAGGED[1]), device)
    return _verified_at(kernel, shape, device)


def _verified_at(kernel: AttentionKernel, shape: Shape, device: torch.device) -> VerifiedKernel:
    inputs = Inputs.empty(shape, device)
    run = timed_call(kernel.make(shape, device), inputs)
    every = list(zip(seeds(shape), expected_for_seeds(shape, device, kernel.computes), strict=True))
    answers: Answers = ()
    error = 0.0
    # The last seed comes twice: the second time after its answer was overwritten.
    for seed, right in (*every, every[-1]):
        poison(answers)
        inputs.fill(seed)
        before = [tensor.detach().clone() for tensor in inputs.triple]
        answers = run()
        if not all(torch.equal(*pair) for pair in zip(inputs.triple, before, strict=True)):
            message = "it writes into its inputs"
            raise WrongKernelError(message)
        error = distance(answers, right, shape.dtype)
    return VerifiedKernel(run, error, lambda later: distance(later, every[-1][1], shape.dtype))


@torch.no_grad()
def poison(answers: Answers) -> None:
    """Overwrite answers with NaN, and the memory where the next ones may be allocated."""
    for answer in answers:
        answer.detach().fill_(math.nan)
        torch.full_like(answer, math.nan)
