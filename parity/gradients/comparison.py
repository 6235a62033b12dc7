"""The passes of a check of gradients: one model at a time, forward and backward.

Hugging Face's float64 gradients come first and are the only ones kept. Every other gradient is
measured against them as soon as it is made, and let go: ours in float64, for identity; Hugging
Face's and ours in the dtype judged, for quality.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import subjects
from parity.compare import Held, visible_entries
from parity.comparison import Comparison
from parity.gradients import losses, reasons
from parity.gradients.backward import backward
from parity.gradients.gauge import WITNESS, Gauge
from parity.gradients.places import NOTHING_TO_ATTEND, is_parameter, kind_of, places
from parity.gradients.slopes import Slopes
from parity.judge import extra_rows, identity_rows, names_of, quality_rows
from parity.lockstep import Observations
from parity.mapping import rows as mapping_rows
from parity.results import Mode, Row
from parity.taps import Axes, Tap, never_formed
from parity.tolerances import FEWEST_PREDICTIONS, Precision


@dataclasses.dataclass(kw_only=True)
class GradientComparison(Comparison):
    """A comparison of gradients under way; its taps are gradients, from the loss backwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = Observations()
        self.truths: dict[str, Held] = {}
        self.places = places(int(self.reference.config.n_layer))
        self.slopes = Slopes(self.reference, self.inputs, self.select)
        self._loss = 0.0

    @property
    def plan(self) -> list[Tap]:
        """Every gradient and slope that these inputs have."""
        return [*(p for p in self.places if p.name not in self.exempt), *self.slopes.plan]

    @property
    def exempt(self) -> dict[str, str]:
        """The taps whose gradients no path has for these inputs, each with the reason."""
        left_out = {"loss": "the mean is taken at once; gradients begin at the logits"}
        if losses.sees_one_token(self.inputs):
            why = "every prediction is made from a token that sees itself alone: it is nought"
            left_out |= {p.name: why for p in self.places if kind_of(p.name) in NOTHING_TO_ATTEND}
        return left_out

    @property
    def rounds(self) -> Precision | None:
        """The dtype whose rounding is judged; None where too few tokens are predicted."""
        enough = int(losses.predicted(self.inputs).sum()) >= FEWEST_PREDICTIONS
        return self.precision if enough else None

    def planned(self, attention: str) -> list[Tap]:
        """Return the gradients to compare on one attention path."""
        absent = never_formed(attention, int(self.reference.config.n_layer))
        return [
            place
            for place in self.plan
            if place.name not in absent and fnmatch.fnmatchcase(place.name, self.select)
        ]

    def compare(self) -> None:
        """Run every pass that the modes ask for."""
        losses.check_predicted(self.inputs)
        self._keep_truths()
        self._ours(torch.float64)
        if self.rounds is not None:
            self._theirs(self.rounds.dtype)
            self._ours(self.rounds.dtype)
        self.truths.clear()
        self.slopes.measure(self.progress)
        for attention in self.candidates:
            self._add_rows(attention)

    def _keep_truths(self) -> None:
        """Run Hugging Face's model in float64, keep its gradients, and look whether it lives."""
        wanted = self.measured

        def keep(name: str, gradient: Tensor) -> None:
            self._step(f"{name}, Hugging Face, float64")
            if name in wanted:
                self.truths[name] = Held(gradient.cpu().clone(), self._visible[name])
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
        """Measure Hugging Face's own error in `dtype`."""
        model = self._reference(dtype)
        gauge = self._gauge(names_of("", dtype).huggingface, self.plan, dtype)
        loss_of = losses.of_huggingface(model, self.inputs)
        parameters = _named(model, self._theirs_of_ours())
        backward(loss_of, parameters, see=gauge.see, scale=gauge.scale)

    def _ours(self, dtype: torch.dtype) -> None:
        """Measure every path in `dtype`."""
        models = subjects.in_dtype(self.candidates, dtype)
        subjects.check_evaluating(models)
        for attention, model in models.items():
            self._measure(attention, model, dtype)

    def _measure(self, attention: str, model: nn.Module, dtype: torch.dtype) -> None:
        """Run one candidate once forward and backward."""
        gauge = self._gauge(names_of(attention, dtype).ours, self.planned(attention), dtype)
        if dtype == torch.float64:
            gauge.look = functools.partial(self._note_slope, attention, gauge.look)
        wanted = {p.name: p.name for p in self.places if is_parameter(p.name)}
        parameters = _named(model, wanted)
        broken = None
        try:
            loss_of = losses.of_candidate(model, self.inputs)
            loss = backward(loss_of, parameters, see=gauge.see, scale=gauge.scale)
        except Exception as error:  # noqa: BLE001 - a candidate may raise whatever it likes
            broken = f"{type(error).__name__}: {error}"
            self.reasons.append(reasons.broken(gauge.name, broken))
        else:
            if dtype == torch.float64:
                self.reasons += reasons.other_loss(attention, loss, self._loss, self.bounds)
        absent = set(wanted) - set(parameters)
        gauge.finish(dict.fromkeys(absent, reasons.NO_SUCH_PARAMETER), broken)
        if dtype == torch.float64:
            others = [name for name, _ in model.named_parameters() if name not in wanted]
            self.reasons += reasons.not_compared(attention, sorted(absent), others)

    def _note_slope(
        self, attention: str, then: Callable[[str, Tensor], None], name: str, gradient: Tensor
    ) -> None:
        self.slopes.see(attention, name, gradient)
        then(name, gradient)

    def _gauge(self, name: str, plan: list[Tap], dtype: torch.dtype) -> Gauge:
        scale = losses.scale_for(dtype, self.inputs)
        return Gauge(
            name=name,
            dtype=dtype,
            plan=plan,
            known=frozenset(place.name for place in self.places),
            truths=self.truths,
            found=self.found,
            look=functools.partial(self._look_at, name, scale),
            scale=scale,
        )

    def _look_at(self, run: str, scale: float, name: str, gradient: Tensor) -> None:
        """Take the fingerprint of a gradient at its own size."""
        own = gradient if scale == 1.0 else gradient.double() / scale
        self.fingerprints.take(run, name, own, visible=self._visible[name])
        self._step(f"{name}, {run}")

    @functools.cached_property
    def _visible(self) -> dict[str, Tensor | None]:
        """Which entries of each gradient count: of scores those that are not masked."""
        time = self.inputs.token_ids.shape[1]
        scores = visible_entries(Axes.SCORES, self.mask, time)
        axes = {place.name: place.kind.axes for place in self.places}
        return {name: scores if own is Axes.SCORES else None for name, own in axes.items()}

    def _reference(self, dtype: torch.dtype) -> OpenAIGPTLMHeadModel:
        """Return Hugging Face's model in `dtype`, dropout off."""
        model = subjects.in_dtype({"huggingface": self.reference}, dtype)["huggingface"]
        subjects.check_evaluating({"huggingface": model})
        return cast("OpenAIGPTLMHeadModel", model)

    def _theirs_of_ours(self) -> dict[str, str]:
        """Return Hugging Face's name of each parameter by ours."""
        table = mapping_rows(int(self.reference.config.n_layer))
        return {row.ours: row.huggingface for row in table}

    def _add_rows(self, attention: str) -> None:
        """Turn what was seen of one path into rows."""
        slopes = self.slopes.plan
        plan = [place for place in self.planned(attention) if place not in slopes]
        names = names_of(attention, torch.float64)
        both = identity_rows(self.found, names, plan, attention, self.bounds)
        self.rows += [row for row in both if row.witness == WITNESS]
        chosen = [place for place in self.planned(attention) if place in slopes]
        self.rows += self.slopes.rows(attention, chosen)
        self.rows += extra_rows(self.found, names, attention, "float64", Mode.IDENTITY)
        if self.rounds is not None:
            self.rows += self._quality(plan, attention, self.rounds)

    def _quality(self, plan: list[Tap], attention: str, precision: Precision) -> list[Row]:
        names, mode = names_of(attention, precision.dtype), Mode.PROPAGATED
        judged = quality_rows(
            self.found, names, plan, self.plan, attention, mode, precision, self.bounds
        )
        judged += extra_rows(self.found, names, attention, str(precision.dtype)[6:], mode)
        return [dataclasses.replace(row, witness=WITNESS) for row in judged]

    def _step(self, what: str) -> None:
        self.steps_done += 1
        paths = len(self.candidates)
        runs = (1 + paths) * (1 if self.rounds is None else 2)
        self.progress(what, self.steps_done, runs * len(self.places))


def _named(model: nn.Module, names: Mapping[str, str]) -> dict[str, nn.Parameter]:
    """Return a model's parameters under our names; those that it does not have are left out."""
    own = dict(model.named_parameters())
    return {ours: own[theirs] for ours, theirs in names.items() if theirs in own}
