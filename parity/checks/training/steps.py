"""Step-by-step comparison of all runs with the reference run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from parity.checks.gradients.backward import GradientCallback
from parity.checks.training.runners import CLIPPED, DropoutMasks, OurRun, Recipe, ReferenceRun, Step
from parity.checks.training.taps import TrainingQuantity
from parity.core.fingerprints import Fingerprints
from parity.core.metrics import Difference, Status, difference
from parity.core.results import Mode, Row
from parity.core.tolerances import Bounds
from parity.errors import message_of

# Rows without a tensor: the ids, the learning rate, the dropout, whether the embedding is tied.


def ids_row(place: TrainingQuantity, ours: Sequence[Tensor], theirs: Tensor) -> Row:
    """Return the row of a step's batch, which must be equal in all micro-batches together."""
    count = sum(len(part) for part in ours)
    whole = torch.cat(list(ours)) if ours else theirs[:0]
    if whole.shape == theirs.shape:
        wrong = (whole != theirs).nonzero().tolist()
        error, first = float(len(wrong)), next(iter(wrong), [0, 0])
        detail = f"{len(wrong)} ids differ, the first in row {first[0]} at position {first[1]}"
        values = float(whole[tuple(first)]), float(theirs[tuple(first)])
    else:
        error, detail = float(abs(len(theirs) - count) or 1), f"{count} of {len(theirs)} rows"
        values = float(count), float(len(theirs))
    return exact_row(place, "oracle", error, values, detail=detail)


def seeds_row(place: TrainingQuantity, seeds: Sequence[int], before: set[int]) -> Row:
    """Return the row of the micro-batches' seeds, each of which must be new."""
    repeated = len(seeds) - len(set(seeds) - before)
    detail = f"{repeated} of {len(seeds)} micro-batches repeat the masks of another"
    values = float(len(seeds) - repeated), float(len(seeds))
    return exact_row(place, "oracle", float(repeated), values, detail=detail)


def rate_row(
    place: TrainingQuantity, ours: float, theirs: float, *, bound: float, peak: float
) -> Row:
    """Return the row of two learning rates; their difference is divided by the peak."""
    error, detail = abs(ours - theirs) / peak, f"{ours:.6g}, expected {theirs:.6g}"
    return exact_row(place, "oracle", error, (ours, theirs), bound=bound, detail=detail)


def site_row(place: TrainingQuantity, ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Return the row of the dropout sites, which must be the same in the same order."""
    missing = [name for name in theirs if name not in ours]
    more = len(ours) - len(set(theirs) & set(ours))
    detail = f"no dropout at {', '.join(missing[:3])}" if missing else ""
    if more > 0:
        detail = f"{detail}; {more} more than there are places".removeprefix("; ")
    error = float(len(missing) + max(more, 0) or list(ours) != list(theirs))
    return exact_row(place, "huggingface", error, (len(ours), len(theirs)), detail=detail)


def tied_row(place: TrainingQuantity, ours: bool, theirs: bool) -> Row:  # noqa: FBT001 - two answers
    """Return the row of whether head and embedding are still one tensor on each side."""
    sides = {"ours": ours, "Hugging Face's": theirs}
    untied = [side for side, right in sides.items() if not right]
    detail = f"head and embedding are two tensors: {', '.join(untied)}"
    values = float(ours), float(theirs)
    return exact_row(place, "huggingface", float(len(untied)), values, detail=detail)


def exact_row(  # noqa: PLR0913 - a row
    place: TrainingQuantity,
    against: str,
    error: float,
    values: tuple[float, float],
    *,
    bound: float = 0.0,
    detail: str = "",
) -> Row:
    """Return the float64 row of something that is counted or compared as a single number.

    It fails if the error is above the bound; then it has the detail.
    """
    fails = not error <= bound  # so NaN fails
    return Row(
        tap=place.name,
        backend="",
        dtype="float64",
        mode=Mode.FLOAT64,
        against=against,
        status=Status.FAIL if fails else Status.PASS,
        error_ours=error,
        bound=bound,
        value_ours=values[0],
        value_against=values[1],
        required_tolerance=error,
        detail=detail if fails else "",
    )


def raised_row(place: TrainingQuantity, error: Exception, backend: str, dtype: str) -> Row:
    """Return the row of a step in which our side raised an error."""
    row = exact_row(place, "huggingface", 1.0, (0.0, 0.0))
    return dataclasses.replace(
        row,
        backend=backend,
        dtype=dtype,
        mode=Mode.FLOAT64 if dtype == "float64" else Mode.END_TO_END,
        error_ours=None,
        required_tolerance=None,
        detail=f"step {place.step} raised {type(error).__name__}: {message_of(error)}",
    )


REFERENCE_RUN = "huggingface/float64"
"""The reference run."""


class Recorder(Protocol):
    """Records differences, rows and errors."""

    bounds: Bounds
    fingerprints: Fingerprints

    def note(self, subject: str, place: TrainingQuantity, seen: Difference) -> None:
        """Record one difference."""
        ...

    def note_row(self, row: Row) -> None:
        """Record a row without a tensor."""
        ...

    def note_broken(self, subject: str, place: TrainingQuantity, error: Exception) -> None:
        """Record the error that ended a run in some step."""
        ...


class Follower(NamedTuple):
    """A run that is compared with the reference run, under the name of its differences."""

    name: str
    run: OurRun | ReferenceRun
    dtype: torch.dtype
    backend: str = ""
    is_first: bool = True
    """Whether it is the first of this name; only that one has fingerprints."""


@dataclasses.dataclass(kw_only=True)
class StepComparison:
    """The steps of one recipe, each run compared with the reference run.

    Attributes:
        whole: Whether the gradients, and the weights, of a step are one row, that of the worst.
    """

    recorder: Recorder
    recipe: Recipe
    leader: ReferenceRun
    followers: Sequence[Follower]
    whole: bool = False

    def __post_init__(self) -> None:
        self._maximum = self.recipe.maximum or 0.0
        self._broken: set[int] = set()
        self._seeds: dict[int, set[int]] = {}

    def step(self, step: int) -> None:
        """Make one step in every run."""
        recipe, leader = self.recipe, self.leader
        draws = DropoutMasks(recipe.seed, step, len(recipe.batches[step]))
        loss = leader.backward(step, draws)
        self._maximum = self._maximum or leader.norm / CLIPPED
        leading = Step(loss, leader.norm, leader.advance(step, self._maximum))
        gradients = {name: p.grad for name, p in leader.parameters.items()}
        self._order_fingerprints(step)
        for number, follower in enumerate(self.followers):
            if number not in self._broken:
                try:
                    self._follow(number, follower, step, draws, leading, gradients)
                except Exception as error:  # noqa: BLE001 - a candidate may raise any exception
                    self._broken.add(number)
                    place = self._place(step, "loss")
                    self.recorder.note_broken(follower.name, place, error)
        leader.end_step()

    def _order_fingerprints(self, step: int) -> None:
        """Fix the order of the gradients' fingerprints: from the loss backwards, for every run.

        Each graph completes them in another order.
        """
        backwards = list(self.leader.parameters)[::-1]
        names = [self._place(step, "gradient", parameter).name for parameter in backwards]
        for run in dict.fromkeys([REFERENCE_RUN, *(one.name for one in self.followers)]):
            self.recorder.fingerprints.keep_places(run, names)

    def _follow(  # noqa: PLR0913 - a step and its references
        self,
        number: int,
        follower: Follower,
        step: int,
        draws: DropoutMasks,
        leading: Step,
        gradients: dict[str, Tensor | None],
    ) -> None:
        run, last = follower.run, number + 1 == len(self.followers)
        seen: dict[str, Difference] = {}

        def see(parameter: str, gradient: Tensor) -> None:
            truth = gradients.get(parameter)
            if truth is not None:
                place = self._place(step, "gradient", parameter)
                seen[parameter] = self._measure(follower, place, gradient, truth)
            if last:
                gradients[parameter] = self.leader.parameters[parameter].grad = None

        if isinstance(run, OurRun):
            made = run.step(self._maximum, draws, see)
        else:
            made = self._advance(run, step, draws, see)
            run.end_step()
        self._note_number(follower, self._place(step, "loss"), made.loss, leading.loss)
        self._note_parameters(follower, step, "gradient", seen)
        self._note_number(follower, self._place(step, "norm"), made.norm, leading.norm)
        if isinstance(run, OurRun) and follower.dtype == torch.float64:
            self._note_exact(number, run, step, draws, (made.rate, leading.rate))
        seen = {
            parameter: self._measure(
                follower, self._place(step, "weight", parameter), run.parameters[parameter], truth
            )
            for parameter, truth in self.leader.parameters.items()
            if parameter in run.parameters
        }
        self._note_parameters(follower, step, "weight", seen)

    def _advance(
        self, run: ReferenceRun, step: int, draws: DropoutMasks, see: GradientCallback
    ) -> Step:
        """Make a step of another run of the reference's."""
        loss = run.backward(step, draws)
        for name, parameter in run.parameters.items():
            if parameter.grad is not None:
                see(name, parameter.grad)
        return Step(loss, run.norm, run.advance(step, self._maximum))

    def _measure(
        self, follower: Follower, place: TrainingQuantity, tensor: Tensor, truth: Tensor
    ) -> Difference:
        run = follower.run
        shown = run.usual(place.parameter, tensor) if isinstance(run, ReferenceRun) else tensor
        if follower.is_first and not self.whole:
            for name, one in ((follower.name, shown), (REFERENCE_RUN, truth)):
                self.recorder.fingerprints.take(name, place.name, one)
        return difference(shown.detach(), truth.detach(), dtype=follower.dtype)

    def _note_parameters(
        self, follower: Follower, step: int, quantity: str, seen: dict[str, Difference]
    ) -> None:
        """Note the difference of each parameter, or the worst."""
        for parameter, one in ({"": worst(seen)} if self.whole else seen).items():
            self.recorder.note(follower.name, self._place(step, quantity, parameter), one)

    def _note_number(
        self, follower: Follower, place: TrainingQuantity, ours: float, theirs: float
    ) -> None:
        one, other = (torch.tensor([x], dtype=torch.float64) for x in (ours, theirs))
        self.recorder.note(follower.name, place, difference(one, other, dtype=torch.float64))

    def _note_exact(
        self, number: int, run: OurRun, step: int, draws: DropoutMasks, rates: tuple[float, float]
    ) -> None:
        """Note what only our run in float64 shows: all but loss, gradients, norm and weights."""
        recipe, follower, bound = self.recipe, self.followers[number], self.recorder.bounds.float64
        rows = [
            ids_row(self._place(step, "ids"), run.ids, recipe.batches[step]),
            rate_row(self._place(step, "rate"), *rates, bound=bound, peak=recipe.peak),
        ]
        if recipe.dropout:
            used = self._seeds.setdefault(number, set())
            rows.append(seeds_row(self._place(step, "seeds"), run.seeds, used))
            used.update(run.seeds)
            sites = [site.name for site in draws.sites]
            rows.append(site_row(self._place(step, "dropout"), run.sites, sites))
        for which in ("first", "second"):
            found, right = run.moments(which), self.leader.moments(which)
            seen = {
                name: difference(found[name], truth, dtype=follower.dtype)
                if name in found
                else Difference(status=Status.MISSING, detail=f"{name} has none")
                for name, truth in right.items()
                if name in run.parameters
            }
            self.recorder.note(follower.name, self._place(step, f"{which}_moment"), worst(seen))
        if step + 1 == len(recipe.batches):
            if recipe.validation is not None:
                losses = run.validate(), self.leader.validate(recipe.validation)
                self._note_number(follower, self._place(step, "validation"), *losses)
            rows.append(tied_row(self._place(step, "tied"), run.tied, self.leader.tied))
        for row in rows:
            self.recorder.note_row(dataclasses.replace(row, backend=follower.backend))

    def _place(self, step: int, quantity: str, parameter: str = "") -> TrainingQuantity:
        return TrainingQuantity(self.recipe.variant, step + 1, quantity, parameter)


def worst(seen: Mapping[str, Difference]) -> Difference:
    """Return the largest difference, or the first that could not be measured."""
    if not seen:
        return Difference(status=Status.MISSING, detail="no parameter has one")
    unmeasured = [one for one in seen.values() if one.status is not Status.PASS]
    return unmeasured[0] if unmeasured else max(seen.values(), key=lambda d: d.relative_largest)
