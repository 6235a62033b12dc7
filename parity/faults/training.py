"""Faults of a training step: wrong procedures, or wrong dropout in the model.

Training loops really have them. Each is right but for one thing, and replaces one method of our
side's `TrainingStep`, or changes a copy of the model.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from parity.checks.training.runners import VARIANTS, Named, Recipe, TrainingStep
from parity.faults.registry import Fault, fault, faults_of
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
        """The procedure that has the fault; the right one where the model has it."""
        return self.code if isinstance(self.code, type) else TrainingStep

    @property
    def change(self) -> Callable[[GPT], None] | None:
        """The function that changes a model; None where the procedure has the fault."""
        return None if isinstance(self.code, type) else self.code

    def first_seen(self, block: int, backend: str, *, n_layer: int, variant: str) -> str:  # noqa: ARG002
        """Return the first row that differs in a model of `n_layer` blocks."""
        return self.at.format(variant=variant, moving=2 - VARIANTS[variant], last=n_layer - 1)


# Dropout that is wrong in the model's first block, or at its embeddings.


@fault(
    "dropout-on-norm",
    "dropout on ln_1's output and not before its residual sum",
    at="{variant}.1.loss",
    cause="dropout after the norm, not before the residual sum",
    kind=TrainingFault,
    look_for="a norm's output",
    dropout=True,
)
def _(model: GPT) -> None:
    block = cast("TransformerBlock", model.h[0])
    probability, block.resid_pdrop = block.resid_pdrop, 0.0
    for part in (block.ln_1, block.mlp):  # the MLP's output is what it should drop from
        part.register_forward_hook(lambda _module, _given, out: dropout(out, probability))


@fault(
    "no-attention-dropout",
    "no dropout on the attention weights of a block",
    at="{variant}.1.dropout",
    cause="attn_pdrop not used in the attention layer",
    kind=TrainingFault,
    look_for="no dropout at h.0.attn.weights",
    dropout=True,
)
def _(model: GPT) -> None:
    cast("TransformerBlock", model.h[0]).attn.attn_pdrop = 0.0


@fault(
    "no-embedding-dropout",
    "no dropout on the embeddings",
    at="{variant}.1.dropout",
    cause="embd_pdrop not used after the embeddings",
    kind=TrainingFault,
    look_for="no dropout at embeddings",
    dropout=True,
)
def _(model: GPT) -> None:
    model.config = dataclasses.replace(model.config, embd_pdrop=0.0)


@fault(
    "keep-probability",
    "elements are kept with the probability of being dropped",
    at="{variant}.1.loss",
    cause="keep_prob taken for the probability of dropping",
    kind=TrainingFault,
    look_for="kept with the probability of being dropped",
    dropout=True,
)
def _(model: GPT) -> None:
    block = cast("TransformerBlock", model.h[0])
    block.resid_pdrop = 1.0 - block.resid_pdrop


@fault(
    "targets-not-shifted",
    "each position predicts its own token",
    at="{variant}.1.loss",
    cause="the loss of logits[:, t] against ids[:, t], not ids[:, t + 1]",
    kind=TrainingFault,
    look_for="targets not shifted",
)
class _TargetsNotShifted(TrainingStep):
    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        return -log_softmax(logits).gather(-1, token_ids[..., None]).mean()


@fault(
    "parts-not-averaged",
    "accumulated gradients are added up and not averaged",
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    cause="loss.backward() without dividing by the number of micro-batches",
    kind=TrainingFault,
    look_for="2 times the reference's: parts of the batch are added up",
    parts=True,
)
class _PartsNotAveraged(TrainingStep):
    def share(self, loss: Tensor, parts: int) -> Tensor:  # noqa: ARG002
        return loss


@fault(
    "gradients-kept",
    "gradients are not set to zero after a step",
    at="{variant}.2.gradient.h.{last}.ln_2.weight",
    cause="zero_grad() missing",
    kind=TrainingFault,
    look_for="not cleared (zero_grad)",
)
class _GradientsKept(TrainingStep):
    def zero_grad(self, optimizer: Adam) -> None:
        pass


@fault(
    "clip-per-parameter",
    "each gradient is clipped by its own norm, as in the official PyTorch port",
    at="{variant}.1.first_moment",
    cause="clip_grad_norm_ called once per parameter, as in the official PyTorch port",
    kind=TrainingFault,
    look_for="clipped one parameter at a time",
)
class _ClippedEach(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        norm = clip_global_norm(parameters.items(), float("inf"))
        for named in parameters.items():
            clip_global_norm([named], maximum)
        return norm


@fault(
    "clip-after-step",
    "gradients are clipped after the step",
    at="{variant}.1.first_moment",
    cause="clip_grad_norm_ called after optimizer.step()",
    kind=TrainingFault,
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


@fault(
    "norm-without-embedding",
    "the norm leaves the token embedding out",
    at="{variant}.1.norm",
    cause="the tied embedding left out of the parameters that are clipped",
    kind=TrainingFault,
    look_for="not of all gradients together",
)
class _NormWithoutTable(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        others = [(name, p) for name, p in parameters.items() if name != "tokens_embed.weight"]
        return clip_global_norm(others, maximum)


@fault(
    "decay-in-gradient",
    "weight decay is added to the gradient (L2)",
    at="{variant}.1.first_moment",
    cause="Adam(weight_decay=...) for AdamW",
    kind=TrainingFault,
    look_for="decay added to them",
)
class _DecayInGradient(TrainingStep):
    def clip(self, parameters: Parameters, maximum: float) -> float:
        norm = super().clip(parameters, maximum)
        for parameter in parameters.values():
            if parameter.grad is not None and parameter.ndim > 1:
                parameter.grad.add_(parameter.detach(), alpha=0.01)
        return norm


@fault(
    "decay-on-vectors",
    "biases and gains decay too",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    cause="one parameter group for all tensors",
    kind=TrainingFault,
    look_for="weight decay on them",
)
class _DecayOnVectors(TrainingStep):
    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        made = super().optimizer(named, recipe)
        made.decay_vectors = True
        return made


@fault(
    "decay-missing",
    "nothing decays",
    at="{variant}.{moving}.weight.h.{last}.mlp.c_proj.weight",
    cause="weight_decay=0, or the default of Adam",
    kind=TrainingFault,
    look_for="weight decay is missing",
)
class _DecayMissing(TrainingStep):
    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        made = super().optimizer(named, recipe)
        made.weight_decay = 0.0
        return made


class _Uncorrected(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        return FORMULAS[self.variant](learning_rate, 1.0, 1.0, self.weight_decay)


class _CorrectedLate(Adam):
    def _rates(self, learning_rate: float) -> Rates:
        bias_1, bias_2 = (1.0 - beta ** max(1, self.steps) for beta in self.betas)
        return FORMULAS[self.variant](learning_rate, bias_1, bias_2, self.weight_decay)


class _EpsilonInside(Adam):
    def _update_run(  # noqa: PLR0913 - as the right one's
        self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        outside, before = self.epsilon, p.clone()
        super()._update_run(p, g, first, second, scratch, rates)
        root = torch.sqrt(second / rates.root**2 + outside)
        p.copy_(before * rates.kept - rates.rate * first / root)


class _WithOptimizer(TrainingStep):
    """A procedure whose optimizer is of another class."""

    kind: type[Adam] = Adam

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        return self.kind(
            named,
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            variant=recipe.variant,
        )


@fault(
    "no-bias-correction",
    "the moments are used as they are",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    cause="the first moment used without dividing by 1 - beta1 ** t",
    kind=TrainingFault,
    look_for="bias correction missing",
)
class _NoBiasCorrection(_WithOptimizer):
    kind = _Uncorrected


@fault(
    "correction-one-late",
    "bias correction counts the steps before this one",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    cause="the step counter increased after the update",
    kind=TrainingFault,
    look_for="bias correction",
)
class _CorrectionLate(_WithOptimizer):
    kind = _CorrectedLate


@fault(
    "epsilon-inside-root",
    "the root of v + epsilon for the root of v, plus epsilon",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    cause="sqrt(v + eps) for sqrt(v) + eps",
    kind=TrainingFault,
    look_for="epsilon inside the root",
)
class _EpsilonInsideRoot(_WithOptimizer):
    kind = _EpsilonInside


@fault(
    "other-variant",
    "the release's variant for AdamW's, and the other way round",
    at="{variant}.{moving}.weight.h.{last}.ln_2.weight",
    cause="the 2018 release's formula in place of torch.optim.AdamW's, or the reverse",
    kind=TrainingFault,
    look_for="bias correction",
)
class _OtherForm(TrainingStep):
    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        made = super().optimizer(named, recipe)
        made.variant = next(variant for variant in VARIANTS if variant != recipe.variant)
        return made


@fault(
    "schedule-off-by-one",
    "the schedule counts steps from 1 for 0, or from 0 for 1",
    at="{variant}.1.rate",
    cause="scheduler.step() called before, or after, the optimizer's step",
    kind=TrainingFault,
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


@fault(
    "no-warmup",
    "the schedule has no warm-up",
    at="{variant}.1.rate",
    cause="warm-up left out of the schedule",
    kind=TrainingFault,
    look_for="its warm-up",
)
class _NoWarmup(TrainingStep):
    def schedule(self, recipe: Recipe) -> Schedule:
        start = VARIANTS[recipe.variant]
        return Schedule(steps=recipe.steps, peak=recipe.peak, warmup=0, counted_from=start)


@fault(
    "beta1",
    "0.85 for beta1, 0.9",
    at="{variant}.1.first_moment",
    cause="a beta1 that is not the recipe's",
    kind=TrainingFault,
    look_for="another beta1",
)
class _Beta1(TrainingStep):
    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        made = super().optimizer(named, recipe)
        made.betas = (0.85, recipe.betas[1])
        return made


@fault(
    "beta2",
    "0.99 for beta2, 0.999",
    at="{variant}.1.second_moment",
    cause="a beta2 that is not the recipe's",
    kind=TrainingFault,
    look_for="another beta2",
)
class _Beta2(TrainingStep):
    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        made = super().optimizer(named, recipe)
        made.betas = (recipe.betas[0], 0.99)
        return made


@fault(
    "moments-not-carried",
    "every step begins with moments of zero",
    at="{variant}.2.first_moment",
    cause="a new optimizer at every step",
    kind=TrainingFault,
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


@fault(
    "tied-stepped-twice",
    "the token embedding is stepped as an embedding and as a head",
    at="{variant}.{moving}.weight.tokens_embed.weight",
    cause="the tied tensor listed twice in the optimizer's parameters",
    kind=TrainingFault,
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
