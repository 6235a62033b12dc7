"""What is compared of every step, in the order in which a step makes it.

A step's row stands under `FORM.STEP.QUANTITY`, of a parameter `FORM.STEP.QUANTITY.NAME`, with
steps from 1: `adamw.2.gradient.h.3.ln_1.weight`. What a quantity is made of stands before it, so
that the first that differs is where the runs part.
"""

import dataclasses
from collections.abc import Iterator

from parity.gradients.places import kind_of, parameters
from parity.taps import Axes, Kind, Tap

WHOLE = ("dropout", "loss", "norm", "rate", "first_moment", "second_moment", "tied")
"""Quantities of which a step has one."""

ORDER = (
    *("dropout", "loss", "gradient", "norm", "rate", "first_moment", "second_moment", "weight"),
    "tied",
)
"""Every quantity, in the order of a step."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a row stands.

    Attributes:
        form: The optimizer's form.
        step: From 1.
        quantity: One of `ORDER`.
        parameter: Its name, where the quantity is one of a parameter.
    """

    form: str
    step: int
    quantity: str
    parameter: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        tail = f".{self.parameter}" if self.parameter else ""
        return f"{self.form}.{self.step}.{self.quantity}{tail}"

    @property
    def tap(self) -> Tap:
        """The place as an entry of a plan, and the kind of it whose rounding counts together.

        Rounding has causes of its own in every step, some of them common to all blocks: each step
        is one sample. What one form's steps round says nothing of the other's.
        """
        kind = f"{self.form} {self.quantity} {kind_of(self.parameter)}"
        return Tap(self.name, Kind(kind, Axes.ROWS, (), ""), ())


def parsed(name: str) -> Place:
    """Return the place of a row's name."""
    form, step, quantity, *parameter = name.split(".", 3)
    return Place(form, int(step), quantity, "".join(parameter))


def places(form: str, *, steps: int, layers: int, dropout: bool) -> Iterator[Place]:
    """Give every place of one form's run."""
    names = parameters(layers)
    for step in range(1, steps + 1):
        for quantity in ORDER:
            if quantity in WHOLE:
                wanted = {"dropout": dropout, "tied": step == steps}.get(quantity, True)
                yield from [Place(form, step, quantity)] if wanted else []
            else:
                yield from (Place(form, step, quantity, name) for name in names)
