"""What both sides are told of a training run; how each goes about it is its own affair."""

import dataclasses

from torch import Tensor

from parity import inputs

FORMS = {"released": 0, "adamw": 1}
"""The optimizer's forms, and what each run's schedule counts its first step as."""

CLIPPED = 3.0
"""What the first gradients' norm is of the largest allowed: clipping is at work in every run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run.

    Attributes:
        form: Key of `FORMS`.
        batches: One `[parts * batch, time]` for each step, ids.
        parts: Micro-batches that our side cuts each of them into, and accumulates.
        dropout: Whether the models drop, both the same elements.
        seed: What those are drawn from.
        peak: Largest learning rate.
        weight_decay: Of matrices.
        betas: Of the moments.
        epsilon: What gradients are after clipping, in the root of their mean square: 2.1e-3 at full
            size, 3.2e-3 of the small weights. Of a gradient well above epsilon Adam makes a whole
            step, be it rounding; with a small one the verdict on float32 is luck. See
            `docs/training-parity.md`.
    """

    form: str
    batches: tuple[Tensor, ...]
    parts: int = 2
    dropout: bool = False
    seed: int = 0
    peak: float = 2.5e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 3e-3

    @property
    def warmup(self) -> int:
        """Steps of warm-up."""
        return total_and_warmup(len(self.batches))[1]

    @property
    def steps(self) -> int:
        """Steps that the schedule is made for."""
        return total_and_warmup(len(self.batches))[0]


def total_and_warmup(steps: int) -> tuple[int, int]:
    """Return how long a schedule is of which so many steps are made, and its warm-up.

    The end, whose rate is 0, is not reached; the fall that follows the warm-up is seen.
    """
    return steps + 1, max(1, steps // 2)


def batches(  # noqa: PLR0913 - what the ids are
    *, steps: int, parts: int, batch: int, time: int, vocab_size: int, seed: int
) -> tuple[Tensor, ...]:
    """Return ids for every step, no two alike."""
    return tuple(
        inputs.seeded(
            batch=parts * batch, time=time, vocab_size=vocab_size, seed=seed + step
        ).token_ids
        for step in range(steps)
    )
