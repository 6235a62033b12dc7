"""Faults of a training step: wrong procedures, or wrong dropout in the model.

Training loops really have them. Each replaces one method of our side's `TrainingStep`, or changes a
copy of the model.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from parity.checks.training.runners import Named, Recipe, TrainingStep
from parity.checks.training.taps import VARIANTS
from parity.faults.registry import Fault, faults_of
from scratch_gpt.dropout import dropout
from scratch_gpt.gradient_clipping import clip_global_norm
from scratch_gpt.loss import log_softmax
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import VARIANTS as FORMULAS
from scratch_gpt.optimizer import Adam, Rates
from scratch_gpt.schedule import Schedule
from scratch_gpt.transformer_block import TransformerBlock

Parameters = Mapping[str, nn.Parameter]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFault(Fault):
    """A fault of a training step; `code` is a `TrainingStep`, or a function that changes a model.

    In `at`, `{last}` is the last block, `{variant}` the optimizer's variant and `{moving}` the
    first step whose learning rate is not 0.

    Attributes:
        look_for: Words of the reason that the check must give.
        dropout: Whether it needs dropout to have an effect.
        parts: Whether it needs more than one micro-batch to have an effect.
    """

    look_for: str
    dropout: bool = False
    parts: bool = False

    @property
    def procedure(self) -> type[TrainingStep]:
        """The procedure that has the fault; the right one if the model has it."""
        return self.code if isinstance(self.code, type) else TrainingStep

    @property
    def change(self) -> Callable[[GPT], None] | None:
        """The function that changes a model; None if the procedure has the fault."""
        return None if isinstance(self.code, type) else self.code


def with_optimizer(change: Callable[[Adam, Recipe], None]) -> type[TrainingStep]:
    """Return a procedure whose optimizer is changed after it is made."""

    class Changed(TrainingStep):
        def optimizer(self, named: Named, recipe: Recipe) -> Adam:
            adam = super().optimizer(named, recipe)
            change(adam, recipe)
            return adam

    return Changed


# Dropout that is wrong in the model's first block, or at its embeddings.


@TrainingFault.register(
    "dropout-on-norm",
    "dropout on ln_1's output and not before its residual sum",
    at="{variant}.1.loss",
    look_for="a norm's output",
    dropout=True,
)
def _(model: GPT) -> None:
    block = cast("TransformerBlock", model.h[0])
    probability, block.resid_pdrop = block.resid_pdrop, 0.0
    for part in (block.ln_1, block.mlp):  # the MLP's output is what it should drop from
        part.register_forward_hook(lambda _module, _given, out: dropout(out, probability))


@TrainingFault.register(
    "no-attention-dropout",
    "no dropout on the attention weights of a block",
    at="{variant}.1.dropout",
    look_for="no dropout at h.0.attn.weights",
    dropout=True,
)
def _(model: GPT) -> None:
    cast("TransformerBlock", model.h[0]).attn.attn_pdrop = 0.0


@TrainingFault.register(
    "no-embedding-dropout",
    "no dropout on the embeddings",
    at="{variant}.1.dropout",
    look_for="no dropout at embeddings",
    dropout=True,
)
def _(model: GPT) -> None:
    model.config = dataclasses.replace(model.config, embd_pdrop=0.0)


@TrainingFault.register(
    "keep-probability",
    "elements are kept with the probability of being dropped",
    at="{variant}.1.loss",
    look_for="kept with the probability of being dropped",
    dropout=True,
)
def _(model: GPT) -> None:
    block = cast("TransformerBlock", model.h[0])
    block.resid_pdrop = 1.0 - block.resid_pdrop


@TrainingFault.register(
    "targets-not-shifted",
    "each position predicts its own token",
    at="{variant}.1.loss",
    look_for="targets not shifted",
)
class _TargetsNotShifted(TrainingStep):
    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        return -log_softmax(logits).gather(-1, token_ids[..., None]).mean()


@TrainingFault.register(
    "parts-not-averaged",
    "accumulated gradients are added up and not averaged",
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    look_for="2 times the reference's: parts of the batch are added up",
    parts=True,
)
class _PartsNotAveraged(TrainingStep):
    def share(self, loss: Tensor, parts: int) -> Tensor:  # noqa: ARG002
        return loss


@TrainingFault.register(
    "gradients-kept",
    "gradients are not set to zero after a step",
    at="{variant}.2.gradient.h.{last}.ln_2.weight",
    look_for="not cleared (zero_grad)",
)
class _GradientsKept(TrainingStep):
    def zero_grad(self, optimizer: Adam) -> None:
        pass


@TrainingFault.register(
    "clip-per-parameter",
    "each gradient is clipped by its own norm, as in the official PyTorch port",
    at="{variant}.1.first_moment",
    look_for="clipped one parameter at a time",
)
class _ClippedEach(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        norm = clip_global_norm(parameters.items(), float("inf"))
        for named in parameters.items():
            clip_global_norm([named], maximum)
        return norm


@TrainingFault.register(
    "clip-after-step",
    "gradients are clipped after the step",
    at="{variant}.1.first_moment",
    look_for="after it, never",
)
class _ClippedAfter(TrainingStep):
    def advance(
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        optimizer.step(rate)
        norm = self.clip(parameters, maximum)
        self.zero_grad(optimizer)
        return norm


@TrainingFault.register(
    "norm-without-embedding",
    "the norm leaves the token embedding out",
    at="{variant}.1.norm",
    look_for="not of all gradients together",
)
class _NormWithoutTable(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        others = [(name, p) for name, p in parameters.items() if name != "tokens_embed.weight"]
        return clip_global_norm(others, maximum)


@TrainingFault.register(
    "decay-in-gradient",
    "weight decay is added to the gradient (L2)",
    at="{variant}.1.first_moment",
    look_for="decay added to them",
)
class _DecayInGradient(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        norm = super().clip(parameters, maximum)
        for parameter in parameters.values():
            if parameter.grad is not None and parameter.ndim > 1:
                parameter.grad.add_(parameter.detach(), alpha=0.01)
        return norm


@TrainingFault.register(
    "decay-on-vectors",
    "biases and gains decay too",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    look_for="weight decay on them",
)
@with_optimizer
def _(adam: Adam, _recipe: Recipe) -> None:
    adam.decay_vectors = True


@TrainingFault.register(
    "decay-missing",
    "nothing decays",
    at="{variant}.{moving}.weight.h.{last}.mlp.c_proj.weight",
    look_for="weight decay is missing",
)
@with_optimizer
def _(adam: Adam, _recipe: Recipe) -> None:
    adam.weight_decay = 0.0


def optimizer_of(kind: type[Adam]) -> type[TrainingStep]:
    """Return a procedure whose optimizer is of another class."""

    class Changed(TrainingStep):
        def optimizer(self, named: Named, recipe: Recipe) -> Adam:
            return kind(
                named,
                betas=recipe.betas,
                epsilon=recipe.epsilon,
                weight_decay=recipe.weight_decay,
                variant=recipe.variant,
            )

    return Changed


@TrainingFault.register(
    "no-bias-correction",
    "the moments are used as they are",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    look_for="bias correction missing",
)
@optimizer_of
class _Uncorrected(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        return FORMULAS[self.variant](learning_rate, 1.0, 1.0, self.weight_decay)


@TrainingFault.register(
    "correction-one-late",
    "bias correction counts the steps before this one",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
)
@optimizer_of
class _CorrectedLate(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        bias_1, bias_2 = (1.0 - beta ** max(1, self.steps) for beta in self.betas)
        return FORMULAS[self.variant](learning_rate, bias_1, bias_2, self.weight_decay)


@TrainingFault.register(
    "epsilon-inside-root",
    "the root of v + epsilon for the root of v, plus epsilon",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    look_for="epsilon inside the root",
)
@optimizer_of
class _EpsilonInside(Adam):
    def _update_run(  # noqa: PLR0913 - as the right one's
        self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        outside, before = self.epsilon, p.clone()
        super()._update_run(p, g, first, second, scratch, rates)
        root = torch.sqrt(second / rates.root**2 + outside)
        p.copy_(before * rates.kept - rates.rate * first / root)


@TrainingFault.register(
    "other-variant",
    "the release's variant for AdamW's, and the other way round",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
)
@with_optimizer
def _(adam: Adam, recipe: Recipe) -> None:
    adam.variant = next(variant for variant in VARIANTS if variant != recipe.variant)


@TrainingFault.register(
    "schedule-off-by-one",
    "the schedule counts steps from 1 for 0, or from 0 for 1",
    at="{variant}.1.rate",
    look_for="off by one",
)
class _ScheduleOffByOne(TrainingStep):
    def schedule(self, recipe: Recipe) -> Schedule:
        return Schedule(
            steps=recipe.steps,
            peak=recipe.peak,
            warmup=recipe.warmup,
            counted_from=1 - VARIANTS[recipe.variant],
        )


@TrainingFault.register(
    "no-warmup", "the schedule has no warm-up", at="{variant}.1.rate", look_for="its warm-up"
)
class _NoWarmup(TrainingStep):
    def schedule(self, recipe: Recipe) -> Schedule:
        start = VARIANTS[recipe.variant]
        return Schedule(steps=recipe.steps, peak=recipe.peak, warmup=0, counted_from=start)


@TrainingFault.register(
    "beta1", "0.85 for beta1, 0.9", at="{variant}.1.first_moment", look_for="another beta1"
)
@with_optimizer
def _(adam: Adam, recipe: Recipe) -> None:
    adam.betas = (0.85, recipe.betas[1])


@TrainingFault.register(
    "beta2", "0.99 for beta2, 0.999", at="{variant}.1.second_moment", look_for="another beta2"
)
@with_optimizer
def _(adam: Adam, recipe: Recipe) -> None:
    adam.betas = (recipe.betas[0], 0.99)


@TrainingFault.register(
    "moments-not-carried",
    "every step begins with moments of zero",
    at="{variant}.2.first_moment",
    look_for="not carried over",
)
class _MomentsNotCarried(TrainingStep):
    def advance(
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        for moment in optimizer.state_dict().values():
            if isinstance(moment, Tensor):
                moment.fill_(0.0)
        return super().advance(parameters, optimizer, maximum, rate)


@TrainingFault.register(
    "tied-stepped-twice",
    "the token embedding is stepped as an embedding and as a head",
    at="{variant}.{moving}.weight.tokens_embed.weight",
    look_for="stepped twice",
)
class _TiedSteppedTwice(TrainingStep):
    def advance(
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        table = parameters["tokens_embed.weight"].detach()
        before = table.clone()
        norm = super().advance(parameters, optimizer, maximum, rate)
        table.add_(table - before)
        return norm


TRAINING_FAULTS = faults_of(TrainingFault)
"""Every fault of a training step by name."""


def inject(model: GPT, name: str) -> GPT:
    """Return a model with the fault: a copy, or the model itself where the procedure has it."""
    change = TRAINING_FAULTS[name].change
    if change is None:
        return model
    faulty = copy.deepcopy(model)
    change(faulty)
    return faulty
