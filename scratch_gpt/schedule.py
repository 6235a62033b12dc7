"""The learning rate of every step: a linear warm-up, and what follows it."""

import dataclasses
import math
from collections.abc import Callable

SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1.0 + math.cos(math.pi * x)),
    "linear": lambda x: 1.0 - x,
    "constant": lambda _x: 1.0,
}
"""What follows the warm-up, by name: a function of the part of training done, from 0 to 1."""

_THROUGHOUT = {"linear"}
"""Shapes that also multiply the warm-up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as released; x is the part of training done, w the part that is warm-up.

        cosine    peak (x / w)              while x <= w, then  peak (1 + cos(pi x)) / 2
        linear    peak (x / w) (1 - x)      while x <= w, then  peak (1 - x)
        constant  peak (x / w)              while x <= w, then  peak

    The release counts x by the steps made before this one, so that its first step has a rate of 0
    and changes nothing but the moments. Its official port to PyTorch counts this step too; that is
    `counted_from=1`. The cosine goes on from where it would be without warm-up: the paper's 2,000
    steps in some hundred thousand leave a jump of less than a thousandth there.

    Attributes:
        steps: Steps of the whole training, at least 1. After them the last rate stays.
        peak: The largest rate; 2.5e-4 in pre-training, 6.25e-5 in fine-tuning.
        warmup: Steps of warm-up, at least 0 and fewer than all.
        shape: A key of `SHAPES`: cosine in pre-training, linear in fine-tuning.
        counted_from: What the first step counts as, 0 or 1.

    Source: Radford et al. 2018, section 4.1; finetune-transformer-lm opt.py `warmup_cosine`,
    `warmup_linear`, `warmup_constant`, `adam` (a69b5c4).
    """

    steps: int
    peak: float = 2.5e-4
    warmup: int = 2000
    shape: str = "cosine"
    counted_from: int = 0

    def __post_init__(self) -> None:
        allowed = {
            f"steps must be at least 1, got {self.steps!r}": self.steps >= 1,
            f"peak must be finite and at least 0, got {self.peak!r}": 0.0 <= self.peak < math.inf,
            f"warmup must be at least 0 and less than steps, {self.steps}, got {self.warmup!r}": (
                0 <= self.warmup < max(self.steps, 1)
            ),
            f"shape must be one of {sorted(SHAPES)}, got {self.shape!r}": self.shape in SHAPES,
            f"counted_from must be 0 or 1, got {self.counted_from!r}": self.counted_from in (0, 1),
        }
        for message, right in allowed.items():
            if not right:
                raise ValueError(message)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step.

        Args:
            step: How many steps were made before it.

        Raises:
            ValueError: It is negative.
        """
        if step < 0:
            message = f"steps are counted from 0, got {step!r}"
            raise ValueError(message)
        counted = min(step + self.counted_from, self.steps)
        done = counted / self.steps
        warming = counted <= self.warmup and self.warmup > 0
        rise = counted / self.warmup if warming else 1.0
        fall = SHAPES[self.shape](done) if not warming or self.shape in _THROUGHOUT else 1.0
        return self.peak * rise * fall
