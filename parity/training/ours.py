"""Our side of a run: parts of a batch accumulated, our optimizer, our model or a candidate."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from parity import subjects
from parity.gradients.places import parameters as parameter_names
from parity.training.draws import Draws
from parity.training.procedure import Procedure
from parity.training.recipe import Recipe

See = Callable[[str, Tensor], None]
"""Called with a parameter's name and its gradient, of all parts together."""


class OurRun:
    """One of our models in training; its parameters are changed.

    Attributes:
        parameters: Those that are compared, under our names.
        optimizer: What steps them.
        sites: Names of the places that dropped in the last step, in order.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, procedure: Procedure, layers: int) -> None:
        self._model = model.train(recipe.dropout)
        self._recipe, self._procedure = recipe, procedure
        own = dict(model.named_parameters())
        self.parameters = {name: own[name] for name in parameter_names(layers) if name in own}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = procedure.optimizer(self.parameters.items(), recipe)
        self._schedule = procedure.schedule(recipe)
        self.sites: list[str] = []

    def backward(self, step: int, draws: Draws, see: See) -> float:
        """Return the loss of a step's batch, its gradients made part by part and shown at last."""
        parts = self._recipe.batches[step].chunk(self._recipe.parts)
        total, first, self.sites = 0.0, 0, []
        for number, token_ids in enumerate(parts, 1):
            last = number == len(parts)
            with self._dropping(draws, first), self._shown(see if last else None):
                loss = self._procedure.loss(self._logits(token_ids), token_ids)
                share = self._procedure.share(loss, len(parts))
                share.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / len(parts)
            first += len(token_ids)
        return total

    def _logits(self, token_ids: Tensor) -> Tensor:
        """Return what the model makes of one part."""
        logits: Tensor = self._model(token_ids, None, None, tap=None)
        return logits

    @contextlib.contextmanager
    def _dropping(self, draws: Draws, first: int) -> Iterator[None]:
        if not self._recipe.dropout:
            yield
            return
        with draws.given_to_ours(first) as self.sites:
            yield

    @contextlib.contextmanager
    def _shown(self, see: See | None) -> Iterator[None]:
        """Show each parameter's gradient as soon as a backward pass has completed it."""
        handles = []
        if see is not None:
            for name, parameter in self.parameters.items():
                hook = partial(_show, see, name)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def advance(self, step: int, maximum: float) -> tuple[float, float]:
        """Make the step; return the norm of its gradients and the learning rate."""
        rate = self._schedule.learning_rate(step)
        norm = self._procedure.advance(self.parameters, self.optimizer, maximum, rate)
        return norm, rate

    def moments(self, which: str) -> dict[str, Tensor]:
        """Return the optimizer's `first` or `second` moments by parameter."""
        prefix = f"{which}_moment."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.optimizer.state_dict().items()
            if name.startswith(prefix) and isinstance(tensor, Tensor)
        }

    @property
    def tied(self) -> bool:
        """Whether every table of tokens that the model has is still the embedding."""
        table = self.parameters["tokens_embed.weight"]
        return tied(self._model, table)


def tied(model: nn.Module, table: Tensor) -> bool:
    """Return whether all tensors of a model that have a table's shape are that table."""
    alike = [t for t in model.state_dict().values() if t.shape == table.shape]
    return bool(alike) and {t.data_ptr() for t in alike} == {table.data_ptr()}


def _show(see: See, name: str, parameter: Tensor) -> None:
    if parameter.grad is not None:
        see(name, parameter.grad)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model to be trained, whose storage nobody else holds."""
    made = subjects.in_dtype({"the model": model}, dtype)["the model"]
    return copy.deepcopy(model) if made is model else made
