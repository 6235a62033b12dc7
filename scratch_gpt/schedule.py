"""The learning rate of each step: a linear warm-up, then a cosine, linear or constant shape."""

import dataclasses
import math
from collections.abc import Callable

SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1.0 + math.cos(math.pi * x)),
    "linear": lambda x: 1.0 - x,
    "constant": lambda _x: 1.0,
}
"""The factor after the warm-up, by name: a function of the part of training done, from 0 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The release's schedules; x is the part of training done, w the part that is warm-up.

        cosine    peak (x / w)              while x <= w, then  peak (1 + cos(pi x)) / 2
        linear    peak (x / w) (1 - x)      while x <= w, then  peak (1 - x)
        constant  peak (x / w)              while x <= w, then  peak

    The release counts the steps before this one, so its first step has a rate of 0 and changes
    only the moments. The official PyTorch port counts this step too: `counted_from=1`. After the
    warm-up the cosine continues where it would be without one. With the paper's 2,000 steps of
    some hundred thousand, the jump there is less than a thousandth.

    Attributes:
        steps: Steps of the whole training, at least 1. Later steps have the last rate.
        peak: The largest rate; 2.5e-4 in pre-training, 6.25e-5 in fine-tuning.
        warmup: Steps of warm-up, at least 0 and fewer than `steps`.
        shape: A key of `SHAPES`: cosine in pre-training, linear in fine-tuning.
        counted_from: The number of the first step, 0 or 1.

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
        for message, is_right in allowed.items():
            if not is_right:
                raise ValueError(message)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: Number of steps before this one.

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"steps are counted from 0, got {step!r}")
        counted = min(step + self.counted_from, self.steps)
        is_warming_up = counted <= self.warmup and self.warmup > 0
        rise = counted / self.warmup if is_warming_up else 1.0
        # Only the linear shape multiplies the warm-up too.
        has_shape = not is_warming_up or self.shape == "linear"
        fall = SHAPES[self.shape](counted / self.steps) if has_shape else 1.0
        return self.peak * rise * fall
