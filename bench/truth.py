"""What a kernel is held against: tensors, their float64 truth, and a yardstick's own rounding.

An error is judged as everywhere here: against the error that Hugging Face's core makes in the
same dtype on the same numbers. The two bare products are judged against the same products in
the other order.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.kernels import Kernel, huggingface
from bench.shapes import Shape
from parity.compare import Held
from parity.tolerances import PRECISIONS, Precision
from reference import attention_oracle
from scratch_gpt.attention_tiled import TILE

Array = NDArray[np.float64]
Answers = tuple[Tensor, ...]
Work = Callable[[], Answers]

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


def work(kernel: Kernel, inputs: Inputs) -> Work:
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
    answers: tuple[Held, ...]
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
    held = tuple(Held(torch.from_numpy(answer)) for answer in answers)
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
    found = right.part(work(YARDSTICKS[kind](shape, inputs.upstream.device), some)())
    held = list(right.answers)
    if not right.whole:
        held[0] = Held(held[0].tensor[-1:, -1:])
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
