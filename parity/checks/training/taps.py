"""What is compared of every step, in the order in which a step computes it.

A row's name is `VARIANT.STEP.QUANTITY`, or `VARIANT.STEP.QUANTITY.PARAMETER`, with steps from 1:
`adamw.2.gradient.h.3.ln_1.weight`. A quantity follows those from which it is computed, so the first
that differs is where the runs diverge.
"""

import dataclasses
from collections.abc import Iterator

from parity.checks.gradients.taps import kind_of, parameter_names
from parity.core.taps import Axes, Kind, Tap

VARIANTS = {"openai": 0, "adamw": 1}
"""The optimizer's variants, each with the number of its schedule's first step."""

WHOLE = ("dropout", "loss", "norm", "rate", "first_moment", "second_moment", "tied")
"""Quantities of a whole step; the others are of each parameter."""

ORDER = (
    *("dropout", "loss", "gradient", "norm", "rate", "first_moment", "second_moment", "weight"),
    "tied",
)
"""Every quantity, in the order of a step."""


@dataclasses.dataclass(frozen=True)
class TrainingQuantity:
    """A quantity of `ORDER`, of one step and variant; `parameter` is empty for a whole step."""

    variant: str
    step: int
    quantity: str
    parameter: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        tail = f".{self.parameter}" if self.parameter else ""
        return f"{self.variant}.{self.step}.{self.quantity}{tail}"

    @property
    def tap(self) -> Tap:
        """The quantity as a tap, whose kind decides which rounding errors are pooled.

        Each step is one sample, because some causes of rounding are common to all blocks. The two
        variants round differently, so they are not pooled.
        """
        kind = f"{self.variant} {self.quantity} {kind_of(self.parameter)}"
        return Tap(self.name, Kind(kind, Axes.ROWS, (), ""), ())


def parse_quantity(name: str) -> TrainingQuantity:
    """Return the quantity of a row's name."""
    variant, step, quantity, *parameter = name.split(".", 3)
    return TrainingQuantity(variant, int(step), quantity, "".join(parameter))


def training_quantities(
    variant: str, *, steps: int, layers: int, dropout: bool
) -> Iterator[TrainingQuantity]:
    """Yield every quantity of one variant's run."""
    names = parameter_names(layers)
    for step in range(1, steps + 1):
        for quantity in ORDER:
            if quantity in WHOLE:
                wanted = {"dropout": dropout, "tied": step == steps}.get(quantity, True)
                yield from [TrainingQuantity(variant, step, quantity)] if wanted else []
            else:
                yield from (TrainingQuantity(variant, step, quantity, name) for name in names)
