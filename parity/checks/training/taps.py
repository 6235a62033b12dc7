"""What is compared of every step, in the order in which a step computes it.

A row's name is `RUN.STEP.QUANTITY`, or `RUN.STEP.QUANTITY.PARAMETER`, with steps from 1:
`adamw.2.gradient.h.3.ln_1.weight`. A quantity follows those from which it is computed, so the first
that differs is where the runs diverge.
"""

import dataclasses
from collections.abc import Iterator

from parity.checks.gradients.taps import kind_of, parameter_names
from parity.core.taps import Axes, Kind, Tap

VARIANTS = ("openai", "adamw")
"""The optimizer's variants, each a run of the models under check."""

ORDER = (
    *("ids", "seeds", "dropout", "dtype", "loss", "gradient", "norm", "rate"),
    *("first_moment", "second_moment", "weight", "validation", "tied"),
)
"""Every quantity, in the order of a step."""

OF_PARAMETERS = ("gradient", "weight")
"""Quantities of each parameter; the others are of a whole step."""

TRAINER = "trainer"
"""Where the rows of the trainer's own small runs are, in place of a backend."""


@dataclasses.dataclass(frozen=True)
class TrainingQuantity:
    """A quantity of `ORDER`, of one step and run; `parameter` is empty for a whole step."""

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
    for place in step_quantities(variant, steps, dropout=dropout):
        parts = names if place.quantity in OF_PARAMETERS else [""]
        yield from (dataclasses.replace(place, parameter=name) for name in parts)


def step_quantities(
    variant: str, steps: int, *, dropout: bool, validated: bool = False
) -> Iterator[TrainingQuantity]:
    """Yield the quantities of a run's steps, those of all parameters as one."""
    for step in range(1, steps + 1):
        left_out = {"dtype"} | (set() if dropout else {"seeds", "dropout"})
        left_out |= set() if step == steps else {"tied", "validation"}
        left_out |= set() if validated else {"validation"}
        yield from (TrainingQuantity(variant, step, q) for q in ORDER if q not in left_out)


# The trainer's own small runs. Nothing here needs torch: the command line checks names.

SCHEDULES: dict[str, tuple[str, int, int, int]] = {
    **{shape: (shape, 12, 4, 0) for shape in ("cosine", "linear", "constant")},
    "cosine-without-warmup": ("cosine", 7, 0, 0),
    "cosine-from-1": ("cosine", 12, 4, 1),
}
"""Schedules by name: shape, all steps, those of the warm-up, and the number of the first step."""

RATES = 15
"""Steps of each schedule, some of them beyond its end."""

ID_BYTES = {"windows-16-bit": 2, "windows-32-bit": 4}
"""Bytes of an id in the files from which batches of windows are read."""

WINDOW_STEPS = 6
OPTIMIZER_STEPS = 10

COURSES = {"course-openai": 6, "course-adamw": 6}
"""Steps of whole runs of a small model: several epochs, and gradients clipped and not."""

DROPPING = ("plain", "tiled", "fused")
"""The backends whose dropout is compared."""

DROPOUT_STEPS = 2
RESUMED = ("resume-float32", "resume-float64")


def trainer_quantities() -> Iterator[TrainingQuantity]:
    """Yield every quantity of the trainer's own small runs."""
    make = TrainingQuantity
    for run in ID_BYTES:
        yield from (make(run, step, "ids") for step in range(1, WINDOW_STEPS + 1))
        yield make(f"{run}-validation", 1, "ids")
    for run in SCHEDULES:
        yield from (make(run, step, "rate") for step in range(1, RATES + 1))
    for variant in VARIANTS:
        run = f"optimizer-{variant}"
        yield from (make(run, 1, "dtype", name) for name in ("float32", "bfloat16", "float64"))
        for step in range(1, OPTIMIZER_STEPS + 1):
            for quantity in ("first_moment", "second_moment", "weight"):
                yield make(run, step, quantity)
    yield from (make("loss-in-half", 1, quantity) for quantity in ("dtype", "loss", "gradient"))
    yield from (make("weights-rounded", 1, quantity) for quantity in ("dtype", "loss", "gradient"))
    yield from (make("uneven", 1, quantity) for quantity in ("loss", "gradient"))
    for backend in DROPPING:
        run = f"dropout-{backend}"
        yield from step_quantities(run, DROPOUT_STEPS, dropout=True, validated=True)
    for run, steps in COURSES.items():
        yield from step_quantities(run, steps, dropout=False, validated=True)
    for run in RESUMED:
        for step in (3, 4):
            wanted = ("ids", "seeds", "loss", "rate", "first_moment", "second_moment", "weight")
            yield from (make(run, step, quantity) for quantity in wanted)
