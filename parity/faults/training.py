"""Wrong procedures of a training step, each right but for one thing."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from parity.checks.training.runners import VARIANTS, Named, Recipe, TrainingStep
from scratch_gpt.dropout import dropout
from scratch_gpt.gradient_clipping import clip_global_norm
from scratch_gpt.loss import log_softmax
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import VARIANTS as FORMULAS
from scratch_gpt.optimizer import Adam, Rates
from scratch_gpt.schedule import Schedule
from scratch_gpt.transformer_block import TransformerBlock

# Dropout at the wrong place, at none, or with the wrong probability, in the first block.


def dropout_on_norm(model: GPT) -> None:
    """Drop from ln_1's output in the first block, and not from what attention gives."""
    block = cast("TransformerBlock", model.h[0])
    probability, block.resid_pdrop = block.resid_pdrop, 0.0
    for part in (block.ln_1, block.mlp):  # the MLP's output is what it should drop from
        part.register_forward_hook(lambda _module, _given, out: dropout(out, probability))


def no_attention_dropout(model: GPT) -> None:
    """Leave the first block's attention weights whole."""
    cast("TransformerBlock", model.h[0]).attn.attn_pdrop = 0.0


def no_embedding_dropout(model: GPT) -> None:
    """Leave the embeddings whole."""
    model.config = dataclasses.replace(model.config, embd_pdrop=0.0)


def keep_probability(model: GPT) -> None:
    """Keep, in the first block, with the probability of being dropped."""
    block = cast("TransformerBlock", model.h[0])
    block.resid_pdrop = 1.0 - block.resid_pdrop


Parameters = Mapping[str, nn.Parameter]


class TargetsNotShifted(TrainingStep):
    """Each position predicts its own token."""

    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:  # noqa: D102
        return -log_softmax(logits).gather(-1, token_ids[..., None]).mean()


class PartsNotAveraged(TrainingStep):
    """Parts are added up."""

    def share(self, loss: Tensor, parts: int) -> Tensor:  # noqa: ARG002, D102
        return loss


class GradientsKept(TrainingStep):
    """Gradients stay."""

    def let_go(self, optimizer: Adam) -> None:
        """Let nothing go."""


class ClippedEach(TrainingStep):
    """Each gradient by its own norm."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        norm = clip_global_norm(parameters.items(), float("inf"))
        for named in parameters.items():
            clip_global_norm([named], maximum)
        return norm


class ClippedAfter(TrainingStep):
    """Clipping comes after the step."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        optimizer.step(rate)
        norm = self.clip(parameters, maximum)
        self.let_go(optimizer)
        return norm


class NormWithoutTable(TrainingStep):
    """The norm is of all but the token embedding."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        others = [(name, p) for name, p in parameters.items() if name != "tokens_embed.weight"]
        return clip_global_norm(others, maximum)


class DecayInGradient(TrainingStep):
    """Weight decay is part of the gradient."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        norm = super().clip(parameters, maximum)
        for parameter in parameters.values():
            if parameter.grad is not None and parameter.ndim > 1:
                parameter.grad.add_(parameter.detach(), alpha=0.01)
        return norm


class DecayOnVectors(TrainingStep):
    """Vectors decay."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.decay_vectors = True
        return made


class DecayMissing(TrainingStep):
    """Nothing decays."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.weight_decay = 0.0
        return made


class _Uncorrected(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        return FORMULAS[self.form](learning_rate, 1.0, 1.0, self.weight_decay)


class _CorrectedLate(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        bias_1, bias_2 = (1.0 - beta ** max(1, self.steps) for beta in self.betas)
        return FORMULAS[self.form](learning_rate, bias_1, bias_2, self.weight_decay)


class _EpsilonInside(Adam):
    def _update_run(  # noqa: PLR0913 - as the right one's
        self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        outside, before = self.epsilon, p.clone()
        super()._update_run(p, g, first, second, scratch, rates)
        root = torch.sqrt(second / rates.root**2 + outside)
        p.copy_(before * rates.kept - rates.rate * first / root)


class _By(TrainingStep):
    """A procedure with another optimizer."""

    kind: type[Adam] = Adam

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        return self.kind(
            named,
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            form=recipe.form,
        )


class NoBiasCorrection(_By):
    """The moments are used as they are."""

    kind = _Uncorrected


class CorrectionLate(_By):
    """Bias correction counts the steps before."""

    kind = _CorrectedLate


class EpsilonInsideRoot(_By):
    """Epsilon inside the root."""

    kind = _EpsilonInside


class OtherForm(TrainingStep):
    """The other form."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.form = next(form for form in VARIANTS if form != recipe.form)
        return made


class ScheduleOffByOne(TrainingStep):
    """Steps are counted from the other number."""

    def schedule(self, recipe: Recipe) -> Schedule:  # noqa: D102
        return Schedule(
            steps=recipe.steps,
            peak=recipe.peak,
            warmup=recipe.warmup,
            counted_from=1 - VARIANTS[recipe.form],
        )


class NoWarmup(TrainingStep):
    """The first rate is the largest."""

    def schedule(self, recipe: Recipe) -> Schedule:  # noqa: D102
        start = VARIANTS[recipe.form]
        return Schedule(steps=recipe.steps, peak=recipe.peak, warmup=0, counted_from=start)


class Beta1(TrainingStep):
    """Another first decay rate."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.betas = (0.85, recipe.betas[1])
        return made


class Beta2(TrainingStep):
    """Another second decay rate."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.betas = (recipe.betas[0], 0.99)
        return made


class MomentsNotCarried(TrainingStep):
    """Every step begins with moments of zero."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        for moment in optimizer.state_dict().values():
            if isinstance(moment, Tensor):
                moment.fill_(0.0)
        return super().advance(parameters, optimizer, maximum, rate)


class TiedSteppedTwice(TrainingStep):
    """The token embedding goes twice as far."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        table = parameters["tokens_embed.weight"].detach()
        before = table.clone()
        norm = super().advance(parameters, optimizer, maximum, rate)
        table.add_(table - before)
        return norm


# Faults that training loops really have, planted into our side of a step from outside.


@dataclasses.dataclass(frozen=True)
class TrainingFault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        first: The place that must be named first; `{last}` is the last block, `{moving}` the first
            step whose learning rate is not 0.
        look_for: What the reason must say.
        procedure: How a side trains that has it.
        plant: Plants it into a model, where it is the model's.
        dropout: Whether it shows with dropout alone.
        parts: Whether it shows with more parts than one alone.
    """

    what: str
    first: str
    look_for: str
    procedure: type[TrainingStep] = TrainingStep
    plant: Callable[[GPT], None] | None = None
    dropout: bool = False
    parts: bool = False


TRAINING_FAULTS: Mapping[str, TrainingFault] = {
    "targets-not-shifted": TrainingFault(
        "each position predicts its own token",
        "{form}.1.loss",
        "targets not shifted",
        TargetsNotShifted,
    ),
    "parts-not-averaged": TrainingFault(
        "accumulated gradients are added up and not averaged",
        "{form}.1.gradient.h.{last}.ln_2.weight",
        "2 times the reference's: parts of the batch are added up",
        PartsNotAveraged,
        parts=True,
    ),
    "gradients-kept": TrainingFault(
        "gradients are not let go after a step",
        "{form}.2.gradient.h.{last}.ln_2.weight",
        "not let go (zero_grad)",
        GradientsKept,
    ),
    "clip-per-parameter": TrainingFault(
        "each gradient is clipped by its own norm, as in the official PyTorch port",
        "{form}.1.first_moment",
        "clipped one parameter at a time",
        ClippedEach,
    ),
    "clip-after-step": TrainingFault(
        "gradients are clipped when the step is made already",
        "{form}.1.first_moment",
        "after it, never",
        ClippedAfter,
    ),
    "norm-without-embedding": TrainingFault(
        "the norm leaves the token embedding out",
        "{form}.1.norm",
        "not of all gradients together",
        NormWithoutTable,
    ),
    "decay-in-gradient": TrainingFault(
        "weight decay is added to the gradient (L2)",
        "{form}.1.first_moment",
        "decay added to them",
        DecayInGradient,
    ),
    "decay-on-vectors": TrainingFault(
        "biases and gains decay too",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "weight decay on them",
        DecayOnVectors,
    ),
    "decay-missing": TrainingFault(
        "nothing decays",
        "{form}.{moving}.weight.h.{last}.mlp.c_proj.weight",
        "weight decay is missing",
        DecayMissing,
    ),
    "no-bias-correction": TrainingFault(
        "the moments are used as they are",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "bias correction missing",
        NoBiasCorrection,
    ),
    "correction-one-late": TrainingFault(
        "bias correction counts the steps before this one",
        "{form}.2.weight.h.{last}.ln_2.weight",
        "bias correction",
        CorrectionLate,
    ),
    "epsilon-inside-root": TrainingFault(
        "the root of v + epsilon for the root of v, plus epsilon",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "epsilon inside the root",
        EpsilonInsideRoot,
    ),
    "other-form": TrainingFault(
        "the release's form for AdamW's, and the other way round",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "bias correction",
        OtherForm,
    ),
    "schedule-off-by-one": TrainingFault(
        "the schedule counts steps from the other end of the step",
        "{form}.1.rate",
        "off by one",
        ScheduleOffByOne,
    ),
    "no-warmup": TrainingFault(
        "the schedule has no warm-up", "{form}.1.rate", "its warm-up", NoWarmup
    ),
    "beta1": TrainingFault("0.85 for beta1, 0.9", "{form}.1.first_moment", "another beta1", Beta1),
    "beta2": TrainingFault(
        "0.99 for beta2, 0.999", "{form}.1.second_moment", "another beta2", Beta2
    ),
    "moments-not-carried": TrainingFault(
        "every step begins with moments of zero",
        "{form}.2.first_moment",
        "not carried over",
        MomentsNotCarried,
    ),
    "tied-stepped-twice": TrainingFault(
        "the token embedding is stepped as an embedding and as a head",
        "{form}.{moving}.weight.tokens_embed.weight",
        "stepped twice",
        TiedSteppedTwice,
    ),
    "dropout-on-norm": TrainingFault(
        "dropout on ln_1's output and not before its residual sum",
        "{form}.1.loss",
        "a norm's output",
        plant=dropout_on_norm,
        dropout=True,
    ),
    "no-attention-dropout": TrainingFault(
        "no dropout on the attention weights of a block",
        "{form}.1.dropout",
        "no dropout at h.0.attn.weights",
        plant=no_attention_dropout,
        dropout=True,
    ),
    "no-embedding-dropout": TrainingFault(
        "no dropout on the embeddings",
        "{form}.1.dropout",
        "no dropout at embeddings",
        plant=no_embedding_dropout,
        dropout=True,
    ),
    "keep-probability": TrainingFault(
        "elements are kept with the probability of being dropped",
        "{form}.1.loss",
        "kept with the probability of being dropped",
        plant=keep_probability,
        dropout=True,
    ),
}
"""Every fault by name."""


def expected_at(name: str, n_layer: int, form: str) -> str:
    """Return the place that must be named first in a model of so many blocks."""
    moving = 2 - VARIANTS[form]
    return TRAINING_FAULTS[name].first.format(form=form, moving=moving, last=n_layer - 1)


def inject(model: GPT, name: str) -> GPT:
    """Return a model with the fault, a copy where the fault is the model's."""
    plant = TRAINING_FAULTS[name].plant
    if plant is None:
        return model
    faulty = copy.deepcopy(model)
    plant(faulty)
    return faulty
