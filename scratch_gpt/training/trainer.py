"""A model being trained: one step after the other, and what a checkpoint holds of it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.config import GPTConfig
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.errors import CommandError, ExitCode, UsageError
from scratch_gpt.gradient_clipping import NotFiniteError, clip_global_norm
from scratch_gpt.loss import next_token_loss
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule
from scratch_gpt.training import reproducibility
from scratch_gpt.training.checkpoints import Checkpoint, State
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe

# A step's gradients: of the mean loss per predicted token, over all micro-batches and processes.
#
# The mean is taken once, over all tokens. A mean of the micro-batches' means would weigh a token by
# how few others share its micro-batch.


IGNORED = -100
"""The id of targets that do not count."""


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Tensor],
    group: Group,
    *,
    before: Callable[[int], None] = lambda _: None,
) -> tuple[float, int]:
    """Add the gradients of a step to the parameters'; return the step's loss and its tokens.

    Every process gives its own micro-batches, at least one, and has the same gradients at the
    end. Gradients travel between processes once a step, while the last backward runs.

    Args:
        model: Gives logits; what `group.wrapped` returned.
        micro_batches: Token ids, each `[batch time]`; any sizes, equal in the same process or not.
        group: The processes that share the step.
        before: Is called with the place of each micro-batch before its forward.

    Returns:
        The mean negative log-likelihood per predicted token, in nats, over all processes, and
        the number of predicted tokens.
    """
    counts = [count_predictions(token_ids) for token_ids in micro_batches]
    total = group.summed([float(sum(counts))])[0]
    loss = 0.0
    for place, (token_ids, count) in enumerate(zip(micro_batches, counts, strict=True)):
        before(place)
        with group.exchanging(model, now=place == len(micro_batches) - 1):
            mean = next_token_loss(
                model(check_known_tokens(token_ids)), token_ids, ignore_index=IGNORED
            )
            share = mean * (count / total)
            (share * group.processes).backward()  # type: ignore[no-untyped-call] # the exchange averages
        loss += float(share.detach())
    return group.summed([loss])[0], int(total)


def check_known_tokens(token_ids: Tensor) -> Tensor:
    """Return ids that a model takes: where nothing is predicted, any id will do."""
    return token_ids.masked_fill(token_ids == IGNORED, 0)


def count_predictions(token_ids: Tensor) -> int:
    """Return how many targets count: every token that has one before it."""
    return int((token_ids[:, 1:] != IGNORED).sum())


# A model whose products are in bfloat16 and whose weights, gradients and losses are not.


WEIGHTS = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""The dtype of weights, gradients and moments, by the recipe's `dtype`."""


class Rounded(nn.Module):
    """Runs a model on its weights rounded to bfloat16.

    The rounding is part of the graph, so each gradient arrives at the weight itself, in float32:
    small steps add up that bfloat16 weights would round away. Automatic casting would not do:
    products that write into a given tensor are not cast, and derivatives written by hand run
    outside of it.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Return the logits, in bfloat16."""
        rounded = {name: p.to(torch.bfloat16) for name, p in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, rounded, (token_ids,))
        return logits


def autocast_products(model: GPT, dtype: str) -> nn.Module:
    """Return what is called for logits: the model itself, or its rounded form."""
    return Rounded(model) if dtype == "bfloat16" else model


# The validation loss, which leaves nothing behind.


def validation_loss(model: nn.Module, micro_batches: list[Tensor], group: Group) -> float:
    """Return the mean negative log-likelihood per predicted token, in nats, without dropout.

    Args:
        model: Gives logits; not what `group.wrapped` returned, whose forward exchanges nothing
            but expects a backward.
        micro_batches: Token ids `[batch time]`, the same in every process: they take turns.
        group: The processes that share the work.
    """
    total = sum(count_predictions(token_ids) for token_ids in micro_batches)
    loss = 0.0
    with evaluation_mode(model):
        for token_ids in micro_batches[group.rank :: group.processes]:
            mean = next_token_loss(model(token_ids), token_ids)
            loss += float(mean) * (count_predictions(token_ids) / total)
    return group.summed([loss])[0]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and back to what they were."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class DivergedError(CommandError):
    """The loss or the gradients are no numbers any more."""

    code = ExitCode.FAIL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What one step was.

    Attributes:
        step: Its number, from 1.
        loss: Mean negative log-likelihood per predicted token before it, in nats.
        learning_rate: The step's.
        gradient_norm: Global norm of the gradients before they were clipped.
        tokens: How many tokens were predicted, by all processes together.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int


class Trainer:
    """Model, optimizer, schedule and data of a run at some step.

    Every step is a function of the recipe, the step's number, and the weights and moments before
    it: its windows and its dropout are looked up by number, and nothing else is remembered.
    """

    def __init__(self, recipe: Recipe, vocab_size: int, data: TokenData, group: Group) -> None:
        """Begin a run.

        Args:
            recipe: A settled one.
            vocab_size: Number of token ids.
            data: What to train on and to validate with.
            group: The processes that share each step.

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
        self.model = _fresh(recipe, vocab_size).to(group.device)
        self.callable = autocast_products(self.model, recipe.dtype)
        self.wrapped = group.wrapped(self.callable)
        self.optimizer = Adam(
            self.model.named_parameters(),
            betas=(recipe.beta1, recipe.beta2),
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            form="released" if recipe.optimizer == "openai" else recipe.optimizer,
        )
        self.schedule = _schedule(recipe)

    def advance(self) -> Done:
        """Do one step.

        Raises:
            DivergedError: The loss or a gradient is not finite; the weights are as they were.
        """
        self.wrapped.train()
        self.optimizer.zero_grad()
        mine = self._micro_batches()
        loss, tokens = accumulate(self.wrapped, mine, self.group, before=self._seed_dropout)
        norm = self._clipped(loss)
        rate = self.schedule.learning_rate(self.step)
        self.optimizer.step(rate)
        self.step += 1
        self.windows_seen += self.recipe.batch_size
        return Done(
            step=self.step, loss=loss, learning_rate=rate, gradient_norm=norm, tokens=tokens
        )

    def validate(self) -> float:
        """Return the validation loss, and remember it where it is the lowest so far."""
        count = min(self.recipe.evaluation_windows, len(self.validation))
        micro = self.recipe.micro_batch
        batches = [
            self.validation.rows(first, min(micro, count - first)).to(self.group.device)
            for first in range(0, count, micro)
        ]
        loss = validation_loss(self.callable, batches, self.group)
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = (loss, self.step)
        return loss

    def checkpoint(self, circumstances: dict[str, object]) -> Checkpoint:
        """Return all that is needed to go on from here."""
        state = State(
            step=self.step,
            windows=self.windows_seen,
            best=self.best,
            circumstances=circumstances,
        )
        weights = {name: p.detach() for name, p in self.model.named_parameters()}
        return Checkpoint(
            state=state,
            config=self.model.config,
            weights=weights,
            optimizer=self.optimizer.state_dict(),
        )

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Be where the checkpoint's run was.

        Raises:
            ValueError: Its weights or its optimizer's state are not this run's.
        """
        self.step = checkpoint.state.step
        self.windows_seen = checkpoint.state.windows
        self.best = checkpoint.state.best
        self.model.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.optimizer)

    def _micro_batches(self) -> list[Tensor]:
        """Return this process's share of the step's windows: all take turns."""
        batch, micro = self.recipe.batch_size, self.recipe.micro_batch
        firsts = range(0, batch, micro)[self.group.rank :: self.group.processes]
        return [
            self.training.rows(self.windows_seen + first, min(micro, batch - first)).to(
                self.group.device
            )
            for first in firsts
        ]

    def _seed_dropout(self, place: int) -> None:
        micro_batch = place * self.group.processes + self.group.rank
        reproducibility.seed_dropout(self.recipe.seed, self.step, micro_batch)

    def _clipped(self, loss: float) -> float:
        """Clip the gradients; return their norm before."""
        try:
            if not math.isfinite(loss):
                raise _not_finite(loss)
            return clip_global_norm(self.model.named_parameters(), self.recipe.clip_norm)
        except NotFiniteError as error:
            raise DivergedError(
                f"training diverged in step {self.step + 1}: {error.what}",
                where=f"step {self.step + 1}, learning rate "
                f"{self.schedule.learning_rate(self.step):.3g}",
                fix="lower --learning-rate or raise --warmup; earlier checkpoints are intact, and "
                "--allow-changed learning_rate --allow-changed warmup goes on from the newest one",
            ) from error


def _not_finite(loss: float) -> NotFiniteError:
    return NotFiniteError(f"the loss is {loss}", where="the loss", fix="lower the learning rate")


def windows_of(data: TokenData, recipe: Recipe, part: str) -> Windows:
    """Return the windows of a part of the data, in the run's order; validation has one order."""
    tokens, seed = (data.train, recipe.seed) if part == "train" else (data.validation, 0)
    return Windows(tokens, time=recipe.n_positions, seed=seed)


def _fresh(recipe: Recipe, vocab_size: int) -> GPT:
    """Return a model with the recipe's first weights, which are the same on every device."""
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
    model.reset_parameters(reproducibility.weight_generator(recipe.seed))
    return model.to(WEIGHTS[recipe.dtype])


def _schedule(recipe: Recipe) -> Schedule:
    """Return the recipe's schedule."""
    return Schedule(
        peak=recipe.learning_rate,
        warmup=recipe.warmup,
        steps=recipe.steps,
        shape=recipe.schedule,
    )


def require_work_for_all(recipe: Recipe, processes: int) -> None:
    """Require a micro-batch for each process: one without would have no gradients to exchange.

    Raises:
        UsageError: A step has fewer micro-batches than there are processes.
    """
    micro_batches = math.ceil(recipe.batch_size / recipe.micro_batch)
    if micro_batches < processes:
        raise UsageError(
            f"a step has {micro_batches} micro-batches for {processes} processes",
            where=f"--batch-size {recipe.batch_size} --micro-batch {recipe.micro_batch}",
            fix=f"lower --micro-batch to at most {recipe.batch_size // processes} or raise --batch",
        )
