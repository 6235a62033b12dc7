"""Our side of a training step, each part a method: what a fault is planted into.

Forward, loss, accumulation, clipping, schedule and optimizer are `scratch_gpt`'s own.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from parity.training.recipe import FORMS, Recipe
from scratch_gpt.clipping import clip_global_norm
from scratch_gpt.loss import next_token_loss
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule

Named = Iterable[tuple[str, nn.Parameter]]


class Procedure:
    """How our side trains. A fault overrides one method."""

    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """Return the loss of one part of a batch."""
        return next_token_loss(logits, token_ids)

    def share(self, loss: Tensor, parts: int) -> Tensor:
        """Return what a part's loss adds to the batch's."""
        return loss / parts

    def schedule(self, recipe: Recipe) -> Schedule:
        """Return the learning rates of a run."""
        return Schedule(
            steps=recipe.steps,
            peak=recipe.peak,
            warmup=recipe.warmup,
            counted_from=FORMS[recipe.form],
        )

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        """Return the optimizer of a run."""
        return Adam(
            named,
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            form=recipe.form,
        )

    def clip(self, parameters: Mapping[str, nn.Parameter], maximum: float) -> float:
        """Clip all gradients; return their norm before."""
        return clip_global_norm(parameters.items(), maximum)

    def advance(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Adam,
        maximum: float,
        rate: float,
    ) -> float:
        """Make one step of the gradients there are; return their norm."""
        norm = self.clip(parameters, maximum)
        optimizer.step(rate)
        self.let_go(optimizer)
        return norm

    def let_go(self, optimizer: Adam) -> None:
        """Let the gradients go once the step is made."""
        optimizer.zero_grad()
