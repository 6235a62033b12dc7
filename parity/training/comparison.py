"""The passes of a check of training: both sides step together, and every step is compared.

Hugging Face's run in float64 leads. It makes its backward pass and its step; then each run that is
measured makes its own, and each of its gradients is compared the moment it is complete, and the
leader's let go. So no more than one set of gradients exists beside parameters and moments.
"""

import dataclasses
import fnmatch
import gc
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.compare import Difference
from parity.comparison import Comparison
from parity.gradients import reasons
from parity.gradients.gauge import TRUTH, WITNESS
from parity.gradients.places import parameters as parameter_names
from parity.judge import identity_rows, names_of, quality_rows
from parity.lockstep import Observations
from parity.mapping import rows as mapping_rows
from parity.results import Mode, Row
from parity.taps import Tap
from parity.tolerances import Precision
from parity.training.ours import OurRun, in_dtype
from parity.training.places import Place, parsed, places
from parity.training.procedure import Procedure
from parity.training.recipe import Recipe
from parity.training.theirs import TheirRun
from parity.training.walk import Measured, Walk
from reference import huggingface

JUDGED = ("gradient", "weight")
"""Quantities whose rounding is judged; a single number's may by luck be none."""


def _is_judged(tap: Tap) -> bool:
    return parsed(tap.name).quantity in JUDGED


@dataclasses.dataclass(kw_only=True)
class TrainingComparison(Comparison):
    """A comparison of training steps under way.

    Attributes:
        recipes: One run for each form of the optimizer.
        procedure: How our side trains.
    """

    recipes: Sequence[Recipe]
    procedure: Procedure

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Observations()
        self._layers = int(self.reference.config.n_layer)
        self._single: dict[tuple[str, str], Row] = {}
        self._plan = [place.tap for place in self._places()]

    @property
    def plan(self) -> list[Tap]:
        """Every place of every form's run."""
        return self._plan

    def _places(self) -> Iterator[Place]:
        for recipe in self.recipes:
            steps, dropout = len(recipe.batches), recipe.dropout
            yield from places(recipe.form, steps=steps, layers=self._layers, dropout=dropout)

    def planned(self, attention: str) -> list[Tap]:  # noqa: ARG002
        """Return the places to compare on one path: the same on all."""
        return [tap for tap in self.plan if fnmatch.fnmatchcase(tap.name, self.select)]

    def compare(self) -> None:
        """Run every form of every path, in float64 and in the dtype judged."""
        self._look_alive()
        for attention, model in self.candidates.items():
            for recipe in self.recipes:
                for dtype in self._dtypes:
                    self._side_by_side(attention, model, recipe, dtype)
                    gc.collect()  # optimizers refer to themselves, and to gigabytes
            self._add_rows(attention)

    @property
    def _dtypes(self) -> list[torch.dtype]:
        judged = [] if self.precision is None else [self.precision.dtype]
        return [torch.float64, *judged]

    def _look_alive(self) -> None:
        """Look for signs of life in the reference, before anything is stepped."""
        with torch.no_grad():
            look = self.life.look

            def tap(name: str, value: Tensor) -> Tensor:
                look(name, value.double())
                return value

            huggingface.logits(self.reference, self.inputs.token_ids, tap=tap)

    def _side_by_side(
        self, attention: str, model: nn.Module, recipe: Recipe, dtype: torch.dtype
    ) -> None:
        """Let the leader and those that are measured step together."""
        names = names_of(attention, dtype)
        leader = self._their_run(torch.float64, recipe)
        followers: dict[str, OurRun | Measured] = {}
        if dtype != torch.float64:
            followers[names.huggingface] = Measured(self._their_run(dtype, recipe))
        else:
            self._note_names(attention, model)
        copied = in_dtype(model, dtype)
        try:
            followers[names.ours] = OurRun(copied, recipe, self.procedure, self._layers)
        except ValueError as error:  # a model without a parameter of ours
            self.note_broken(names.ours, error)
        walk = Walk(self, attention, recipe, leader, dtype)
        for step in range(len(recipe.batches)):
            walk.step(step, followers)

    def _their_run(self, dtype: torch.dtype, recipe: Recipe) -> TheirRun:
        model = cast("OpenAIGPTLMHeadModel", in_dtype(self.reference, dtype))
        table = mapping_rows(self._layers)
        return TheirRun(model, recipe, {row.ours: row.huggingface for row in table})

    def _note_names(self, attention: str, model: nn.Module) -> None:
        """Note parameters that stand under other names than ours."""
        own, wanted = dict(model.named_parameters()), parameter_names(self._layers)
        absent = [name for name in wanted if name not in own]
        self.reasons += reasons.not_compared(attention, absent, [n for n in own if n not in wanted])

    def note(self, subject: str, place: str, seen: Difference) -> None:
        """Keep one difference."""
        self.found.differences[subject, place, TRUTH] = seen
        self.found.differences[subject, place, WITNESS] = seen
        self.steps_done += 1
        total = len(self.plan) * len(self.candidates) * (1 if self.precision is None else 3)
        self.progress(place, min(self.steps_done, total), total)

    def note_row(self, row: Row) -> None:
        """Keep a row that is of no tensor."""
        self._single[row.attention, row.tap] = row

    def note_broken(self, subject: str, error: Exception) -> None:
        """Keep why a run of ours could not go on."""
        self.reasons.append(reasons.broken(subject, f"{type(error).__name__}: {error}"))

    def _add_rows(self, attention: str) -> None:
        """Turn what was seen of one path into rows, in the order of the steps."""
        plan = self.planned(attention)
        names = names_of(attention, torch.float64)
        tensors = [tap for tap in plan if (attention, tap.name) not in self._single]
        both = identity_rows(self.found, names, tensors, attention, self.bounds)
        made = {row.tap: row for row in both if row.witness == WITNESS}
        for tap in plan:
            row = self._single.get((attention, tap.name)) or made[tap.name]
            self.rows.append(row)
        if self.precision is not None:
            judged = [tap for tap in tensors if _is_judged(tap)]
            self.rows += self._quality(judged, attention, self.precision)

    def _quality(self, plan: list[Tap], attention: str, precision: Precision) -> list[Row]:
        names, mode = names_of(attention, precision.dtype), Mode.PROPAGATED
        peers = [tap for tap in self.plan if _is_judged(tap)]
        judged = quality_rows(
            self.found, names, plan, peers, attention, mode, precision, self.bounds
        )
        return [dataclasses.replace(row, witness=WITNESS) for row in judged]
