"""Adam's two forms: the numbers of a step as the 2018 release has them, and as AdamW has them.

With n the number of the step, from 1, and m and v the moments:

    released    rate = learning_rate sqrt(1 - b2^n) / (1 - b1^n)
                p = p - rate (m / (sqrt(v) + epsilon) + weight_decay p)
    adamw       p = p - learning_rate weight_decay p
                p = p - learning_rate / (1 - b1^n) m / (sqrt(v) / sqrt(1 - b2^n) + epsilon)

The two differ in what epsilon weighs and in the decay. Beside the release's uncorrected root,
epsilon is 32 times as heavy in the first step and 14 times in the fifth: a gradient of 1e-6 has
then gone a quarter less far. The release's decay is corrected like the step, which leaves 0.32 of
it in the first step.
"""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The numbers of one step: p = kept p - rate m / (sqrt(v) / root + epsilon).

    Attributes:
        kept: What the decay leaves of a parameter.
        root: What the root of the second moment is divided by.
        rate: What the quotient of the moments is multiplied by.
    """

    kept: float
    root: float
    rate: float


def released(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the rates as the release has them; `bias_1` and `bias_2` are `1 - b^n`.

    Source: finetune-transformer-lm opt.py `adam` (a69b5c4).
    """
    rate = learning_rate * bias_2**0.5 / bias_1
    return Rates(kept=1.0 - rate * weight_decay, root=1.0, rate=rate)


def adamw(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the rates of `torch.optim.AdamW`; `bias_1` and `bias_2` are `1 - b^n`.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """
    kept = 1.0 - learning_rate * weight_decay
    return Rates(kept=kept, root=bias_2**0.5, rate=learning_rate / bias_1)


FORMS: dict[str, Callable[[float, float, float, float], Rates]] = {
    "released": released,
    "adamw": adamw,
}
"""Both forms by name."""
