"""The trainer: one optimizer step with gradient accumulation, validation, and resuming."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.checkpoint.safetensors import count_not_finite
from scratch_gpt.config import GPTConfig
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.errors import (
    CheckpointError,
    CommandError,
    ExitCode,
    TooLittleTextError,
    UsageError,
    quote,
)
from scratch_gpt.gradient_clipping import NotFiniteError, clip_global_norm
from scratch_gpt.loss import next_token_loss
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import Adam
from scratch_gpt.options import require_memory
from scratch_gpt.schedule import Schedule
from scratch_gpt.training import reproducibility
from scratch_gpt.training.checkpoints import Checkpoint, State
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import MOST_STEPS, Recipe

IGNORED = -100
"""Id of targets that do not count."""

_WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""The dtype of weights, gradients and moments, by the recipe's `dtype`."""

_PAPER_WARMUP = 2_000
"""Steps; longer than many short runs."""


class DivergedError(CommandError):
    """The loss or a gradient is NaN or infinite."""

    exit_code = ExitCode.FAIL


def windows_of(data: TokenData, recipe: Recipe, part: str) -> Windows:
    """Return the windows of `train` in the run's order, or of `validation` in a fixed order.

    Raises:
        TooLittleTextError: The part is shorter than a window.
    """
    tokens, seed = (data.train, recipe.seed) if part == "train" else (data.validation, 0)
    try:
        return Windows(tokens, time=recipe.n_positions, seed=seed)
    except TooLittleTextError as error:
        raise TooLittleTextError(
            f"the {part} part: {error.what}",
            where=f"--n-positions {recipe.n_positions} "
            f"--validation-fraction {recipe.validation_fraction:g}",
            fix="give more text, shorter windows, or another fraction",
        ) from error


def complete_recipe(recipe: Recipe, windows: Windows) -> Recipe:
    """Return the recipe with its open values filled in: steps, warm-up and threads.

    Raises:
        UsageError: The warm-up is not shorter than the run, or the run is too long.
    """
    steps = recipe.steps or max(1, math.ceil(recipe.epochs * len(windows) / recipe.batch_size))
    if steps > MOST_STEPS:
        raise UsageError(
            f"{recipe.epochs:g} epochs of this text make {steps:,} steps; the limit is "
            f"{MOST_STEPS:,}",
            where="--epochs",
            fix="lower --epochs, or give --steps",
        )
    warmup = recipe.warmup if recipe.warmup >= 0 else min(_PAPER_WARMUP, steps // 10)
    threads = recipe.threads or torch.get_num_threads()
    if warmup >= steps:
        raise UsageError(
            f"a warm-up of {warmup} steps does not fit into the {steps} that "
            f"{recipe.epochs:g} epochs of this text make",
            where="--warmup",
            fix="lower --warmup, or raise --epochs or --steps",
        )
    return dataclasses.replace(recipe, steps=steps, warmup=warmup, threads=threads)


def require_work_for_all(recipe: Recipe, processes: int) -> None:
    """Raise UsageError if a process has no micro-batch: it would have no gradients to exchange."""
    micro_batches = math.ceil(recipe.batch_size / recipe.micro_batch)
    if micro_batches < processes:
        raise UsageError(
            f"a step has {micro_batches} micro-batches for {processes} processes",
            where=f"--batch-size {recipe.batch_size} --micro-batch {recipe.micro_batch}",
            fix=f"use --micro-batch {recipe.batch_size // processes} at most or raise --batch-size",
        )


def require_memory_for(recipe: Recipe, vocab_size: int, group: Group) -> None:
    """Require the memory that training takes at least, or raise EnvironmentUnfitError.

    Weights, gradients and two moments; a micro-batch's logits, their gradient and two tensors of
    each block; a step's token ids. On a GPU, which reports full memory itself, only the weights.
    """
    width, time = recipe.n_embd, recipe.n_positions
    weights = recipe.n_layer * 12 * width**2 + (vocab_size + time) * width
    rows = min(recipe.batch_size, recipe.micro_batch)
    activations = rows * time * 2 * (vocab_size + recipe.n_layer * width)
    is_plain = recipe.backend == "plain"
    scores = rows * recipe.n_head * time**2 if is_plain else 0
    token_ids = 8 * recipe.batch_size * time // group.processes
    bytes_each = 8 if recipe.dtype == "float64" else 4
    needed = bytes_each * (4 * weights + activations + scores) + token_ids
    if group.device.type == "cuda":
        needed = bytes_each * weights + token_ids
    require_memory(
        needed,
        where=f"--n-layer {recipe.n_layer} --n-embd {width} --n-positions {time} "
        f"--batch-size {recipe.batch_size} --micro-batch {recipe.micro_batch}",
        fix="train a smaller model, or lower --micro-batch",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """The numbers of one step."""

    step: int  # from 1
    loss: float  # mean negative log-likelihood per predicted token before the step, in nats
    learning_rate: float
    gradient_norm: float  # global, before clipping
    tokens: int  # predicted tokens, over all processes


def _new_model(recipe: Recipe, vocab_size: int) -> GPT:
    """Return the model that a run begins with, on the CPU."""
    config = GPTConfig(
        vocab_size=vocab_size,
        n_positions=recipe.n_positions,
        n_embd=recipe.n_embd,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        embd_pdrop=recipe.dropout,
        attn_pdrop=recipe.dropout,
        resid_pdrop=recipe.dropout,
        initializer_range=recipe.initializer_range,
    )
    model = GPT(config, backend=recipe.backend)
    # Drawn in float32 on the CPU: the same on every device.
    model.reset_parameters(reproducibility.weight_generator(recipe.seed))
    return model.to(_WEIGHT_DTYPES[recipe.dtype])


class Trainer:
    """Model, optimizer, schedule and data of a run at some step.

    Each step is a function of the recipe, the step's number, and the weights and moments before
    it. Windows and dropout masks are looked up by number; there is no other state.
    """

    def __init__(
        self,
        recipe: Recipe,
        vocab_size: int,
        data: TokenData,
        group: Group,
        *,
        model: nn.Module | None = None,
    ) -> None:
        """Start a run of a recipe from `complete_recipe`; the group's processes share each step.

        A `model` that is given is trained as it is, with its own sizes, dtype and backend. Only
        checkpoints need it to be a GPT.

        Raises:
            TooLittleTextError: A part of the data is shorter than a window.
        """
        self.recipe = recipe
        self.group = group
        self.step = 0
        self.windows_seen = 0
        self.best: tuple[float, int] | None = None
        self.training = windows_of(data, recipe, "train")
        self.validation = windows_of(data, recipe, "validation")
        made = _new_model(recipe, vocab_size).to(group.device) if model is None else model
        self.model = cast("GPT", made)
        is_rounded = recipe.dtype == "bfloat16"
        self.callable = RoundedWeights(self.model) if is_rounded else self.model
        self.wrapped = group.wrap(self.callable)
        self.optimizer = Adam(
            self.model.named_parameters(),
            betas=(recipe.beta1, recipe.beta2),
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            variant=recipe.optimizer,
        )
        self.schedule = Schedule(
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            steps=recipe.steps,
            shape=recipe.schedule,
        )

    def advance(self, seen: Callable[[], None] = lambda: None) -> StepResult:
        """Make one step; call `seen` when all gradients are accumulated, before they are clipped.

        Raises:
            DivergedError: The loss or a gradient is not finite; the weights were not changed.
        """
        self.wrapped.train()
        self.optimizer.zero_grad()
        loss, tokens = accumulate(
            self.wrapped, self._micro_batches(), self.group, before=self._seed_dropout
        )
        seen()
        rate = self.schedule.learning_rate(self.step)
        norm = self._clip(loss, rate)
        self.optimizer.step(rate)
        self.step += 1
        self.windows_seen += self.recipe.batch_size
        return StepResult(
            step=self.step, loss=loss, learning_rate=rate, gradient_norm=norm, tokens=tokens
        )

    def _micro_batches(self) -> list[Tensor]:
        """Return this process's micro-batches of the step; processes take turns."""
        firsts = range(0, self.recipe.batch_size, self.recipe.micro_batch)
        return [
            self._rows(self.training, self.windows_seen, first, self.recipe.batch_size)
            for first in firsts[self.group.rank :: self.group.processes]
        ]

    def _rows(self, windows: Windows, start: int, first: int, count: int) -> Tensor:
        """Return the micro-batch from window `first` of the `count` that begin at `start`."""
        rows = windows.rows(start + first, min(self.recipe.micro_batch, count - first))
        return rows.to(self.group.device)

    def _seed_dropout(self, index: int) -> None:
        micro_batch = index * self.group.processes + self.group.rank
        reproducibility.seed_dropout(self.recipe.seed, self.step, micro_batch)

    def _clip(self, loss: float, rate: float) -> float:
        """Clip the gradients; return their norm before."""
        problem, cause = f"the loss is {loss}", None
        if math.isfinite(loss):
            try:
                return clip_global_norm(self.model.named_parameters(), self.recipe.clip_norm)
            except NotFiniteError as error:
                problem, cause = error.what, error
        raise _diverged(self.step + 1, rate, problem) from cause

    def validate(self) -> float:
        """Return the validation loss; record it in `best` if it is the lowest so far."""
        count = min(self.recipe.evaluation_windows, len(self.validation))
        micro_batches = [
            self._rows(self.validation, 0, first, count)
            for first in range(0, count, self.recipe.micro_batch)
        ]
        loss = validation_loss(self.callable, micro_batches, self.group)
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = (loss, self.step)
        return loss

    def checkpoint(self, settings: dict[str, object]) -> Checkpoint:
        """Return everything that resuming needs; `settings` are the reproducibility settings.

        Raises:
            DivergedError: A weight is not finite in float32, in which it is written: resuming would
                reject the checkpoint.
        """
        if any(count_not_finite(p.detach().float()) for p in self.model.parameters()):
            rate = self.schedule.learning_rate(max(0, self.step - 1))
            raise _diverged(self.step, rate, "a weight is NaN or infinite")
        return Checkpoint(
            state=State(
                step=self.step, windows=self.windows_seen, best=self.best, settings=settings
            ),
            config=self.model.config,
            weights={name: p.detach() for name, p in self.model.named_parameters()},
            optimizer=self.optimizer.state_dict(),
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; raise CheckpointError if it does not fit this run."""
        own, found = (
            {name: (tuple(p.shape), p.dtype) for name, p in weights.items()}
            for weights in (dict(self.model.named_parameters()), checkpoint.weights)
        )
        if own != found:
            names = [name for name in {**own, **found} if own.get(name) != found.get(name)]
            raise _unfit(f"the weights {quote(names[0])} are {found.get(names[0])}")
        if checkpoint.state.step > self.recipe.steps:
            raise _unfit(f"it is of step {checkpoint.state.step}, and --steps {self.recipe.steps}")
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.optimizer.steps != checkpoint.state.step:
            raise _unfit(f"its moments are of step {self.optimizer.steps}")
        self.step = checkpoint.state.step
        self.windows_seen = checkpoint.state.windows
        self.best = checkpoint.state.best
        self.model.load_state_dict(checkpoint.weights)


def _diverged(step: int, rate: float, problem: str) -> DivergedError:
    return DivergedError(
        f"training diverged in step {step}: {problem}",
        where=f"step {step}, learning rate {rate:.3g}",
        fix="lower --learning-rate or raise --warmup; earlier checkpoints are intact, and "
        "--allow-changed learning_rate --allow-changed warmup resumes from the newest one",
    )


def _unfit(what: str) -> CheckpointError:
    return CheckpointError(what, where="the checkpoint", fix="use another one")


class RoundedWeights(nn.Module):
    """Runs a model on its weights rounded to bfloat16.

    The rounding is part of the graph, so each gradient reaches the weight itself, in float32:
    bfloat16 weights would round small steps away. Autocast does not serve here: it does not cast
    products that write into a given tensor, and does not cover hand-written derivatives.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Return the logits, in bfloat16."""
        rounded = {name: p.to(torch.bfloat16) for name, p in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, rounded, (token_ids,))
        return logits


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Tensor],
    group: Group,
    *,
    before: Callable[[int], None] = lambda _: None,
) -> tuple[float, int]:
    """Add a step's gradients to the parameters'; return its loss and number of predicted tokens.

    The loss is one mean over all predicted tokens of all micro-batches and processes. A mean of
    the micro-batches' means would weigh a token by how few others share its micro-batch.

    Each process passes its own micro-batches, at least one, and ends with the same gradients.
    Gradients are exchanged once a step, during the last backward.

    Args:
        model: Gives logits; from `group.wrap`.
        micro_batches: Token ids, each `[batch time]`; sizes may differ, also between processes.
        group: The processes that share the step.
        before: Called with the index of each micro-batch before its forward.

    Returns:
        The loss in nats per predicted token, and the number of these, over all processes.
    """
    counts = [count_predictions(token_ids) for token_ids in micro_batches]
    total = group.sum([float(sum(counts))])[0]
    loss = 0.0
    for index, (token_ids, count) in enumerate(zip(micro_batches, counts, strict=True)):
        before(index)
        with group.exchange_gradients(model, now=index == len(micro_batches) - 1):
            logits = model(replace_ignored(token_ids))
            mean = next_token_loss(logits, token_ids, ignore_index=IGNORED)
            share = mean * (count / total)
            (share * group.processes).backward()  # type: ignore[no-untyped-call] # the exchange averages
        loss += float(share.detach())
    return group.sum([loss])[0], int(total)


def replace_ignored(token_ids: Tensor) -> Tensor:
    """Return token ids with 0 for `IGNORED`, which is not an id that a model accepts."""
    return token_ids.masked_fill(token_ids == IGNORED, 0)


def count_predictions(token_ids: Tensor) -> int:
    """Return the number of predicted tokens: those after the first that are not ignored."""
    return int((token_ids[:, 1:] != IGNORED).sum())


def validation_loss(model: nn.Module, micro_batches: list[Tensor], group: Group) -> float:
    """Return the mean negative log-likelihood per predicted token, in nats, without dropout.

    The model gives logits; it is not from `group.wrap`, whose forward expects a backward. The
    micro-batches are token ids `[batch time]`, the same in every process: they take turns.
    """
    total = sum(count_predictions(token_ids) for token_ids in micro_batches)
    loss = 0.0
    with evaluation_mode(model):
        for token_ids in micro_batches[group.rank :: group.processes]:
            mean = next_token_loss(model(token_ids), token_ids)
            loss += float(mean) * (count_predictions(token_ids) / total)
    return group.sum([loss])[0]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Turn dropout and gradients off, and restore the model's mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
