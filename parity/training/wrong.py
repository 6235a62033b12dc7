"""Wrong procedures of a training step, each right but for one thing."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from parity.training.procedure import Named, Procedure
from parity.training.recipe import FORMS, Recipe
from scratch_gpt.adam_forms import FORMS as FORMULAS
from scratch_gpt.adam_forms import Rates
from scratch_gpt.clipping import clip_global_norm
from scratch_gpt.loss import log_softmax
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule

Parameters = Mapping[str, nn.Parameter]


class TargetsNotShifted(Procedure):
    """Each position predicts its own token."""

    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:  # noqa: D102
        return -log_softmax(logits).gather(-1, token_ids[..., None]).mean()


class PartsNotAveraged(Procedure):
    """Parts are added up."""

    def share(self, loss: Tensor, parts: int) -> Tensor:  # noqa: ARG002, D102
        return loss


class GradientsKept(Procedure):
    """Gradients stay."""

    def let_go(self, optimizer: Adam) -> None:
        """Let nothing go."""


class ClippedEach(Procedure):
    """Each gradient by its own norm."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        norm = clip_global_norm(parameters.items(), float("inf"))
        for named in parameters.items():
            clip_global_norm([named], maximum)
        return norm


class ClippedAfter(Procedure):
    """Clipping comes after the step."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        optimizer.step(rate)
        norm = self.clip(parameters, maximum)
        self.let_go(optimizer)
        return norm


class NormWithoutTable(Procedure):
    """The norm is of all but the token embedding."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        others = [(name, p) for name, p in parameters.items() if name != "tokens_embed.weight"]
        return clip_global_norm(others, maximum)


class DecayInGradient(Procedure):
    """Weight decay is part of the gradient."""

    def clip(self, parameters: Parameters, maximum: float) -> float:  # noqa: D102
        norm = super().clip(parameters, maximum)
        for parameter in parameters.values():
            if parameter.grad is not None and parameter.ndim > 1:
                parameter.grad.add_(parameter.detach(), alpha=0.01)
        return norm


class DecayOnVectors(Procedure):
    """Vectors decay."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.decay_vectors = True
        return made


class DecayMissing(Procedure):
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


class _By(Procedure):
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


class OtherForm(Procedure):
    """The other form."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.form = next(form for form in FORMS if form != recipe.form)
        return made


class ScheduleOffByOne(Procedure):
    """Steps are counted from the other number."""

    def schedule(self, recipe: Recipe) -> Schedule:  # noqa: D102
        return Schedule(
            steps=recipe.steps,
            peak=recipe.peak,
            warmup=recipe.warmup,
            counted_from=1 - FORMS[recipe.form],
        )


class NoWarmup(Procedure):
    """The first rate is the largest."""

    def schedule(self, recipe: Recipe) -> Schedule:  # noqa: D102
        start = FORMS[recipe.form]
        return Schedule(steps=recipe.steps, peak=recipe.peak, warmup=0, counted_from=start)


class Beta1(Procedure):
    """Another first decay rate."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.betas = (0.85, recipe.betas[1])
        return made


class Beta2(Procedure):
    """Another second decay rate."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:  # noqa: D102
        made = super().optimizer(named, recipe)
        made.betas = (recipe.betas[0], 0.99)
        return made


class MomentsNotCarried(Procedure):
    """Every step begins with moments of zero."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        for moment in optimizer.state_dict().values():
            if isinstance(moment, Tensor):
                moment.fill_(0.0)
        return super().advance(parameters, optimizer, maximum, rate)


class TiedSteppedTwice(Procedure):
    """The token embedding goes twice as far."""

    def advance(  # noqa: D102
        self, parameters: Parameters, optimizer: Adam, maximum: float, rate: float
    ) -> float:
        table = parameters["tokens_embed.weight"].detach()
        before = table.clone()
        norm = super().advance(parameters, optimizer, maximum, rate)
        table.add_(table - before)
        return norm
