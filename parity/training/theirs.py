"""Hugging Face's side of a run: one batch, no parts, and a step by another hand than ours.

The release's step is the NumPy oracle's, AdamW's is PyTorch's, in float64 and in the dtype judged:
were it our optimizer's there, what that rounds would be in the error which ours may have.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.training.draws import Draws
from parity.training.ours import tied
from parity.training.recipe import FORMS, Recipe
from reference import huggingface, huggingface_dropout, training_oracle


class Piece(NamedTuple):
    """Some rows of a parameter and of its moments."""

    parameter: nn.Parameter
    first: Tensor
    second: Tensor


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
        stepper = STEPPERS[recipe.form]
        self._moments = {
            which: {name: stepper.zeros(p) for name, p in self.parameters.items()}
            for which in ("first", "second")
        }
        self._steppers = {
            name: [stepper(piece, recipe) for piece in self._pieces(name)]
            for name in self.parameters
        }
        self.norm = 0.0

    def backward(self, step: int, draws: Draws) -> float:
        """Return the loss of a step's batch; its gradients stay with the parameters."""
        token_ids = self._recipe.batches[step]
        self.let_go()
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
            if parameter.grad is not None:
                rows = torch.split(parameter.grad, _rows(parameter))
                for stepper, gradient in zip(self._steppers[name], rows, strict=True):
                    stepper.step(gradient * scale, step, rate)
        return rate

    def moments(self, which: str) -> dict[str, Tensor]:
        """Return the `first` or `second` moments by parameter."""
        return self._moments[which]

    def let_go(self) -> None:
        """Let the gradients go."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _pieces(self, name: str) -> Iterator[Piece]:
        """Give a parameter and its moments some rows at a time; they share its storage."""
        whole = (self.parameters[name].detach(), *(m[name] for m in self._moments.values()))
        length = _rows(whole[0])
        for rows, first, second in zip(*(torch.split(t, length) for t in whole), strict=True):
            yield Piece(nn.Parameter(rows), first, second)

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return tied(self._model, self.parameters["tokens_embed.weight"])


def _rows(parameter: Tensor) -> int:
    """Return how many rows are stepped at once: a formula's temporaries are as large as they."""
    return max(1, _AT_ONCE // max(1, parameter[0].numel()))


_AT_ONCE = 1 << 22
"""Elements stepped at once."""


def _square(parameter: nn.Parameter) -> float:
    """Return the sum of squares of a gradient, in float64."""
    if parameter.grad is None:
        return math.nan
    return float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2


class Oracle:
    """Some rows of a parameter stepped by the NumPy oracle, in the release's form.

    It computes in the parameter's dtype; of a narrower one than float32, in float32.
    """

    def __init__(self, piece: Piece, recipe: Recipe) -> None:
        self._piece = piece
        self._constants = training_oracle.Constants(
            form="released",
            b1=recipe.betas[0],
            b2=recipe.betas[1],
            e=recipe.epsilon,
            l2=recipe.weight_decay,
        )

    def step(self, gradient: Tensor, number: int, rate: float) -> None:
        """Make the step that `number` others came before."""
        own = [tensor.detach() for tensor in self._piece]
        p, first, second, g = (_wide(tensor).numpy() for tensor in (*own, gradient))
        after = training_oracle.stepped(p, first, second, g, number, rate, self._constants)
        for tensor, made in zip(own, after, strict=True):
            tensor.copy_(torch.from_numpy(made))

    @staticmethod
    def zeros(parameter: Tensor) -> Tensor:
        """Return a moment before the first step."""
        return torch.zeros_like(_wide(parameter))


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in a dtype that NumPy has and the oracle computes in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class PyTorch:
    """Some rows of a parameter stepped by `torch.optim.AdamW`."""

    def __init__(self, piece: Piece, recipe: Recipe) -> None:
        self._parameter = piece.parameter
        self._optimizer = torch.optim.AdamW(
            [piece.parameter],
            betas=recipe.betas,
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay if piece.parameter.ndim > 1 else 0.0,
            foreach=False,
        )
        begun = {"step": torch.zeros(()), "exp_avg": piece.first, "exp_avg_sq": piece.second}
        self._optimizer.state[piece.parameter] = begun

    def step(self, gradient: Tensor, _number: int, rate: float) -> None:
        """Make the next step."""
        self._optimizer.param_groups[0]["lr"] = rate
        self._parameter.grad = gradient
        self._optimizer.step()
        self._parameter.grad = None

    @staticmethod
    def zeros(parameter: Tensor) -> Tensor:
        """Return a moment before the first step."""
        return torch.zeros_like(parameter)


STEPPERS: Mapping[str, type[Oracle] | type[PyTorch]] = {"released": Oracle, "adamw": PyTorch}
"""Whose step is held against ours, by form."""
