"""Step-by-step comparison of all runs with the reference run."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from parity.checks.gradients.taps import kind_of, parameter_names
from parity.checks.training.runners import CLIPPED, CandidateRun, DropoutMasks, Recipe, ReferenceRun
from parity.core.fingerprints import Fingerprints
from parity.core.metrics import Difference, Status, difference
from parity.core.results import Mode, Row
from parity.core.taps import Axes, Kind, Tap
from parity.core.tolerances import Bounds

# What is compared of every step, in the order in which a step makes it.
#
# A step's row stands under `FORM.STEP.QUANTITY`, of a parameter `FORM.STEP.QUANTITY.NAME`, with
# steps from 1: `adamw.2.gradient.h.3.ln_1.weight`. What a quantity is made of stands before it, so
# that the first that differs is where the runs part.


WHOLE = ("dropout", "loss", "norm", "rate", "first_moment", "second_moment", "tied")
"""Quantities of which a step has one."""

ORDER = (
    *("dropout", "loss", "gradient", "norm", "rate", "first_moment", "second_moment", "weight"),
    "tied",
)
"""Every quantity, in the order of a step."""


@dataclasses.dataclass(frozen=True)
class TrainingQuantity:
    """Where a row stands.

    Attributes:
        variant: The optimizer's variant.
        step: From 1.
        quantity: One of `ORDER`.
        parameter: Its name, where the quantity is one of a parameter.
    """

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
        """The place as an entry of a plan, and the kind of it whose rounding counts together.

        Rounding has causes of its own in every step, some of them common to all blocks: each step
        is one sample. What one variant's steps round says nothing of the other's.
        """
        kind = f"{self.variant} {self.quantity} {kind_of(self.parameter)}"
        return Tap(self.name, Kind(kind, Axes.ROWS, (), ""), ())


def parse_quantity(name: str) -> TrainingQuantity:
    """Return the place of a row's name."""
    variant, step, quantity, *parameter = name.split(".", 3)
    return TrainingQuantity(variant, int(step), quantity, "".join(parameter))


def training_quantities(
    variant: str, *, steps: int, layers: int, dropout: bool
) -> Iterator[TrainingQuantity]:
    """Give every place of one variant's run."""
    names = parameter_names(layers)
    for step in range(1, steps + 1):
        for quantity in ORDER:
            if quantity in WHOLE:
                wanted = {"dropout": dropout, "tied": step == steps}.get(quantity, True)
                yield from [TrainingQuantity(variant, step, quantity)] if wanted else []
            else:
                yield from (TrainingQuantity(variant, step, quantity, name) for name in names)


# Rows of a step that are of no tensor: its learning rate, where it dropped, whether it is tied.


def rate_row(
    place: TrainingQuantity, ours: float, theirs: float, *, bound: float, peak: float
) -> Row:
    """Return the row of two learning rates; their difference is over the peak."""
    error = abs(ours - theirs) / peak
    return _row(
        place, "oracle", holds=error <= bound, error=error, bound=bound, values=(ours, theirs)
    )


def site_row(place: TrainingQuantity, ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Return the row of the places that dropped: none more, none fewer, in one order."""
    missing = [name for name in theirs if name not in ours]
    more = len(ours) - len(set(theirs) & set(ours))
    detail = f"no dropout at {', '.join(missing[:3])}" if missing else ""
    if more > 0:
        detail = f"{detail}; {more} more than there are places".removeprefix("; ")
    error = float(len(missing) + max(more, 0))
    right = list(ours) == list(theirs)
    return _row(
        place,
        "huggingface",
        holds=right,
        error=error,
        values=(len(ours), len(theirs)),
        detail=detail,
    )


def tied_row(place: TrainingQuantity, ours: bool, theirs: bool) -> Row:  # noqa: FBT001 - two answers
    """Return the row of whether head and embedding still are one tensor, on each side."""
    sides = {"ours": ours, "Hugging Face's": theirs}
    untied = [side for side, right in sides.items() if not right]
    detail = f"head and embedding are two tensors: {', '.join(untied)}" if untied else ""
    error = float(len(untied))
    return _row(
        place,
        "huggingface",
        holds=not untied,
        error=error,
        values=(float(ours), float(theirs)),
        detail=detail,
    )


def _row(  # noqa: PLR0913 - a row
    place: TrainingQuantity,
    against: str,
    *,
    holds: bool,
    error: float,
    values: tuple[float, float],
    bound: float = 0.0,
    detail: str = "",
) -> Row:
    return Row(
        tap=place.name,
        backend="",
        dtype="float64",
        mode=Mode.FLOAT64,
        against=against,
        status=Status.PASS if holds else Status.FAIL,
        error_ours=error,
        bound=bound,
        value_ours=values[0],
        value_against=values[1],
        required_tolerance=error,
        detail=detail,
    )


REFERENCE_RUN = "huggingface/float64"
"""The reference run."""


class Recorder(Protocol):
    """Where what was found is kept."""

    bounds: Bounds
    fingerprints: Fingerprints

    def note(self, subject: str, place: str, seen: Difference) -> None:
        """Keep one difference."""
        ...

    def note_row(self, row: Row) -> None:
        """Keep a row that is of no tensor."""
        ...

    def note_broken(self, subject: str, error: Exception) -> None:
        """Keep why a run could not go on."""
        ...


class MeasuredStep:
    """Hugging Face's run in the dtype judged, in the variant of one of ours."""

    def __init__(self, run: ReferenceRun) -> None:
        self._run = run
        self.parameters, self.moments = run.parameters, run.moments
        self.sites: list[str] = []

    def backward(self, step: int, draws: DropoutMasks, see: object) -> float:
        """Return the loss; show every gradient."""
        loss = self._run.backward(step, draws)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None and callable(see):
                see(name, parameter.grad)
        return loss

    def advance(self, step: int, maximum: float) -> tuple[float, float]:
        """Make the step; return the norm of its gradients and the learning rate."""
        rate = self._run.advance(step, maximum)
        self._run.let_go()
        return self._run.norm, rate

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return self._run.tied


class StepComparison:
    """The steps of one variant in one dtype, each run compared with the reference run."""

    def __init__(
        self,
        notebook: Recorder,
        backend: str,
        recipe: Recipe,
        leader: ReferenceRun,
        dtype: torch.dtype,
    ) -> None:
        self._to, self._attention, self._recipe = notebook, backend, recipe
        self._leader, self._dtype = leader, dtype
        self._maximum = 0.0
        self._broken: set[str] = set()

    def step(self, step: int, followers: Mapping[str, CandidateRun | MeasuredStep]) -> None:
        """Make one step in every run."""
        recipe = self._recipe
        draws = DropoutMasks(recipe.seed, step, len(recipe.batches[step]))
        loss = self._leader.backward(step, draws)
        self._maximum = self._maximum or self._leader.norm / CLIPPED
        rate = self._leader.advance(step, self._maximum)
        gradients = {name: p.grad for name, p in self._leader.parameters.items()}
        self._keep_places(step, followers)
        for number, (name, run) in enumerate(followers.items(), 1):
            last = number == len(followers)
            if name not in self._broken:
                try:
                    self._follow(name, run, step, draws, (loss, rate), gradients, last)
                except Exception as error:  # noqa: BLE001 - a candidate may raise what it likes
                    self._broken.add(name)
                    self._to.note_broken(name, error)
        self._leader.let_go()

    def _keep_places(self, step: int, followers: Mapping[str, CandidateRun | MeasuredStep]) -> None:
        """Have the fingerprints of everybody's gradients in one order, from the loss backwards.

        They come in another one of each graph, and from a single batch after the pass.
        """
        backwards = list(self._leader.parameters)[::-1]
        names = [self._place(step, "gradient", parameter).name for parameter in backwards]
        for run in (REFERENCE_RUN, *followers):
            self._to.fingerprints.keep_places(run, names)

    def _follow(  # noqa: PLR0913 - a step and its references
        self,
        name: str,
        run: CandidateRun | MeasuredStep,
        step: int,
        draws: DropoutMasks,
        leading: tuple[float, float],
        gradients: dict[str, Tensor | None],
        last: bool,  # noqa: FBT001
    ) -> None:
        """Let one run make the step, and measure all of it."""

        def see(parameter: str, gradient: Tensor) -> None:
            truth = gradients.get(parameter)
            if truth is not None:
                self._note(name, self._place(step, "gradient", parameter), gradient, truth)
            if last:
                gradients[parameter] = self._leader.parameters[parameter].grad = None

        loss = run.backward(step, draws, see)
        norm, rate = run.advance(step, self._maximum)
        self._note_number(name, self._place(step, "loss"), loss, leading[0])
        self._note_number(name, self._place(step, "norm"), norm, self._leader.norm)
        if self._dtype == torch.float64:
            self._note_whole(run, step, draws, rate, leading[1])
            self._note_moments(name, run, step)
        for parameter, truth in self._leader.parameters.items():
            if parameter in run.parameters:
                place = self._place(step, "weight", parameter)
                self._note(name, place, run.parameters[parameter], truth)

    def _note(self, name: str, place: TrainingQuantity, tensor: Tensor, truth: Tensor) -> None:
        seen = difference(tensor.detach(), truth.detach(), dtype=self._dtype)
        self._to.note(name, place.name, seen)
        for run, shown in ((name, tensor), (REFERENCE_RUN, truth)):
            self._to.fingerprints.take(run, place.name, shown)

    def _note_number(self, name: str, place: TrainingQuantity, ours: float, theirs: float) -> None:
        one, other = (torch.tensor([x], dtype=torch.float64) for x in (ours, theirs))
        self._to.note(name, place.name, difference(one, other, dtype=torch.float64))

    def _note_whole(
        self,
        run: CandidateRun | MeasuredStep,
        step: int,
        draws: DropoutMasks,
        ours: float,
        theirs: float,
    ) -> None:
        """Note what is of no tensor: where was dropped, the rate, and at last the tie."""
        bound, peak = self._to.bounds.float64, self._recipe.peak
        made = [rate_row(self._place(step, "rate"), ours, theirs, bound=bound, peak=peak)]
        if self._recipe.dropout:
            sites = [site.name for site in draws.sites]
            made.append(site_row(self._place(step, "dropout"), run.sites, sites))
        if step + 1 == len(self._recipe.batches):
            both = run.tied, self._leader.tied
            made.append(tied_row(self._place(step, "tied"), *both))
        for row in made:
            self._to.note_row(dataclasses.replace(row, backend=self._attention))

    def _note_moments(self, name: str, run: CandidateRun | MeasuredStep, step: int) -> None:
        """Note the worst parameter's moments: they say which part of the step is wrong."""
        for which in ("first", "second"):
            ours, theirs = run.moments(which), self._leader.moments(which)
            seen = [
                difference(ours[parameter], truth, dtype=self._dtype)
                if parameter in ours
                else Difference(status=Status.MISSING, detail=f"{parameter} has none")
                for parameter, truth in theirs.items()
                if parameter in run.parameters
            ]
            self._to.note(name, self._place(step, f"{which}_moment").name, _worst(seen))

    def _place(self, step: int, quantity: str, parameter: str = "") -> TrainingQuantity:
        return TrainingQuantity(self._recipe.variant, step + 1, quantity, parameter)


def _worst(seen: Sequence[Difference]) -> Difference:
    """Return the largest difference; before any, one that could not be measured."""
    unmeasured = [d for d in seen if d.status is not Status.PASS]
    return max([*unmeasured[:1]] or seen, key=lambda d: d.relative_largest)
