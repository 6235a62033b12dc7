"""Hugging Face's side of a run: one batch, no parts, and a step by another hand than ours.

In float64 the release's step is the NumPy oracle's; AdamW's is PyTorch's. In the dtype judged the
release's form, of which no library has another, is our optimizer's.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.training.draws import Draws
from parity.training.ours import tied
from parity.training.recipe import FORMS, Recipe
from reference import huggingface, huggingface_dropout, training_oracle
from scratch_gpt.optimizer import Adam


class TheirRun:
    """Hugging Face's model in training; its parameters are changed.

    Attributes:
        parameters: All of them, under our names.
        norm: Of the last step's gradients, before they were clipped.
    """

    def __init__(
        self, model: OpenAIGPTLMHeadModel, recipe: Recipe, names: Mapping[str, str]
    ) -> None:
        self._model = model.train(recipe.dropout)
        self._recipe = recipe
        own = dict(model.named_parameters())
        self.parameters = {ours: own[theirs] for ours, theirs in names.items()}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        exact = next(iter(own.values())).dtype == torch.float64
        kinds = {"released": Oracle if exact else Ours, "adamw": PyTorch}
        self._steppers = {
            name: kinds[recipe.form](p, recipe) for name, p in self.parameters.items()
        }
        self.norm = 0.0

    def backward(self, step: int, draws: Draws) -> float:
        """Return the loss of a step's batch; its gradients stay with the parameters."""
        token_ids = self._recipe.batches[step]
        for parameter in self.parameters.values():
            parameter.grad = None
        with self._dropping(draws):
            logits = huggingface.logits(self._model, token_ids)
            loss = huggingface.loss(logits, token_ids).mean()
            loss.backward()  # type: ignore[no-untyped-call]
        self.norm = math.sqrt(math.fsum(_square(p) for p in self.parameters.values()))
        return float(loss.detach())

    @contextlib.contextmanager
    def _dropping(self, draws: Draws) -> Iterator[None]:
        if not self._recipe.dropout:
            yield
            return
        with huggingface_dropout.given(self._model, draws.keeps):
            yield

    @torch.no_grad()
    def advance(self, step: int, maximum: float) -> float:
        """Make the step; return its learning rate. The gradients stay as they were."""
        recipe = self._recipe
        rate = training_oracle.learning_rate(
            step + FORMS[recipe.form], recipe.steps, recipe.warmup, recipe.peak, "cosine"
        )
        scale = maximum / max(self.norm, maximum)
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            parameter.grad = None if gradient is None else gradient * scale
            self._steppers[name].step(step, rate)
            parameter.grad = gradient
        return rate

    def moments(self, which: str) -> dict[str, Tensor]:
        """Return the `first` or `second` moments by parameter."""
        return {name: stepper.moments()[which] for name, stepper in self._steppers.items()}

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return tied(self._model, self.parameters["tokens_embed.weight"])


def _square(parameter: nn.Parameter) -> float:
    """Return the sum of squares of a gradient, in float64."""
    if parameter.grad is None:
        return math.nan
    return float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2


class Oracle:
    """One parameter stepped by the NumPy oracle, in the release's form."""

    def __init__(self, parameter: nn.Parameter, recipe: Recipe) -> None:
        self._parameter = parameter
        self._constants = training_oracle.Constants(
            form="released",
            b1=recipe.betas[0],
            b2=recipe.betas[1],
            e=recipe.epsilon,
            l2=recipe.weight_decay,
        )
        self._first = torch.zeros_like(parameter).numpy()
        self._second = torch.zeros_like(parameter).numpy()

    def step(self, number: int, rate: float) -> None:
        """Make the step that `number` others came before."""
        p, g = self._parameter.detach(), self._parameter.grad
        if g is None:
            return
        after, self._first, self._second = training_oracle.stepped(
            p.numpy(), self._first, self._second, g.numpy(), number, rate, self._constants
        )
        p.copy_(torch.from_numpy(after))

    def moments(self) -> dict[str, Tensor]:
        """Return both moments."""
        return {
            "first": torch.from_numpy(self._first),
            "second": torch.from_numpy(self._second),
        }


class PyTorch:
    """One parameter stepped by `torch.optim.AdamW`."""

    def __init__(self, parameter: nn.Parameter, recipe: Recipe) -> None:
        self._parameter = parameter
        self._optimizer = torch.optim.AdamW(
            [parameter],
            betas=recipe.betas,
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay if parameter.ndim > 1 else 0.0,
            foreach=False,
        )

    def step(self, _number: int, rate: float) -> None:
        """Make the next step."""
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()

    def moments(self) -> dict[str, Tensor]:
        """Return both moments."""
        state = self._optimizer.state[self._parameter]
        return {"first": state["exp_avg"], "second": state["exp_avg_sq"]}


class Ours:
    """One parameter stepped by our optimizer: its rounding is in both runs then."""

    def __init__(self, parameter: nn.Parameter, recipe: Recipe) -> None:
        self._optimizer = Adam(
            [("parameter", parameter)],
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )

    def step(self, _number: int, rate: float) -> None:
        """Make the next step."""
        self._optimizer.step(rate)

    def moments(self) -> dict[str, Tensor]:
        """Return both moments."""
        state = self._optimizer.state_dict()
        both = {which: state[f"{which}_moment.parameter"] for which in ("first", "second")}
        return {which: tensor for which, tensor in both.items() if isinstance(tensor, Tensor)}
