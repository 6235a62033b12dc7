"""Both sides' runs side by side, one step after the other, each measured against the leader's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from parity.compare import Difference, Status, difference
from parity.fingerprints import Fingerprints
from parity.results import Row
from parity.tolerances import Bounds
from parity.training.draws import Draws
from parity.training.ours import OurRun
from parity.training.places import Place
from parity.training.recipe import CLIPPED, Recipe
from parity.training.theirs import TheirRun
from parity.training.whole import rate_row, site_row, tied_row

LEADER = "huggingface/float64"
"""Whom everybody is measured against."""


class Notebook(Protocol):
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


class Measured:
    """Hugging Face's run in the dtype judged, in the form of one of ours."""

    def __init__(self, run: TheirRun) -> None:
        self._run = run
        self.parameters, self.moments = run.parameters, run.moments
        self.sites: list[str] = []

    def backward(self, step: int, draws: Draws, see: object) -> float:
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


class Walk:
    """One form's run in one dtype: the leader's steps, and each other's measured against them."""

    def __init__(
        self,
        notebook: Notebook,
        attention: str,
        recipe: Recipe,
        leader: TheirRun,
        dtype: torch.dtype,
    ) -> None:
        self._to, self._attention, self._recipe = notebook, attention, recipe
        self._leader, self._dtype = leader, dtype
        self._maximum = 0.0
        self._broken: set[str] = set()

    def step(self, step: int, followers: Mapping[str, OurRun | Measured]) -> None:
        """Let everybody make one step."""
        recipe = self._recipe
        draws = Draws(recipe.seed, step, len(recipe.batches[step]))
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

    def _keep_places(self, step: int, followers: Mapping[str, OurRun | Measured]) -> None:
        """Have the fingerprints of everybody's gradients in one order, from the loss backwards.

        They come in another one of each graph, and from a single batch after the pass.
        """
        backwards = list(self._leader.parameters)[::-1]
        names = [self._place(step, "gradient", parameter).name for parameter in backwards]
        for run in (LEADER, *followers):
            self._to.fingerprints.keep_places(run, names)

    def _follow(  # noqa: PLR0913 - a step, and what it is held against
        self,
        name: str,
        run: OurRun | Measured,
        step: int,
        draws: Draws,
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

    def _note(self, name: str, place: Place, tensor: Tensor, truth: Tensor) -> None:
        seen = difference(tensor.detach(), truth.detach(), dtype=self._dtype)
        self._to.note(name, place.name, seen)
        for run, shown in ((name, tensor), (LEADER, truth)):
            self._to.fingerprints.take(run, place.name, shown)

    def _note_number(self, name: str, place: Place, ours: float, theirs: float) -> None:
        one, other = (torch.tensor([x], dtype=torch.float64) for x in (ours, theirs))
        self._to.note(name, place.name, difference(one, other, dtype=torch.float64))

    def _note_whole(
        self, run: OurRun | Measured, step: int, draws: Draws, ours: float, theirs: float
    ) -> None:
        """Note what is of no tensor: where was dropped, the rate, and at last the tie."""
        bound, peak = self._to.bounds.identity, self._recipe.peak
        made = [rate_row(self._place(step, "rate"), ours, theirs, bound=bound, peak=peak)]
        if self._recipe.dropout:
            sites = [site.name for site in draws.sites]
            made.append(site_row(self._place(step, "dropout"), run.sites, sites))
        if step + 1 == len(self._recipe.batches):
            both = run.tied, self._leader.tied
            made.append(tied_row(self._place(step, "tied"), *both))
        for row in made:
            self._to.note_row(dataclasses.replace(row, attention=self._attention))

    def _note_moments(self, name: str, run: OurRun | Measured, step: int) -> None:
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

    def _place(self, step: int, quantity: str, parameter: str = "") -> Place:
        return Place(self._recipe.form, step + 1, quantity, parameter)


def _worst(seen: Sequence[Difference]) -> Difference:
    """Return the largest difference; before any, one that could not be measured."""
    unmeasured = [d for d in seen if d.status is not Status.PASS]
    return max([*unmeasured[:1]] or seen, key=lambda d: d.relative_largest)
