"""The training check: both sides train on the same batches, and every step is compared.

Hugging Face's run in float64 is the reference. It makes its backward pass and its step; then every
other run makes its own. Each gradient is compared when it is complete, and the reference's is
freed. So at most one set of gradients exists beside parameters and moments.
"""

import dataclasses
import fnmatch
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import rows as mapping_rows
from parity.checkpoints.weights import Weights
from parity.checks.gradients import check as reasons
from parity.checks.gradients.backward import REFERENCE, TRUTH
from parity.checks.gradients.taps import parameter_names
from parity.checks.training.diagnosis import reason, signs_of
from parity.checks.training.runners import (
    VARIANTS,
    CandidateRun,
    Recipe,
    ReferenceRun,
    TrainingStep,
    batches,
    module_in_dtype,
)
from parity.checks.training.steps import (
    MeasuredStep,
    StepComparison,
    TrainingQuantity,
    parse_quantity,
    training_quantities,
)
from parity.core import backends
from parity.core.candidates import build_candidate
from parity.core.comparison import Comparison, by_backend, conclude, no_progress
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.gates import float64_rows, rounding_rows, run_names
from parity.core.inputs import Inputs, digest
from parity.core.lockstep import Observations
from parity.core.metrics import Difference, Status
from parity.core.results import FirstDivergence, Mode, Report, Row, Section
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import Tap
from parity.core.tolerances import PRECISIONS, Bounds, Precision, bounds_for
from parity.errors import UsageError
from parity.faults.registry import parse
from parity.faults.training import TRAINING_FAULTS, TrainingFault, inject
from parity.options import TrainingOptions, recorded_options
from parity.session import report_identity
from reference import huggingface
from scratch_gpt.progress import Progress

JUDGED = ("gradient", "weight")
"""Quantities whose rounding is checked; that of a single number may by luck be 0."""


def _is_judged(tap: Tap) -> bool:
    return parse_quantity(tap.name).quantity in JUDGED


@dataclasses.dataclass(kw_only=True)
class TrainingComparison(Comparison):
    """A comparison of training steps in progress.

    Attributes:
        recipes: One run for each variant of the optimizer.
        procedure: How our side trains.
    """

    recipes: Sequence[Recipe]
    procedure: TrainingStep

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Observations()
        self._layers = int(self.reference.config.n_layer)
        self._single: dict[tuple[str, str], Row] = {}
        self._plan = [place.tap for place in self._places()]

    @property
    def plan(self) -> list[Tap]:
        """Every place of every variant's run."""
        return self._plan

    def _places(self) -> Iterator[TrainingQuantity]:
        for recipe in self.recipes:
            steps, dropout = len(recipe.batches), recipe.dropout
            yield from training_quantities(
                recipe.variant, steps=steps, layers=self._layers, dropout=dropout
            )

    def planned(self, backend: str) -> list[Tap]:  # noqa: ARG002
        """Return the places to compare on one path: the same on all."""
        return [tap for tap in self.plan if fnmatch.fnmatchcase(tap.name, self.select)]

    def compare(self) -> None:
        """Run every variant of every path, in float64 and in the dtype judged."""
        self._look_alive()
        for backend, model in self.candidates.items():
            for recipe in self.recipes:
                for dtype in self._dtypes:
                    self._side_by_side(backend, model, recipe, dtype)
                    gc.collect()  # optimizers refer to themselves, and to gigabytes
            self._add_rows(backend)

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
        self, backend: str, model: nn.Module, recipe: Recipe, dtype: torch.dtype
    ) -> None:
        """Let the leader and those that are measured step together."""
        names = run_names(backend, dtype)
        leader = self._their_run(torch.float64, recipe)
        followers: dict[str, CandidateRun | MeasuredStep] = {}
        if dtype != torch.float64:
            followers[names.huggingface] = MeasuredStep(self._their_run(dtype, recipe))
        else:
            self._note_names(backend, model)
        copied = module_in_dtype(model, dtype)
        try:
            followers[names.ours] = CandidateRun(copied, recipe, self.procedure, self._layers)
        except ValueError as error:  # a model without a parameter of ours
            self.note_broken(names.ours, error)
        walk = StepComparison(self, backend, recipe, leader, dtype)
        for step in range(len(recipe.batches)):
            walk.step(step, followers)

    def _their_run(self, dtype: torch.dtype, recipe: Recipe) -> ReferenceRun:
        model = cast("OpenAIGPTLMHeadModel", module_in_dtype(self.reference, dtype))
        table = mapping_rows(self._layers)
        return ReferenceRun(model, recipe, {row.ours: row.huggingface for row in table})

    def _note_names(self, backend: str, model: nn.Module) -> None:
        """Note parameters that stand under other names than ours."""
        own, wanted = dict(model.named_parameters()), parameter_names(self._layers)
        absent = [name for name in wanted if name not in own]
        self.reasons += reasons.not_compared(backend, absent, [n for n in own if n not in wanted])

    def note(self, subject: str, place: str, seen: Difference) -> None:
        """Keep one difference."""
        self.found.differences[subject, place, TRUTH] = seen
        self.found.differences[subject, place, REFERENCE] = seen
        self.steps_done += 1
        total = len(self.plan) * len(self.candidates) * (1 if self.precision is None else 3)
        self.progress(place, min(self.steps_done, total), total)

    def note_row(self, row: Row) -> None:
        """Keep a row that is of no tensor."""
        self._single[row.backend, row.tap] = row

    def note_broken(self, subject: str, error: Exception) -> None:
        """Keep why a run of ours could not go on."""
        self.reasons.append(reasons.broken_reason(subject, f"{type(error).__name__}: {error}"))

    def _add_rows(self, backend: str) -> None:
        """Turn what was seen of one path into rows, in the order of the steps."""
        plan = self.planned(backend)
        names = run_names(backend, torch.float64)
        tensors = [tap for tap in plan if (backend, tap.name) not in self._single]
        both = float64_rows(self.found, names, tensors, backend, self.bounds)
        made = {row.tap: row for row in both if row.against == REFERENCE}
        for tap in plan:
            row = self._single.get((backend, tap.name)) or made[tap.name]
            self.rows.append(row)
        if self.precision is not None:
            judged = [tap for tap in tensors if _is_judged(tap)]
            self.rows += self._quality(judged, backend, self.precision)

    def _quality(self, plan: list[Tap], backend: str, precision: Precision) -> list[Row]:
        names, mode = run_names(backend, precision.dtype), Mode.END_TO_END
        peers = [tap for tap in self.plan if _is_judged(tap)]
        judged = rounding_rows(
            self.found, names, plan, peers, backend, mode, precision, self.bounds
        )
        return [dataclasses.replace(row, against=REFERENCE) for row in judged]


# The check.


def training(  # noqa: PLR0913 - as gradients
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    batches: Sequence[Tensor],
    *,
    parts: int = 2,
    dropout: bool = False,
    forms: Sequence[str] = tuple(VARIANTS),
    procedure: TrainingStep | None = None,
    dtype: str = "float32",
    select: str = "*",
    bounds: Bounds | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train a candidate and Hugging Face's model on the same batches, and compare every step.

    Each variant of the optimizer is a run of its own, from the same weights, its gradients clipped
    and its rate scheduled. Ours steps by `scratch_gpt.optimizer`, a batch in parts; Hugging Face's
    by the NumPy oracle in the released variant and by `torch.optim.AdamW` in the other, the batch
    in one. Losses, gradients, moments and weights must agree in float64; in the dtype judged, the
    errors of gradients and weights to the float64 run must be no worse than Hugging Face's own.

    Args:
        candidate: As for `gradients`. It is copied, and not changed.
        reference: Hugging Face's model; copied likewise.
        batches: One `[rows time]` of ids for each step.
        parts: Into how many parts our side cuts a batch, and accumulates.
        dropout: Whether both drop, the same elements, with the probabilities of their configs.
        forms: Keys of `FORMS`.
        procedure: How our side trains; another has a fault.
        dtype: Dtype whose rounding is judged; with `float64` identity alone is.
        select: Pattern of the places to compare, such as `adamw.2.weight.*`.
        bounds: Other bounds than the dtype's own; refused if they could not tell a fault.
        fingerprints: Whether the report holds those of all tensors that are compared.
        identity: What the verdict says about weights, config and code.
        progress: Called as the steps go on.

    Raises:
        ParityError: The comparison could not be begun, or the settings were moved meanwhile.
    """
    made = tuple(batches)
    recipes = [
        Recipe(variant=variant, batches=made, parts=parts, dropout=dropout) for variant in forms
    ]
    run = TrainingComparison(
        candidates=by_backend(candidate),
        reference=reference,
        inputs=Inputs(token_ids=made[0]),
        precision=PRECISIONS.get(dtype),
        modes=frozenset({Mode.FLOAT64, Mode.END_TO_END} if dtype in PRECISIONS else {Mode.FLOAT64}),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(None),
        progress=progress or no_progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        recipes=recipes,
        procedure=procedure or TrainingStep(),
    )
    report = conclude(run, identity or {}, check="training")
    return dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, exempt=[]),
        inputs={
            **report.inputs,
            "ids": digest(made),  # of every step, and not of the first alone
            "steps": len(made),
            "parts": parts,
            "dropout": dropout,
        },
        first_divergence=_told(report.first_divergence, run.rows, recipes[0]),
        sections=[section(run.rows)] if run.rows else [],
    )


def _told(
    first: FirstDivergence | None, rows: Sequence[Row], recipe: Recipe
) -> FirstDivergence | None:
    """Return the first divergence with what it most likely comes from."""
    if first is None:
        return None
    row = first.row
    if row.status is not Status.FAIL or row.mode is not Mode.FLOAT64:
        return dataclasses.replace(first, suspects=_SUSPECTS.get(row.mode, ""))
    why = _WHY.format(row=row) if not row.detail else row.detail
    suspects = reason(signs_of(row, rows, peak=recipe.peak))
    return dataclasses.replace(first, why=why, suspects=suspects)


_WHY = (
    "in float64 it differs from the {row.against}'s by {row.error_ours:.2g} of its size; right "
    "code stays within {row.bound:g}"
)
_SUSPECTS = {
    Mode.FLOAT64: "a run that broke off, or a tensor of another shape or type",
    Mode.END_TO_END: "arithmetic in a narrower type than the parameters'; moments that are rounded",
}


def section(rows: Sequence[Row]) -> Section:
    """Return the table: a line for each quantity of each form, in the order of a step."""
    modes = [mode for mode in _NUMBERS if any(row.mode is mode for row in rows)]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        place = parse_quantity(row.tap)
        groups.setdefault((place.variant, place.quantity, row.backend), []).append(row)
    lines = [
        [*group, str(len(of)), *(_worst(of, mode) for mode in modes), _mark(of)]
        for group, of in groups.items()
    ]
    return Section(
        columns=("variant", "quantity", "backend", "rows", *modes, ""),
        rows=lines,
        right=range(3, 4 + len(modes)),
        note="; ".join(f"{mode}: {_UNITS[mode]}" for mode in modes),
    )


_NUMBERS = {Mode.FLOAT64: "{:.1e}", Mode.END_TO_END: "{:.2f}"}
_UNITS = {Mode.FLOAT64: "max error / RMS", Mode.END_TO_END: "error vs HF's"}


def _worst(rows: Sequence[Row], mode: Mode) -> str:
    """Return the largest number of a mode, or the status that kept a row from having one."""
    of_mode = [row for row in rows if row.mode is mode]
    stopped = [row.status.value for row in of_mode if row.required_tolerance is None]
    if stopped or not of_mode:
        return stopped[0] if stopped else ""
    return _NUMBERS[mode].format(max(row.required_tolerance or 0.0 for row in of_mode))


def _mark(rows: Sequence[Row]) -> str:
    steps = [parse_quantity(row.tap).step for row in rows if row.status is not Status.PASS]
    return f"DIFFERS from step {min(steps)}" if steps else "ok"


# From the options of the verb `training` to its report.


_DRAWS_ELSEWHERE = "its attention draws tile by tile, so the reference cannot use the same mask"


def run_training(options: TrainingOptions, progress: Progress) -> Report:
    """Compare training steps."""
    _check_fault(options)
    wanted, left_out = backends.chosen_backends(options.backend, torch.device("cpu"))
    if options.dropout:
        _check_plain(options.backend)
        left_out = {name: _DRAWS_ELSEWHERE for name in wanted if name != "plain"} | dict(left_out)
        wanted = ["plain"]
    progress("weights", 0, 1)
    weights = load_weights(
        options.weights, lambda done, total: progress(f"weights {done}/{total}", done, total)
    )
    ids = batches(
        steps=options.steps,
        parts=options.micro_batches,
        batch=options.batch_size,
        time=_time(options, int(weights.config["n_positions"])),
        vocab_size=weights.config["vocab_size"],
        seed=options.seed,
    )
    candidates, reference = _candidates(options, weights, wanted), build_huggingface(weights)
    said = recorded_options(options) | ({"not_run": dict(left_out)} if left_out else {})
    stated = report_identity(weights.identity, weights.config)
    del weights  # both sides have copies; the source's half gigabyte is not needed any more
    report = training(
        candidates,
        reference,
        ids,
        parts=options.micro_batches,
        dropout=options.dropout,
        procedure=TRAINING_FAULTS[options.inject_fault].procedure()
        if options.inject_fault
        else TrainingStep(),
        dtype=options.dtype,
        select=options.taps,
        fingerprints=options.fingerprints,
        identity=stated,
        progress=progress,
    )
    return dataclasses.replace(report, inputs={**report.inputs, **said})


def _time(options: TrainingOptions, longest: int) -> int:
    """Return how many tokens a row has.

    Raises:
        UsageError: More than the model takes, or too few to predict one.
    """
    if 1 < options.seq_len <= longest:
        return options.seq_len
    raise UsageError(
        f"{options.seq_len} tokens in a row",
        where="--seq-len",
        fix=f"use 2 to {longest}: the model takes no more, and one token predicts none",
    )


def _check_plain(backend: str) -> None:
    """Require that no path is asked for whose draws cannot be given."""
    if backend not in ("plain", "default", "all"):
        raise UsageError(
            f"the path {backend} cannot be compared with dropout: {_DRAWS_ELSEWHERE}",
            where=f"--dropout with --backend {backend}",
            fix="use --backend plain, or leave --backend out",
        )


def _check_fault(options: TrainingOptions) -> None:
    if options.inject_fault is None:
        return
    fault, _ = parse(options.inject_fault, [TrainingFault])
    refused = {
        "a fault of dropout does not show without it": fault.dropout and not options.dropout,
        "a batch in one part cannot be averaged wrongly": fault.parts
        and options.micro_batches == 1,
        "a fault is injected into our model, not into a candidate": (
            options.candidate is not None and fault.change is not None
        ),
    }
    for what, applies in refused.items():
        if applies:
            raise UsageError(
                what,
                where=f"--inject-fault {fault.name}",
                fix="add --dropout, --micro-batches 2, or drop --candidate",
            )


def _candidates(
    options: TrainingOptions, weights: Weights, wanted: Sequence[str]
) -> dict[str, nn.Module]:
    """Return the models to judge, under the names of their attention paths."""
    if options.candidate is not None:
        return {"plain": build_candidate(options.candidate, weights)}
    right = build_ours(weights)
    model = inject(right, options.inject_fault) if options.inject_fault else right
    return {path: model if path == "plain" else model.with_backend(path) for path in wanted}
