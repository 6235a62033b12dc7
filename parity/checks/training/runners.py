"""Hugging Face's side of a run: one batch, no parts, and a step by another hand than ours.

The release's step is the NumPy oracle's, AdamW's is PyTorch's, in float64 and in the dtype judged:
were it our optimizer's there, what that rounds would be in the error which ours may have.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.taps import parameter_names
from parity.core import inputs, runners
from reference import huggingface, training_oracle
from scratch_gpt import dropout as ours
from scratch_gpt.gradient_clipping import clip_global_norm
from scratch_gpt.loss import next_token_loss
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule

# What both sides are told of a training run; how each goes about it is its own affair.


VARIANTS = {"openai": 0, "adamw": 1}
"""The optimizer's forms, and what each run's schedule counts its first step as."""

CLIPPED = 3.0
"""What the first gradients' norm is of the largest allowed: clipping is at work in every run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run.

    Attributes:
        variant: Key of `FORMS`.
        batches: One `[parts * batch, time]` for each step, ids.
        parts: Micro-batches that our side cuts each of them into, and accumulates.
        dropout: Whether the models drop, both the same elements.
        seed: What those are drawn from.
        peak: Largest learning rate.
        weight_decay: Of matrices.
        betas: Of the moments.
        epsilon: What gradients are after clipping, in the root of their mean square: 2.1e-3 at full
            size, 3.2e-3 of the small weights. Of a gradient well above epsilon Adam makes a whole
            step, be it rounding; with a small one the verdict on float32 is luck. See
            `docs/training-parity.md`.
    """

    variant: str
    batches: tuple[Tensor, ...]
    parts: int = 2
    dropout: bool = False
    seed: int = 0
    peak: float = 2.5e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 3e-3

    @property
    def warmup(self) -> int:
        """Steps of warm-up."""
        return total_and_warmup(len(self.batches))[1]

    @property
    def steps(self) -> int:
        """Steps that the schedule is made for."""
        return total_and_warmup(len(self.batches))[0]


def total_and_warmup(steps: int) -> tuple[int, int]:
    """Return how long a schedule is of which so many steps are made, and its warm-up.

    The end, whose rate is 0, is not reached; the fall that follows the warm-up is seen.
    """
    return steps + 1, max(1, steps // 2)


def batches(  # noqa: PLR0913 - what the ids are
    *, steps: int, parts: int, batch: int, time: int, vocab_size: int, seed: int
) -> tuple[Tensor, ...]:
    """Return ids for every step, no two alike."""
    return tuple(
        inputs.seeded(
            batch=parts * batch, time=time, vocab_size=vocab_size, seed=seed + step
        ).token_ids
        for step in range(steps)
    )


# Our side of a training step, each part a method: what a fault is planted into.
#
# Forward, loss, accumulation, clipping, schedule and optimizer are `scratch_gpt`'s own.


Named = Iterable[tuple[str, nn.Parameter]]


class TrainingStep:
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
            counted_from=VARIANTS[recipe.variant],
        )

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        """Return the optimizer of a run."""
        return Adam(
            named,
            betas=recipe.betas,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            variant=recipe.variant,
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


# The same random numbers for every side's dropout, by step and place.


@dataclasses.dataclass(frozen=True)
class DropoutSite:
    """One place that drops: its name, and the shape of one row of what it drops from."""

    name: str
    shape: tuple[int, ...]


class DropoutMasks:
    """Uniform numbers of one step, for a batch or for one part of it after the other.

    Attributes:
        sites: Where Hugging Face's model dropped, in order; filled by its run.
    """

    def __init__(self, seed: int, step: int, rows: int) -> None:
        self._key = (seed, step)
        self._rows = rows
        self.sites: list[DropoutSite] = []

    def keeps(self, name: str, x: Tensor, probability: float) -> Tensor:
        """Return which elements Hugging Face's model keeps, and note the place."""
        site = DropoutSite(name, tuple(x.shape[1:]))
        if site not in self.sites:
            self.sites.append(site)
        return self._uniform(site, slice(0, len(x))) >= probability

    def _uniform(self, site: DropoutSite, rows: slice) -> Tensor:
        """Return float32 draws for some rows of the whole batch."""
        key = [*self._key, self.sites.index(site)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        drawn = generator.random((self._rows, *site.shape), dtype=np.float32)
        return torch.from_numpy(drawn[rows])

    @contextlib.contextmanager
    def given_to_ours(self, first: int) -> Iterator[list[str]]:
        """Let our dropout draw these numbers, for a part that begins at row `first`.

        What it does with them, from the threshold to the scale, is its own. A call that asks for
        another shape than the next place has is taken to be of a later one; more calls than places
        draw zeros. Gives the names of the places drawn at, in order.
        """
        asked: list[str] = []
        left = iter(self.sites)

        def rand_like(x: Tensor, *, dtype: torch.dtype) -> Tensor:
            site = next((s for s in left if s.shape == tuple(x.shape[1:])), None)
            asked.append(site.name if site is not None else "nowhere")
            if site is None:
                return torch.zeros(x.shape, dtype=dtype)
            return self._uniform(site, slice(first, first + len(x))).to(dtype)

        names = vars(ours)  # the module draws by torch's name, and by nothing else
        before = names["torch"]
        names["torch"] = SimpleNamespace(rand_like=rand_like, float32=torch.float32)
        try:
            yield asked
        finally:
            names["torch"] = before


# Our side of a run: parts of a batch accumulated, our optimizer, our model or a candidate.


GradientCallback = Callable[[str, Tensor], None]
"""Called with a parameter's name and its gradient, of all parts together."""


class CandidateRun:
    """One of our models in training; its parameters are changed.

    Attributes:
        parameters: Those that are compared, under our names.
        optimizer: What steps them.
        sites: Names of the places that dropped in the last step, in order.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, procedure: TrainingStep, layers: int
    ) -> None:
        self._model = model.train(recipe.dropout)
        self._recipe, self._procedure = recipe, procedure
        own = dict(model.named_parameters())
        self.parameters = {name: own[name] for name in parameter_names(layers) if name in own}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimizer = procedure.optimizer(self.parameters.items(), recipe)
        self._schedule = procedure.schedule(recipe)
        self.sites: list[str] = []

    def backward(self, step: int, draws: DropoutMasks, see: GradientCallback) -> float:
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
    def _dropping(self, draws: DropoutMasks, first: int) -> Iterator[None]:
        if not self._recipe.dropout:
            yield
            return
        with draws.given_to_ours(first) as self.sites:
            yield

    @contextlib.contextmanager
    def _shown(self, see: GradientCallback | None) -> Iterator[None]:
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


def _show(see: GradientCallback, name: str, parameter: Tensor) -> None:
    if parameter.grad is not None:
        see(name, parameter.grad)


def module_in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model to be trained, with storage of its own."""
    made = runners.model_in_dtype({"the model": model}, dtype)["the model"]
    return copy.deepcopy(model) if made is model else made


class Piece(NamedTuple):
    """Some rows of a parameter and of its moments."""

    parameter: nn.Parameter
    first: Tensor
    second: Tensor


class ReferenceRun:
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
        stepper = STEPPERS[recipe.variant]
        self._moments = {
            which: {name: stepper.zeros(p) for name, p in self.parameters.items()}
            for which in ("first", "second")
        }
        self._steppers = {
            name: [stepper(piece, recipe) for piece in self._pieces(name)]
            for name in self.parameters
        }
        self.norm = 0.0

    def backward(self, step: int, draws: DropoutMasks) -> float:
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
    def _dropping(self, draws: DropoutMasks) -> Iterator[None]:
        if not self._recipe.dropout:
            yield
            return
        with huggingface.supply_dropout_masks(self._model, draws.keeps):
            yield

    @torch.no_grad()
    def advance(self, step: int, maximum: float) -> float:
        """Make the step; return its learning rate. The gradients stay as they were."""
        recipe = self._recipe
        rate = training_oracle.learning_rate(
            step + VARIANTS[recipe.variant], recipe.steps, recipe.warmup, recipe.peak, "cosine"
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
    """Some rows of a parameter stepped by the NumPy oracle, in the release's variant.

    It computes in the parameter's dtype; of a narrower one than float32, in float32.
    """

    def __init__(self, piece: Piece, recipe: Recipe) -> None:
        self._piece = piece
        self._constants = training_oracle.Constants(
            variant="openai",
            b1=recipe.betas[0],
            b2=recipe.betas[1],
            e=recipe.epsilon,
            l2=recipe.weight_decay,
        )

    def step(self, gradient: Tensor, number: int, rate: float) -> None:
        """Make the step that `number` others came before."""
        own = [tensor.detach() for tensor in self._piece]
        p, first, second, g = (_wide(tensor).numpy() for tensor in (*own, gradient))
        after = training_oracle.step_all(p, first, second, g, number, rate, self._constants)
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


STEPPERS: Mapping[str, type[Oracle] | type[PyTorch]] = {"openai": Oracle, "adamw": PyTorch}
"""The reference optimizer of each variant."""
