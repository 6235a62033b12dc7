"""The gradient check: one model at a time, forward and backward.

Hugging Face's float64 gradients are computed first and are the only ones kept. Every other gradient
is compared with them when it appears, and freed: ours in float64, then Hugging Face's and ours in
the checked dtype.
"""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import rows as mapping_rows
from parity.checks.gradients import backward as losses
from parity.checks.gradients.aligned import (
    NO_TAPS,
    NOT_HELD,
    AlignedModel,
    Aligning,
    JoinedGradients,
)
from parity.checks.gradients.aligned import not_compared as not_aligned
from parity.checks.gradients.backward import (
    REFERENCE,
    GradientCallback,
    GradientComparator,
    backward,
)
from parity.checks.gradients.slope import Slopes
from parity.checks.gradients.taps import NOTHING_TO_ATTEND, gradient_names, is_parameter, kind_of
from parity.core import candidates, runners
from parity.core.comparison import Comparison, by_backend, conclude, no_progress
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.gates import extra_rows, fails, float64_rows, narrow_reason, run_names
from parity.core.inputs import Inputs
from parity.core.lockstep import Observations
from parity.core.metrics import Reference, Status, visible_entries
from parity.core.reordered import Reordered
from parity.core.results import FirstDivergence, Mode, Reason, Report, Row
from parity.core.taps import Axes, Tap
from parity.core.tolerances import (
    FEWEST_PREDICTIONS,
    PRECISIONS,
    Bounds,
    Precision,
    bounds_for,
    precision_of,
)
from parity.errors import ExitCode, InconclusiveError
from scratch_gpt.progress import Progress

NO_SUCH_PARAMETER = "the candidate has no parameter of this name"


def broken_reason(subject: str, message: str) -> Reason:
    """Return the reason of a run that raised."""
    return Reason(
        what=f"forward or backward of {subject} raised {message}",
        where=subject,
        fix="run the model alone on the same ids, with loss.backward(), to see the traceback",
        code=ExitCode.FAIL,
    )


def other_loss(backend: str, ours: float, theirs: float, bounds: Bounds) -> list[Reason]:
    """Return a reason if the losses differ: then the gradients are of another function."""
    if math.isfinite(ours) and abs(ours - theirs) <= bounds.float64 * abs(theirs):
        return []
    return [
        Reason(
            what=f"the loss itself differs: {ours:.12g}, Hugging Face's is {theirs:.12g}",
            where=f"attention {backend}, float64",
            fix="python -m parity.check layerwise names the operation; gradients come after it",
            code=ExitCode.FAIL,
        )
    ]


def not_compared(backend: str, absent: Sequence[str], others: Sequence[str]) -> list[Reason]:
    """Return a reason if parameter names differ from ours: all of them must be compared."""
    if not absent and not others:
        return []
    without = f"{len(absent)} parameters' gradients were not compared, only those of taps"
    beyond = f"{len(others)} parameters of its own have gradients without a reference"
    named = [f"it lacks {', '.join(absent[:3])}"] if absent else []
    named += [f"it has {', '.join(others[:3])}"] if others else []
    return [
        Reason(
            what=without if absent else beyond,
            where=f"attention {backend}: {'; '.join(named)}",
            fix="name the parameters as parity/checkpoints/mapping.py does: h.0.attn.c_attn.weight",
            code=ExitCode.INCONCLUSIVE,
        )
    ]


@dataclasses.dataclass(kw_only=True)
class GradientComparison(Comparison):
    """A comparison of gradients in progress."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Observations()
        self.truths: dict[str, Reference] = {}
        self.shown: dict[str, dict[str, tuple[str, str]]] = {}
        self.places = gradient_names(int(self.reference.config.n_layer))
        self.slopes = Slopes(self.reference, self.inputs, self.select)
        self._loss = 0.0
        self.unreached: list[str] = []

    @property
    def plan(self) -> list[Tap]:
        """Every gradient and slope that these inputs have."""
        return [*(p for p in self.places if p.name not in self.exempt), *self.slopes.plan]

    @property
    def exempt(self) -> dict[str, str]:
        """The taps whose gradients no backend has for these inputs, each with the reason."""
        left_out = {"loss": "the mean is taken at once; gradients start at the logits"}
        if losses.sees_one_token(self.inputs):
            why = "zero by construction: each predicting token attends only to itself"
            left_out |= {p.name: why for p in self.places if kind_of(p.name) in NOTHING_TO_ATTEND}
        return left_out

    @property
    def rounds(self) -> Precision | None:
        """The checked dtype; None if too few tokens are predicted."""
        enough = int(losses.predicted(self.inputs).sum()) >= FEWEST_PREDICTIONS
        return self.precision if enough else None

    def absent(self, backend: str) -> dict[str, str]:
        """Return the gradients that a backend or a candidate does not show, with the reasons."""
        found = super().absent(backend)
        if isinstance(self.candidates[backend], AlignedModel):
            found = dict.fromkeys(found, NO_TAPS)
        if narrow := self._narrow(backend):
            why = f"{narrow}: its rounding is more than the slope allows"
            found |= {place.name: why for place in self.slopes.plan}
        return found

    def _narrow(self, backend: str) -> str:
        """Return which dtype narrower than float64 enters a candidate without taps, and where."""
        model = self.candidates[backend]
        return model.profile.narrow if isinstance(model, AlignedModel) else ""

    def planned(self, backend: str) -> list[Tap]:
        """Return the gradients to compare on one backend."""
        absent = self.absent(backend)
        return [
            place
            for place in self.plan
            if place.name not in absent and fnmatch.fnmatchcase(place.name, self.select)
        ]

    def compare(self) -> None:
        """Run every pass of the modes, then make the rows."""
        losses.check_predicted(self.inputs)
        for model in self.candidates.values():
            if isinstance(model, AlignedModel):
                model.check_narrow(self.rounds)
                self._visible |= {name: model.held[name] for name in model.named("some")}
        self._keep_truths()
        self._ours(torch.float64)
        if self.rounds is not None:
            self._theirs(self.rounds.dtype)
            self._ours(self.rounds.dtype)
        rounding = {backend: self._rounding(backend) for backend in self.candidates}
        self.truths.clear()
        self.slopes.measure(self.progress)
        for backend, rows in rounding.items():
            self._add_rows(backend, rows)

    def _keep_truths(self) -> None:
        """Run Hugging Face's model in float64; keep its gradients, and measure its health."""
        wanted = self.measured

        def keep(name: str, gradient: Tensor) -> None:
            self._step(f"{name}, Hugging Face, float64")
            if name in wanted:
                self.truths[name] = Reference(gradient.cpu().clone(), self._visible[name])
                self.fingerprints.take(
                    "huggingface/float64", name, gradient, visible=self._visible[name]
                )

        model = self._reference(torch.float64)
        self._loss = backward(
            losses.of_huggingface(model, self.inputs),
            _named(model, self._theirs_of_ours()),
            see=keep,
            look=lambda name, value: self.life.look(name, value.cpu()),
        )

    def _theirs(self, dtype: torch.dtype) -> None:
        model = self._reference(dtype)
        comparator = self._comparator(run_names("", dtype).huggingface, self.plan, dtype)
        loss_of = losses.of_huggingface(model, self.inputs)
        parameters = _named(model, self._theirs_of_ours())
        backward(loss_of, parameters, see=comparator.see, scale=comparator.scale)

    def _measured_again(
        self, _backend: str, _mode: Mode, dtype: torch.dtype, seed: int
    ) -> Observations:
        """Run Hugging Face's model in another order, which is as right."""
        other = Reordered(self._reference(dtype), seed)
        comparator = dataclasses.replace(
            self._comparator(run_names("", dtype).huggingface, self.plan, dtype),
            found=Observations(),
            look=lambda _name, _gradient: None,
        )

        def see(name: str, gradient: Tensor) -> None:
            moved = is_parameter(name)  # a tap is shown in the old order already
            comparator.see(name, other.reordered(name, gradient, back=True) if moved else gradient)

        loss_of = losses.of_huggingface(other.model, self.inputs)
        parameters = _named(other.model, self._theirs_of_ours())
        backward(
            other.in_old_order(loss_of, rounds=True), parameters, see=see, scale=comparator.scale
        )
        return comparator.found

    def _ours(self, dtype: torch.dtype) -> None:
        models = runners.model_in_dtype(self.candidates, dtype)
        runners.check_evaluating(models)
        for backend, model in models.items():
            self._measure(backend, model, dtype)

    def _measure(self, backend: str, model: nn.Module, dtype: torch.dtype) -> None:
        comparator = self._comparator(run_names(backend, dtype).ours, self.planned(backend), dtype)
        aligned = model if isinstance(model, AlignedModel) else None
        if dtype == torch.float64:
            look = comparator.look
            partly = aligned.named("some") if aligned else []

            def look_at_slope(name: str, gradient: Tensor) -> None:
                if name not in partly:
                    self.slopes.see(backend, name, gradient)
                look(name, gradient)

            comparator.look = look_at_slope
        wanted = {p.name: p.name for p in self.places if is_parameter(p.name)}
        if aligned:
            joined = JoinedGradients(aligned, comparator.see)
            broken = self._run(backend, aligned, aligned.own_parameters, comparator, joined.see)
            self.unreached = joined.finish()
            absent = dict.fromkeys(aligned.named("none"), NOT_HELD)
            reasons = list(not_aligned(aligned))
        else:
            parameters = _named(model, wanted)
            broken = self._run(backend, model, parameters, comparator, comparator.see)
            absent = dict.fromkeys(sorted(set(wanted) - set(parameters)), NO_SUCH_PARAMETER)
            others = [name for name, _ in model.named_parameters() if name not in wanted]
            reasons = not_compared(backend, list(absent), others)
        comparator.finish(absent, broken)
        if dtype == torch.float64:
            self.reasons += reasons

    def _run(
        self,
        backend: str,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        comparator: GradientComparator,
        see: GradientCallback,
    ) -> str | None:
        """Run a candidate forward and backward; return the error that it raised, if any."""
        try:
            loss_of = losses.of_candidate(model, self.inputs)
            loss = backward(loss_of, parameters, see=see, scale=comparator.scale)
        except InconclusiveError:
            raise
        except Exception as error:
            if backend in self.profiles:
                raise candidates.broken(
                    error, after="it was examined", part="forward or backward"
                ) from error
            broken = f"{type(error).__name__}: {error}"
            self.reasons.append(broken_reason(comparator.name, broken))
            return broken
        if comparator.dtype == torch.float64 and not self._narrow(backend):
            self.reasons += other_loss(backend, loss, self._loss, self.bounds)
        return None

    def _comparator(self, name: str, plan: list[Tap], dtype: torch.dtype) -> GradientComparator:
        scale = losses.scale_for(dtype, self.inputs)
        return GradientComparator(
            name=name,
            dtype=dtype,
            plan=plan,
            known=frozenset(place.name for place in self.places),
            truths=self.truths,
            found=self.found,
            look=functools.partial(self._look_at, name, scale),
            scale=scale,
            within=self.bounds.float64,
            shown=self.shown.setdefault(name, {}),
        )

    def _look_at(self, run: str, scale: float, name: str, gradient: Tensor) -> None:
        """Take the fingerprint of a gradient without the scale."""
        own = gradient if scale == 1.0 else gradient.double() / scale
        self.fingerprints.take(run, name, own, visible=self._visible[name])
        self._step(f"{name}, {run}")

    @functools.cached_property
    def _visible(self) -> dict[str, Tensor | None]:
        """The real entries of each gradient: of scores those that are not masked."""
        time = self.inputs.token_ids.shape[1]
        scores = visible_entries(Axes.SCORES, self.mask, time)
        axes = {place.name: place.kind.axes for place in self.places}
        return {name: scores if own is Axes.SCORES else None for name, own in axes.items()}

    def _reference(self, dtype: torch.dtype) -> OpenAIGPTLMHeadModel:
        """Return Hugging Face's model in `dtype`, dropout off."""
        model = runners.model_in_dtype({"huggingface": self.reference}, dtype)["huggingface"]
        runners.check_evaluating({"huggingface": model})
        return cast("OpenAIGPTLMHeadModel", model)

    def _theirs_of_ours(self) -> dict[str, str]:
        """Return Hugging Face's name of each parameter by ours."""
        table = mapping_rows(int(self.reference.config.n_layer))
        return {row.ours: row.huggingface for row in table}

    def _float64_rows(self, backend: str) -> list[Row]:
        plan = [place for place in self.planned(backend) if place not in self.slopes.plan]
        names, narrow = run_names(backend, torch.float64), self._narrow(backend)
        both = float64_rows(self.found, names, plan, backend, self.bounds, narrow=narrow)
        shown = {
            name: {"note": note, "cause": cause}
            for name, (note, cause) in self.shown.get(names.ours, {}).items()
            if note or cause
        }
        return [
            dataclasses.replace(row, details=shown.get(row.tap, {}))
            for row in both
            if row.against == REFERENCE
        ]

    def _rounding(self, backend: str) -> list[Row]:
        """Return the rows of the checked dtype; this may need the reference's gradients."""
        if self.rounds is None:
            return []
        differs = fails(self._float64_rows(backend), backend, Mode.FLOAT64)
        mode = Mode.END_TO_END
        found = self._rounding_rows(self.found, backend, mode, self.rounds, differs=differs)
        return [row for row in found if row.tap not in {slope.name for slope in self.slopes.plan}]

    def _add_rows(self, backend: str, rounding: Sequence[Row]) -> None:
        slopes = self.slopes.plan
        names = run_names(backend, torch.float64)
        self.rows += self._float64_rows(backend)
        if narrow := self._narrow(backend):
            self.reasons.append(narrow_reason(narrow))
        chosen = [place for place in self.planned(backend) if place in slopes]
        self.rows += self.slopes.rows(backend, chosen)
        self.rows += extra_rows(self.found, names, self.plan, backend, "float64", Mode.FLOAT64)
        if self.rounds is not None:
            names, mode = run_names(backend, self.rounds.dtype), Mode.END_TO_END
            extra = extra_rows(
                self.found, names, self.plan, backend, str(self.rounds.dtype)[6:], mode
            )
            rows = [*rounding, *extra]
            self.rows += [dataclasses.replace(row, against=REFERENCE) for row in rows]

    def _step(self, what: str) -> None:
        self.steps_done += 1
        paths = len(self.candidates)
        runs = (1 + paths) * (1 if self.rounds is None else 2)
        self.progress(what, self.steps_done, runs * len(self.places))


def _named(model: nn.Module, names: Mapping[str, str]) -> dict[str, nn.Parameter]:
    """Return a model's parameters under our names; those that it does not have are left out."""
    own = dict(model.named_parameters())
    return {ours: own[theirs] for ours, theirs in names.items() if theirs in own}


def gradients(  # noqa: PLR0913 - as layerwise
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    dtype: str = "float32",
    select: str = "*",
    bounds: Bounds | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    call: str | None = None,
) -> Report:
    """Compare a candidate's gradients with Hugging Face's, from the loss back to the embeddings.

    The loss is the mean next-token loss over all real tokens that are predicted. In float64 the
    gradients of every tap and parameter must be Hugging Face's, and those of the parameters
    must have the slope of the oracle's loss. In the checked dtype their error to the float64
    gradients must be no worse than Hugging Face's own.

    The arguments are those of `layerwise`. The parameters of a candidate with taps have our names;
    those of one without taps are found by their values, and only their gradients are compared.

    Raises:
        ParityError: The comparison cannot start, or torch settings changed during it.
    """
    aligning = Aligning(call)
    run = GradientComparison(
        candidates=by_backend(candidate),
        reference=reference,
        inputs=Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask),
        precision=precision_of(dtype),
        modes=frozenset({Mode.FLOAT64, Mode.END_TO_END} if dtype in PRECISIONS else {Mode.FLOAT64}),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(None),
        progress=progress or no_progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        prepare=aligning.prepare,
    )
    report = conclude(run, identity or {}, check="gradients")
    exempt = [
        {"backend": backend, "tap": tap, "reason": why}
        for backend in run.candidates
        for tap, why in (run.absent(backend) | run.exempt).items()
    ]
    few = f"not checked below {FEWEST_PREDICTIONS} predicted tokens"
    unchecked = {"rounding": few} if run.precision is not None and run.rounds is None else {}
    report = dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, exempt=exempt),
        inputs={**report.inputs, **unchecked},
        first_divergence=_of_gradient(report.first_divergence),
    )
    return aligning.reported(report, run.unreached)


_WHY = {
    Mode.FLOAT64: "in float64 the gradient differs from Hugging Face's by {row.error_ours:.2g} of "
    "its RMS; right code stays within {row.bound:g}",
    Mode.END_TO_END: "in {row.dtype} the gradient's error to the float64 one is {row.ratio:.3g} "
    "times Hugging Face's own; the bound is {row.bound:g}",
}
_WHY_SLOPE = (
    "gradient and direction have the inner product {row.value_ours:.8g}, and the oracle's loss "
    "the slope {row.value_against:.8g}; right code stays within {row.bound:g} of what is usual"
)


def _of_gradient(first: FirstDivergence | None) -> FirstDivergence | None:
    if first is None or first.row.status is not Status.FAIL or first.row.error_ours is None:
        return first
    row = first.row
    words = _WHY_SLOPE if row.against == "oracle" else _WHY[row.mode]
    return dataclasses.replace(first, why=words.format(row=row))
