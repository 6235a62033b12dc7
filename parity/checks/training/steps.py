"""Step-by-step comparison of all runs with the reference run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from parity.checks.training.runners import CLIPPED, CandidateRun, DropoutMasks, Recipe, ReferenceRun
from parity.checks.training.taps import TrainingQuantity
from parity.core.fingerprints import Fingerprints
from parity.core.metrics import Difference, Status, difference
from parity.core.results import Mode, Row
from parity.core.tolerances import Bounds

# Rows without a tensor: the learning rate, the dropout sites, and whether the embedding is tied.


def rate_row(
    place: TrainingQuantity, ours: float, theirs: float, *, bound: float, peak: float
) -> Row:
    """Return the row of two learning rates; their difference is divided by the peak."""
    error = abs(ours - theirs) / peak
    return _row(place, "oracle", error <= bound, error, (ours, theirs), bound=bound)


def site_row(place: TrainingQuantity, ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Return the row of the dropout sites, which must be the same in the same order."""
    missing = [name for name in theirs if name not in ours]
    more = len(ours) - len(set(theirs) & set(ours))
    detail = f"no dropout at {', '.join(missing[:3])}" if missing else ""
    if more > 0:
        detail = f"{detail}; {more} more than there are places".removeprefix("; ")
    error = float(len(missing) + max(more, 0))
    right = list(ours) == list(theirs)
    return _row(place, "huggingface", right, error, (len(ours), len(theirs)), detail=detail)


def tied_row(place: TrainingQuantity, ours: bool, theirs: bool) -> Row:  # noqa: FBT001 - two answers
    """Return the row of whether head and embedding are still one tensor on each side."""
    sides = {"ours": ours, "Hugging Face's": theirs}
    untied = [side for side, right in sides.items() if not right]
    detail = f"head and embedding are two tensors: {', '.join(untied)}" if untied else ""
    values = float(ours), float(theirs)
    return _row(place, "huggingface", not untied, float(len(untied)), values, detail=detail)


def _row(  # noqa: PLR0913 - a row
    place: TrainingQuantity,
    against: str,
    holds: bool,  # noqa: FBT001 - the status
    error: float,
    values: tuple[float, float],
    *,
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
    """Records differences, rows and errors."""

    bounds: Bounds
    fingerprints: Fingerprints

    def note(self, subject: str, place: str, seen: Difference) -> None:
        """Record one difference."""
        ...

    def note_row(self, row: Row) -> None:
        """Record a row without a tensor."""
        ...

    def note_broken(self, subject: str, error: Exception) -> None:
        """Record the error that ended a run."""
        ...


class MeasuredStep:
    """Hugging Face's run in the checked dtype, with the interface of `CandidateRun`."""

    def __init__(self, run: ReferenceRun) -> None:
        self._run = run
        self.parameters, self.moments = run.parameters, run.moments
        self.sites: list[str] = []

    def backward(self, step: int, draws: DropoutMasks, see: object) -> float:
        """Return the loss; call `see` with every gradient."""
        loss = self._run.backward(step, draws)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None and callable(see):
                see(name, parameter.grad)
        return loss

    def advance(self, step: int, maximum: float) -> tuple[float, float]:
        """Make the step; return the norm of its gradients and the learning rate."""
        rate = self._run.advance(step, maximum)
        self._run.zero_grad()
        return self._run.norm, rate

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return self._run.tied


class StepComparison:
    """The steps of one variant in one dtype, each run compared with the reference run."""

    def __init__(
        self,
        recorder: Recorder,
        backend: str,
        recipe: Recipe,
        leader: ReferenceRun,
        dtype: torch.dtype,
    ) -> None:
        self._recorder, self._backend, self._recipe = recorder, backend, recipe
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
        self._order_fingerprints(step, followers)
        for number, (name, run) in enumerate(followers.items(), 1):
            last = number == len(followers)
            if name not in self._broken:
                try:
                    self._follow(name, run, step, draws, (loss, rate), gradients, last)
                except Exception as error:  # noqa: BLE001 - a candidate may raise any exception
                    self._broken.add(name)
                    self._recorder.note_broken(name, error)
        self._leader.zero_grad()

    def _order_fingerprints(
        self, step: int, followers: Mapping[str, CandidateRun | MeasuredStep]
    ) -> None:
        """Fix the order of the gradients' fingerprints: from the loss backwards, for every run.

        Each graph completes them in another order.
        """
        backwards = list(self._leader.parameters)[::-1]
        names = [self._place(step, "gradient", parameter).name for parameter in backwards]
        for run in (REFERENCE_RUN, *followers):
            self._recorder.fingerprints.keep_places(run, names)

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
        self._recorder.note(name, place.name, seen)
        for run, shown in ((name, tensor), (REFERENCE_RUN, truth)):
            self._recorder.fingerprints.take(run, place.name, shown)

    def _note_number(self, name: str, place: TrainingQuantity, ours: float, theirs: float) -> None:
        one, other = (torch.tensor([x], dtype=torch.float64) for x in (ours, theirs))
        self._recorder.note(name, place.name, difference(one, other, dtype=torch.float64))

    def _note_whole(
        self,
        run: CandidateRun | MeasuredStep,
        step: int,
        draws: DropoutMasks,
        ours: float,
        theirs: float,
    ) -> None:
        """Note the learning rate, the dropout sites and, after the last step, the tie."""
        bound, peak = self._recorder.bounds.float64, self._recipe.peak
        made = [rate_row(self._place(step, "rate"), ours, theirs, bound=bound, peak=peak)]
        if self._recipe.dropout:
            sites = [site.name for site in draws.sites]
            made.append(site_row(self._place(step, "dropout"), run.sites, sites))
        if step + 1 == len(self._recipe.batches):
            both = run.tied, self._leader.tied
            made.append(tied_row(self._place(step, "tied"), *both))
        for row in made:
            self._recorder.note_row(dataclasses.replace(row, backend=self._backend))

    def _note_moments(self, name: str, run: CandidateRun | MeasuredStep, step: int) -> None:
        """Note the largest difference of each moment, over all parameters."""
        for which in ("first", "second"):
            ours, theirs = run.moments(which), self._leader.moments(which)
            seen = [
                difference(ours[parameter], truth, dtype=self._dtype)
                if parameter in ours
                else Difference(status=Status.MISSING, detail=f"{parameter} has none")
                for parameter, truth in theirs.items()
                if parameter in run.parameters
            ]
            self._recorder.note(name, self._place(step, f"{which}_moment").name, _worst(seen))

    def _place(self, step: int, quantity: str, parameter: str = "") -> TrainingQuantity:
        return TrainingQuantity(self._recipe.variant, step + 1, quantity, parameter)


def _worst(seen: Sequence[Difference]) -> Difference:
    """Return the largest difference, or the first that could not be measured."""
    unmeasured = [d for d in seen if d.status is not Status.PASS]
    return max([*unmeasured[:1]] or seen, key=lambda d: d.relative_largest)
