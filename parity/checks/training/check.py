"""The training check: both sides train on the same batches, and every step is compared.

Hugging Face's run in float64 is the reference. At each step it goes first, then every other run.
Each gradient is compared when it is complete, and the reference's is freed. So at most one set of
gradients exists beside parameters and moments.
"""

import dataclasses
import fnmatch
import gc
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients import check as reasons
from parity.checks.gradients.backward import REFERENCE, TRUTH
from parity.checks.gradients.taps import parameter_names
from parity.checks.training.diagnosis import reason, signs_of
from parity.checks.training.runners import Recipe, ReferenceRun, data_of, our_run
from parity.checks.training.small_runs import trainer_rows
from parity.checks.training.steps import Follower, StepComparison, raised_row
from parity.checks.training.taps import (
    TRAINER,
    VARIANTS,
    TrainingQuantity,
    parse_quantity,
    trainer_quantities,
    training_quantities,
)
from parity.core import candidates
from parity.core.comparison import Comparison, by_backend, conclude, no_progress
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.gates import float64_rows, rounding_rows, run_names
from parity.core.inputs import Inputs, digest
from parity.core.lockstep import Observations
from parity.core.metrics import Difference, Status
from parity.core.results import (
    FirstDivergence,
    Mode,
    Report,
    Row,
    Section,
    first_divergence,
    reference_of,
)
from parity.core.taps import Tap
from parity.core.tolerances import FEWEST_PREDICTIONS, Bounds, bounds_for, precision_of
from reference import huggingface
from scratch_gpt.data import TokenData
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

ROUNDED = ("gradient", "weight")
"""Quantities whose rounding is checked; the rounding of a single number may happen to be 0."""


def _has_rounding(tap: Tap) -> bool:
    return parse_quantity(tap.name).quantity in ROUNDED


@dataclasses.dataclass(kw_only=True)
class TrainingComparison(Comparison):
    """A comparison of training steps in progress; each variant of the optimizer has a recipe."""

    recipes: Sequence[Recipe]
    trainer: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Observations()
        self._layers = int(self.reference.config.n_layer)
        self._single: dict[tuple[str, str], Row] = {}
        self._raised: list[Row] = []

    @cached_property
    def plan(self) -> list[Tap]:
        """Every quantity of every variant's run."""
        return [
            place.tap
            for one in self.recipes
            for place in training_quantities(
                one.variant, steps=len(one.batches), layers=self._layers, dropout=one.dropout
            )
        ]

    @property
    def backends(self) -> list[str]:
        """The candidates, and the trainer's own small runs."""
        small = self.trainer and self.planned(TRAINER)
        return [*self.candidates, *([TRAINER] if small else [])]

    def planned(self, backend: str) -> list[Tap]:
        """Return the quantities to compare."""
        small = (place.tap for place in trainer_quantities())
        plan = small if backend == TRAINER else self.plan
        return [tap for tap in plan if fnmatch.fnmatchcase(tap.name, self.select)]

    def compare(self) -> None:
        """Run every variant on every backend, in float64 and in the checked dtype."""
        self._measure_health()
        if any(self.planned(backend) for backend in self.candidates):
            self._compare_models()
        if wanted := self.planned(TRAINER) if self.trainer else []:
            self.rows += trainer_rows(wanted, self.bounds)

    def _compare_models(self) -> None:
        for backend in self.candidates:
            self._report_names(backend)
        checked = [] if self.precision is None else [self.precision.dtype]
        ours = [
            (backend, dtype) for backend in self.candidates for dtype in (torch.float64, *checked)
        ]
        # Together the runs share the reference; one at a time they need less memory.
        size = sum(p.numel() for p in self.reference.parameters())
        groups = [ours] if size <= SMALL_MODEL else [[one] for one in ours]
        with tempfile.TemporaryDirectory() as folder:
            for recipe in self.recipes:
                vocab_size = int(self.reference.config.vocab_size)
                data = data_of(Path(folder) / recipe.variant, recipe.batches, 0, vocab_size)
                others = OTHER_ORDERS if size <= SMALL_MODEL else 0
                for group in groups:
                    self._side_by_side(group, recipe, data, others)
                    gc.collect()  # optimizers hold gigabytes in reference cycles
        for backend in self.candidates:
            self._add_rows(backend)

    @torch.no_grad()
    def _measure_health(self) -> None:
        """Measure the health of the reference's blocks before any step."""

        def tap(name: str, value: Tensor) -> Tensor:
            self.life.look(name, value.double())
            return value

        huggingface.logits(self.reference, self.inputs.token_ids, tap=tap)

    def _report_names(self, backend: str) -> None:
        own = dict(self.candidates[backend].named_parameters())
        wanted = parameter_names(self._layers)
        absent = [name for name in wanted if name not in own]
        others = [name for name in own if name not in wanted]
        self.reasons += reasons.not_compared(backend, absent, others)

    def _side_by_side(
        self, ours: Sequence[tuple[str, torch.dtype]], recipe: Recipe, data: TokenData, others: int
    ) -> None:
        """Step the reference run, and the runs that are compared with it, together."""
        followers = []
        for dtype in {dtype for _, dtype in ours if dtype != torch.float64}:
            name = run_names("", dtype).huggingface
            for seed in (None, *range(others)):
                run = ReferenceRun(self.reference, recipe, dtype, seed)
                followers.append(Follower(name, run, dtype, is_first=seed is None))
        for backend, dtype in ours:
            name, model = run_names(backend, dtype).ours, self.candidates[backend]
            try:
                own = our_run(model, recipe, data, dtype, self._layers)
            except Exception as error:  # noqa: BLE001 - a row, or a candidate's error
                place = TrainingQuantity(recipe.variant, 1, "loss")
                self.note_broken(name, place, error)
            else:
                followers.append(Follower(name, own, dtype, backend))
        leader = ReferenceRun(self.reference, recipe, torch.float64)
        comparison = StepComparison(
            recorder=self, recipe=recipe, leader=leader, followers=followers
        )
        for step in range(len(recipe.batches)):
            comparison.step(step)

    def note(self, subject: str, place: TrainingQuantity, seen: Difference) -> None:
        """Record one difference; of several runs of the reference's the larger error."""
        before = self.found.differences.get((subject, place.name, TRUTH))
        if before is not None and subject.startswith("huggingface"):
            seen = dataclasses.replace(
                seen, rms=max(seen.rms, before.rms), largest=max(seen.largest, before.largest)
            )
        self.found.differences[subject, place.name, TRUTH] = seen
        self.found.differences[subject, place.name, REFERENCE] = seen
        self.steps_done += 1
        total = len(self.plan) * len(self.candidates) * (1 if self.precision is None else 3)
        self.progress(place.name, min(self.steps_done, total), total)

    def note_row(self, row: Row) -> None:
        """Record a row without a tensor."""
        self._single[row.backend, row.tap] = row

    def note_broken(self, subject: str, place: TrainingQuantity, error: Exception) -> None:
        """Record the error that ended one of our runs as a row of its step.

        Raises:
            InconclusiveError: The run is a candidate's.
        """
        _, *backend, dtype = subject.split("/")
        if not backend:  # Hugging Face's
            raise error
        if backend[0] in self.profiles:
            raise candidates.broken(error, after="it was examined", part="training step") from error
        row = raised_row(place, error, backend[0], dtype)
        self._raised.append(row)
        if row.mode is Mode.FLOAT64:
            self.note_row(row)

    def _add_rows(self, backend: str) -> None:
        plan = self.planned(backend)
        names = run_names(backend, torch.float64)
        tensors = [tap for tap in plan if (backend, tap.name) not in self._single]
        both = float64_rows(self.found, names, tensors, backend, self.bounds)
        made = {row.tap: row for row in both if row.against == REFERENCE}
        self.rows += [self._single.get((backend, tap.name)) or made[tap.name] for tap in plan]
        if self.precision is not None:
            names, mode = run_names(backend, self.precision.dtype), Mode.END_TO_END
            checked, peers = (list(filter(_has_rounding, taps)) for taps in (tensors, self.plan))
            rounding = rounding_rows(
                self.found, names, checked, peers, backend, mode, self.precision, self.bounds
            )
            self.rows += [dataclasses.replace(row, against=REFERENCE) for row in rounding]
        self.rows += [
            row for row in self._raised if row.backend == backend and row not in self.rows
        ]


SMALL_MODEL = 5_000_000
"""Parameters up to which all runs share one run of the reference in float64, and the reference's
rounding is estimated from several orders of its features. A larger model's tensors have so many
elements that one run is enough; see `docs/training-check.md`."""

OTHER_ORDERS = 3
"""Runs of Hugging Face's model in the checked dtype with its features in another order."""


def training(  # noqa: PLR0913 - as gradients
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    batches: Sequence[Tensor],
    *,
    parts: int = 2,
    dropout: bool = False,
    forms: Sequence[str] = tuple(VARIANTS),
    trainer: bool = True,
    dtype: str = "float32",
    select: str = "*",
    bounds: Bounds | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train a candidate and Hugging Face's model on the same batches, and compare every step.

    Each variant of the optimizer is a run of its own from the same weights, with clipping and a
    schedule. Our side is the `Trainer` of `scratch_gpt.training`. Hugging Face's uses the NumPy
    oracle in the released variant, `torch.optim.AdamW` in the other, and whole batches. Losses,
    gradients, moments and weights must agree in float64. In the checked dtype the errors of
    gradients and weights to the float64 run must be no worse than Hugging Face's own.

    Args:
        candidate: As for `gradients`; copied, not changed.
        reference: Hugging Face's model; copied, not changed.
        batches: Ids `[rows time]` of each step.
        parts: The number of micro-batches of our side.
        dropout: Whether both sides use dropout, with equal masks and the configs' probabilities.
        forms: Keys of `VARIANTS`.
        trainer: Whether the trainer makes small runs of its own too, if the candidates are our
            models: windows, schedules, the optimizer alone, dropout, resuming.
        dtype: The checked dtype; `float64` for mode float64 alone.
        select: Shell pattern of the quantities to compare, such as `adamw.2.weight.*`.
        bounds: Instead of the dtype's own; bounds that cannot detect a fault are rejected.
        fingerprints: Whether the report has the fingerprints of all compared tensors.
        identity: Weights, config and code, for the report.
        progress: Called as the steps go on.

    Raises:
        ParityError: The comparison cannot start, or torch settings changed during it.
    """
    made = tuple(batches)
    recipes = [
        Recipe(variant=form, optimizer=form, batches=made, parts=parts, dropout=dropout)
        for form in forms
    ]
    models, precision = by_backend(candidate), precision_of(dtype)
    # In half precision so few tokens are few numbers: their rounding is chance.
    predicted = min((len(ids) * (ids.shape[1] - 1) for ids in made), default=0)
    is_half = precision is not None and precision.dtype != torch.float32
    is_rounded = precision is not None and not (is_half and predicted < FEWEST_PREDICTIONS)
    few = f"not checked in {dtype} below {FEWEST_PREDICTIONS} predicted tokens"
    unchecked = {"rounding": few} if precision is not None and not is_rounded else {}
    run = TrainingComparison(
        candidates=models,
        reference=reference,
        inputs=Inputs(token_ids=made[0]),
        precision=precision if is_rounded else None,
        modes=frozenset({Mode.FLOAT64, Mode.END_TO_END} if is_rounded else {Mode.FLOAT64}),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(None),
        progress=progress or no_progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        recipes=recipes,
        trainer=trainer and all(isinstance(model, GPT) for model in models.values()),
    )
    report = conclude(run, identity or {}, check="training")
    return dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, exempt=[]),
        inputs={
            **report.inputs,
            "ids": digest(made),  # of every step
            "steps": len(made),
            "parts": parts,
            "dropout": dropout,
            **unchecked,
        },
        first_divergence=_explained(
            first_divergence(
                {"": [tap for name in run.backends for tap in run.planned(name)]}, run.rows
            ),
            run.rows,
            recipes[0],
        ),
        sections=[section(run.rows, unchecked)] if run.rows else [],
    )


def _explained(
    first: FirstDivergence | None, rows: Sequence[Row], recipe: Recipe
) -> FirstDivergence | None:
    if first is None:
        return None
    row = first.row
    if row.status is not Status.FAIL or row.mode is not Mode.FLOAT64:
        return dataclasses.replace(first, suspects=_SUSPECTS.get(row.mode, ""))
    if row.required_tolerance is None:  # it raised, or is no finite number
        return dataclasses.replace(
            first, why=row.detail or first.why, suspects=_SUSPECTS[Mode.FLOAT64]
        )
    why = _WHY.format(against=reference_of(row), row=row) if not row.detail else row.detail
    suspects = reason(signs_of(row, rows, peak=recipe.peak))
    return dataclasses.replace(first, why=why, suspects=suspects)


_WHY = (
    "in float64 it differs from {against}'s by {row.error_ours:.2g} of its size; right "
    "code stays within {row.bound:g}"
)
_SUSPECTS = {
    Mode.FLOAT64: "a run that broke off, or a tensor of another shape or type",
    Mode.END_TO_END: "arithmetic in a narrower type than the parameters'; moments that are rounded",
}


def section(rows: Sequence[Row], unchecked: Mapping[str, str]) -> Section:
    """Return the table: a line for each quantity of each variant, in the order of a step.

    Below it is what was not checked, each with the reason.
    """
    modes = [mode for mode in _NUMBERS if any(row.mode is mode for row in rows)]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    first: dict[tuple[str, str], Row] = {}  # a run's later failures may come from its first one
    for row in rows:
        place = parse_quantity(row.tap)
        groups.setdefault((place.variant, place.quantity, row.backend), []).append(row)
        if row.status is not Status.PASS:
            first.setdefault((place.variant, row.backend), row)
    causes = {id(row) for row in first.values()}
    lines = [
        [*group, str(len(of)), *(_worst(of, mode) for mode in modes), _mark(of, causes)]
        for group, of in groups.items()
    ]
    notes = [f"{mode}: {_UNITS[mode]}" for mode in modes]
    if any(line[-1].startswith(FOLLOWS) for line in lines):
        notes.append(f"{FOLLOWS}: its inputs were wrong already")
    return Section(
        columns=("variant", "quantity", "backend", "rows", *modes, ""),
        rows=lines,
        right=range(3, 4 + len(modes)),
        note="; ".join(notes),
        lines=[f"{what} {why}" for what, why in unchecked.items()],
    )


_NUMBERS = {Mode.FLOAT64: "{:.1e}", Mode.END_TO_END: "{:.2f}"}
_UNITS = {Mode.FLOAT64: "max error / RMS", Mode.END_TO_END: "error vs HF's"}


def _worst(rows: Sequence[Row], mode: Mode) -> str:
    """Return the largest number of a mode, or the status of a row without a number."""
    of_mode = [row for row in rows if row.mode is mode]
    stopped = [row.status.value for row in of_mode if row.required_tolerance is None]
    if stopped or not of_mode:
        return stopped[0] if stopped else ""
    return _NUMBERS[mode].format(max(row.required_tolerance or 0.0 for row in of_mode))


FOLLOWS = "follows"


def _mark(rows: Sequence[Row], causes: Collection[int]) -> str:
    failing = [row for row in rows if row.status is not Status.PASS]
    if not failing:
        return "ok"
    places = [parse_quantity(row.tap) for row in failing]
    is_cause = places[0].quantity in _ALONE or any(id(row) in causes for row in failing)
    return f"{'WRONG' if is_cause else FOLLOWS} from step {min(place.step for place in places)}"


_ALONE = ("ids", "seeds", "dropout", "dtype", "rate")
"""Quantities that are computed from no other one."""
