"""Both sides of a training run: ours in micro-batches, Hugging Face's in whole batches.

Hugging Face's side never uses our optimizer: the released variant's steps are the NumPy oracle's,
AdamW's are PyTorch's. With our optimizer, its rounding would enlarge the reference error and so
excuse itself.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.backward import GradientCallback
from parity.checks.gradients.taps import parameter_names
from parity.checks.training.taps import VARIANTS
from parity.core import inputs, runners
from reference import huggingface, training_oracle
from scratch_gpt import dropout as ours
from scratch_gpt.gradient_clipping import clip_global_norm
from scratch_gpt.loss import next_token_loss
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule

CLIPPED = 3.0
"""The first gradients' norm over the largest allowed one, so that every run clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one run, the same on both sides.

    Attributes:
        variant: Key of `VARIANTS`.
        batches: Ids `[parts * batch, time]` of each step.
        parts: The number of micro-batches of our side.
        seed: Seed of the dropout masks, which are the same on both sides.
        peak: Largest learning rate.
        epsilon: Equal to the root mean square of the clipped gradients: 2.1e-3 at full size, 3.2e-3
            for the small weights. Adam makes a whole step for any gradient well above epsilon, even
            for rounding: with a small epsilon the float32 verdict would be chance. See
            `docs/training-check.md`.
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
        """Warm-up steps of the schedule."""
        return total_and_warmup(len(self.batches))[1]

    @property
    def steps(self) -> int:
        """All steps of the schedule."""
        return total_and_warmup(len(self.batches))[0]


def total_and_warmup(steps: int) -> tuple[int, int]:
    """Return the length of the schedule for a run of so many steps, and its warm-up.

    The run includes the fall after the warm-up, but not the last step, whose rate is 0.
    """
    return steps + 1, max(1, steps // 2)


def batches(  # noqa: PLR0913 - the shape and the seed of the ids
    *, steps: int, parts: int, batch: int, time: int, vocab_size: int, seed: int
) -> tuple[Tensor, ...]:
    """Return different ids for every step."""
    return tuple(
        inputs.seeded(
            batch=parts * batch, time=time, vocab_size=vocab_size, seed=seed + step
        ).token_ids
        for step in range(steps)
    )


Named = Iterable[tuple[str, nn.Parameter]]


class TrainingStep:
    """How our side trains, by the functions of `scratch_gpt`. A fault overrides one method."""

    def loss(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """Return the loss of one micro-batch."""
        return next_token_loss(logits, token_ids)

    def share(self, loss: Tensor, parts: int) -> Tensor:
        """Return the contribution of a micro-batch's loss to the batch's."""
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
        """Clip all gradients; return their norm before clipping."""
        return clip_global_norm(parameters.items(), maximum)

    def advance(
        self, parameters: Mapping[str, nn.Parameter], optimizer: Adam, maximum: float, rate: float
    ) -> float:
        """Make one step with the present gradients; return their norm before clipping."""
        norm = self.clip(parameters, maximum)
        optimizer.step(rate)
        self.zero_grad(optimizer)
        return norm

    def zero_grad(self, optimizer: Adam) -> None:
        """Discard the gradients after a step."""
        optimizer.zero_grad()


class DropoutSite(NamedTuple):
    """One application of dropout: its name, and the shape of one row of its input."""

    name: str
    shape: tuple[int, ...]


class DropoutMasks:
    """The random numbers of one step, the same for a batch and for its micro-batches.

    Attributes:
        sites: The dropout sites of Hugging Face's model, in order; its run adds them.
    """

    def __init__(self, seed: int, step: int, rows: int) -> None:
        self._key = (seed, step)
        self._rows = rows
        self.sites: list[DropoutSite] = []

    def keeps(self, name: str, x: Tensor, probability: float) -> Tensor:
        """Return the elements that Hugging Face's model keeps, and add the site."""
        site = DropoutSite(name, tuple(x.shape[1:]))
        if site not in self.sites:
            self.sites.append(site)
        return self._uniform(site, slice(0, len(x))) >= probability

    def _uniform(self, site: DropoutSite, rows: slice) -> Tensor:
        key = [*self._key, self.sites.index(site)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        drawn = generator.random((self._rows, *site.shape), dtype=np.float32)
        return torch.from_numpy(drawn[rows])

    @contextlib.contextmanager
    def supplied_to_ours(self, first: int) -> Iterator[list[str]]:
        """Supply these numbers to our dropout, for a micro-batch that begins at row `first`.

        Threshold and scale remain our own. A call with another shape than the next site's is
        assigned to a later site. Calls after the last site get zeros. Yields the names of the
        sites, in order of the calls.
        """
        asked: list[str] = []
        left = iter(self.sites)

        def rand_like(x: Tensor, *, dtype: torch.dtype) -> Tensor:
            site = next((s for s in left if s.shape == tuple(x.shape[1:])), None)
            asked.append(site.name if site is not None else "nowhere")
            if site is None:
                return torch.zeros(x.shape, dtype=dtype)
            return self._uniform(site, slice(first, first + len(x))).to(dtype)

        names = vars(ours)  # our dropout draws only through its module's name `torch`
        before = names["torch"]
        names["torch"] = SimpleNamespace(rand_like=rand_like, float32=torch.float32)
        try:
            yield asked
        finally:
            names["torch"] = before


class CandidateRun:
    """Our model or a candidate in training; its parameters are changed.

    Attributes:
        parameters: Those that are compared, under our names.
        sites: Names of the dropout sites in the last step, in order.
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
        """Return the loss of a step's batch; call `see` with each accumulated gradient."""
        parts = self._recipe.batches[step].chunk(self._recipe.parts)
        total, first, self.sites = 0.0, 0, []
        for number, token_ids in enumerate(parts, 1):
            last = number == len(parts)
            masks: AbstractContextManager[list[str]] = nullcontext([])
            if self._recipe.dropout:
                masks = draws.supplied_to_ours(first)
            with masks as self.sites, self._hooks(see if last else None):
                logits: Tensor = self._model(token_ids, None, None, tap=None)
                loss = self._procedure.loss(logits, token_ids)
                share = self._procedure.share(loss, len(parts))
                share.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / len(parts)
            first += len(token_ids)
        return total

    @contextlib.contextmanager
    def _hooks(self, see: GradientCallback | None) -> Iterator[None]:
        """Call `see` with each parameter's gradient when a backward pass has completed it."""
        handles = []

        def show(name: str, parameter: Tensor) -> None:
            if see is not None and parameter.grad is not None:
                see(name, parameter.grad)

        if see is not None:
            for name, parameter in self.parameters.items():
                hook = partial(show, name)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def advance(self, step: int, maximum: float) -> tuple[float, float]:
        """Make the step; return the norm of the gradients and the learning rate."""
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
        """Whether the head is still the embedding."""
        return tied(self._model, self.parameters["tokens_embed.weight"])


def tied(model: nn.Module, table: Tensor) -> bool:
    """Return whether all tensors of a model with the shape of `table` share its storage."""
    alike = [t for t in model.state_dict().values() if t.shape == table.shape]
    return bool(alike) and {t.data_ptr() for t in alike} == {table.data_ptr()}


def module_in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model, with its own storage."""
    made = runners.model_in_dtype({"the model": model}, dtype)["the model"]
    return copy.deepcopy(model) if made is model else made


class Piece(NamedTuple):
    """Rows of a parameter and of its moments."""

    parameter: nn.Parameter
    first: Tensor
    second: Tensor


class ReferenceRun:
    """Hugging Face's model in training; its parameters are changed.

    Attributes:
        parameters: All of them, under our names.
        norm: Norm of the last step's gradients before clipping.
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
        """Return the loss of a step's batch; the parameters keep its gradients."""
        token_ids = self._recipe.batches[step]
        self.zero_grad()
        with (
            huggingface.supply_dropout_masks(self._model, draws.keeps)
            if self._recipe.dropout
            else nullcontext()
        ):
            logits = huggingface.logits(self._model, token_ids)
            loss = huggingface.loss(logits, token_ids).mean()
            loss.backward()  # type: ignore[no-untyped-call]
        squares = [
            math.nan
            if parameter.grad is None
            else float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2
            for parameter in self.parameters.values()
        ]
        self.norm = math.sqrt(math.fsum(squares))
        return float(loss.detach())

    @torch.no_grad()
    def advance(self, step: int, maximum: float) -> float:
        """Make the step; return its learning rate. The gradients are not changed."""
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

    def zero_grad(self) -> None:
        """Discard the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _pieces(self, name: str) -> Iterator[Piece]:
        """Yield a parameter and its moments some rows at a time, as views."""
        whole = (self.parameters[name].detach(), *(m[name] for m in self._moments.values()))
        length = _rows(whole[0])
        for rows, first, second in zip(*(torch.split(t, length) for t in whole), strict=True):
            yield Piece(nn.Parameter(rows), first, second)

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return tied(self._model, self.parameters["tokens_embed.weight"])


def _rows(parameter: Tensor) -> int:
    """Return the number of rows that are stepped at once, which limits the temporaries."""
    return max(1, _AT_ONCE // max(1, parameter[0].numel()))


_AT_ONCE = 1 << 22
"""Elements stepped at once."""


class Oracle:
    """Steps rows of a parameter with the NumPy oracle, in the released variant.

    It computes in the parameter's dtype, but at least in float32.
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
        """Make step `number`, counted from 0."""
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
    """Return a tensor in float32 or wider: NumPy has no bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class PyTorch:
    """Steps rows of a parameter with `torch.optim.AdamW`."""

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
