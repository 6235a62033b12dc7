"""Rows of the third witness: our gradient along a direction beside the slope of the oracle."""

import fnmatch
import functools
import math
from collections.abc import Sequence

from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.compare import Status
from parity.comparison import Progress
from parity.gradients.direction import Surroundings, along
from parity.gradients.places import direction, is_parameter, kind_of, parameters
from parity.inputs import Inputs
from parity.results import Mode, Row
from parity.taps import Tap
from parity.tolerances import SLOPE_BOUND

SMALL_MODEL = 1_000_000
"""Parameters up to which each kind of them has a direction of its own: two passes a kind."""


class Slopes:
    """The slopes to compare, the oracle's and each path's."""

    def __init__(self, reference: OpenAIGPTLMHeadModel, inputs: Inputs, select: str) -> None:
        self._reference = reference
        self._inputs = inputs
        names = parameters(int(reference.config.n_layer))
        small = sum(p.numel() for p in reference.parameters()) <= SMALL_MODEL
        kinds = [None, *dict.fromkeys(map(kind_of, names))] if small else [None]
        self._parts = {
            direction(kind): [name for name in names if kind in (None, kind_of(name))]
            for kind in kinds
        }
        self._selected = [p for p in self._parts if fnmatch.fnmatchcase(p.name, select)]
        self._inner: dict[tuple[str, str], tuple[float, float]] = {}
        self._slopes: dict[str, float] = {}

    @property
    def plan(self) -> list[Tap]:
        """Every slope."""
        return list(self._parts)

    @functools.cached_property
    def _around(self) -> Surroundings:
        return Surroundings(self._reference, self._inputs)

    def see(self, attention: str, name: str, gradient: Tensor) -> None:
        """Take note of one of our float64 gradients: its part in every slope."""
        if not is_parameter(name) or not self._selected:
            return
        size = self._around.lengths[name]
        norm = float(gradient.detach().double().norm())
        self._inner[attention, name] = (size * along(name, gradient), size * norm)

    def measure(self, progress: Progress) -> None:
        """Run the oracle ahead and behind along each direction."""
        for done, place in enumerate(self._selected):
            progress(f"{place.name}, oracle", done, len(self._selected))
            self._slopes[place.name] = self._around.slope(self._parts[place])

    def rows(self, attention: str, plan: Sequence[Tap]) -> list[Row]:
        """Return a row for each planned slope of one path."""
        return [self._row(attention, place) for place in plan]

    def _row(self, attention: str, place: Tap) -> Row:
        names = self._parts[place]
        parts = [self._inner[key] for name in names if (key := (attention, name)) in self._inner]
        ours, slope = sum(part for part, _ in parts), self._slopes[place.name]
        # What the inner product is for signs drawn at random; it may by luck itself be near 0.
        usual = math.hypot(*(norm for _, norm in parts))
        error = abs(ours - slope) / usual if usual > 0.0 else math.nan
        complete = len(parts) == len(names) and math.isfinite(error)
        held = Status.PASS if error <= SLOPE_BOUND else Status.FAIL
        return Row(
            tap=place.name,
            attention=attention,
            dtype="float64",
            mode=Mode.IDENTITY,
            witness="oracle",
            status=held if complete else Status.NOT_RUN,
            error_ours=error if complete else None,
            bound=SLOPE_BOUND,
            value_ours=ours if complete else None,
            value_witness=slope,
            minimum_tolerance=error if complete else None,
            detail="" if complete else "a parameter in this direction has no finite gradient",
        )
