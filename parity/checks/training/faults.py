"""Faults of the trainer: each replaces functions of `scratch_gpt` while a check runs.

Training code really has them. The reference's side uses none of these functions.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from parity.faults.registry import Fault, faults_of
from scratch_gpt import attention, gradient_clipping, loss, model, optimizer, schedule
from scratch_gpt import dropout as dropping
from scratch_gpt import transformer_block as blocks
from scratch_gpt.data import windows
from scratch_gpt.kernels import tiled_attention as tiled
from scratch_gpt.optimizer import FIRST, SECOND, Adam, Rates
from scratch_gpt.training import reproducibility, trainer
from scratch_gpt.training.checkpoints import Checkpoint
from scratch_gpt.training.distributed import Group


class Patches(contextlib.ExitStack):
    """Replacements of functions, until it is closed."""

    def __call__(self, owner: Any, name: str, replacement: Any) -> None:
        """Replace an attribute of a module or class."""
        self.enter_context(mock.patch.object(owner, name, replacement))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFault(Fault):
    """A fault of the trainer; `code` is called with `Patches`.

    In `at`, `{last}` is the last block and `{variant}` the optimizer's variant.

    Attributes:
        look_for: Words of the reason that the check must give.
    """

    look_for: str

    @property
    def is_of_steps(self) -> bool:
        """Whether the steps of any model show it; else only the trainer's own small runs do."""
        return self.at.startswith("{variant}")


@contextlib.contextmanager
def injected(name: str | None) -> Iterator[None]:
    """Inject a fault while a check runs; none if `name` is None."""
    with Patches() as patches:
        if name is not None:
            TRAINING_FAULTS[name].code(patches)
        yield


# The data.


@TrainingFault.register(
    "last-micro-batch-dropped",
    "the last micro-batch of a step is left out",
    at="{variant}.1.ids",
    look_for="a micro-batch is left out",
)
def _(patches: Patches) -> None:
    right = trainer.Trainer._micro_batches
    patches(trainer.Trainer, "_micro_batches", lambda self: right(self)[:-1])


@TrainingFault.register(
    "windows-overlap",
    "a window begins at the last token of the one before",
    at="{variant}.1.ids",
    look_for="windows overlap",
)
def _(patches: Patches) -> None:
    right = windows.Windows.rows

    def rows(self: windows.Windows, first: int, count: int) -> Tensor:
        found = []
        for place in range(first, first + count):
            epoch, within = divmod(place, len(self))
            begin, order = self._epoch(epoch)
            start = begin + int(order[within]) * (self._time - 1)
            found.append(torch.tensor(self._tokens[start : start + self._time].astype("int64")))
        return torch.stack(found) if found else right(self, first, count)

    patches(windows.Windows, "rows", rows)


@TrainingFault.register(
    "windows-one-late",
    "each window is that of the next position",
    at="{variant}.1.ids",
    look_for="windows overlap, begin elsewhere, or come in another order",
)
def _(patches: Patches) -> None:
    right = windows.Windows.rows
    patches(windows.Windows, "rows", lambda self, first, n: right(self, first + 1, n))


@TrainingFault.register(
    "epochs-alike",
    "every epoch has the order of the first",
    at="windows-16-bit.3.ids",
    look_for="from the second epoch on",
)
def _(patches: Patches) -> None:
    right = windows.Windows._drawn_epoch
    patches(windows.Windows, "_drawn_epoch", lambda self, _epoch: right(self, 0))


@TrainingFault.register(
    "data-in-16-bits",
    "ids are read as signed numbers of 16 bits",
    at="windows-16-bit.1.ids",
    look_for="ids that do not fit their type",
)
def _(patches: Patches) -> None:
    right = windows.Windows.rows

    def rows(self: windows.Windows, first: int, count: int) -> Tensor:
        narrow = right(self, first, count).to(torch.int16).long()
        return narrow.clamp_min(0)  # a model rejects negative ids

    patches(windows.Windows, "rows", rows)


# Dropout.


@TrainingFault.register(
    "dropout-on-norm",
    "dropout on ln_1's output and not before its residual sum",
    at="dropout-plain.1.loss",
    look_for="a norm's output",
)
def _(patches: Patches) -> None:
    def forward(self: Any, x: Tensor, mask: Any = None, tap: Any = None, **_: Any) -> Tensor:
        probability = self.resid_pdrop if self.training else 0.0
        tap = tap or (lambda _name, value: value)
        attended = self.attn(x, mask, tap)
        normed = dropping.dropout(
            tap("ln_1", self.ln_1(tap("ln_1.input", x + attended))), probability
        )
        transformed = dropping.dropout(self.mlp(normed, tap), probability)
        made: Tensor = tap("ln_2", self.ln_2(tap("ln_2.input", normed + transformed)))
        return made

    patches(blocks.TransformerBlock, "forward", forward)


def _undropped(x: Tensor, _probability: float) -> Tensor:
    return x


@TrainingFault.register(
    "no-attention-dropout",
    "no dropout on the attention weights",
    at="dropout-plain.1.dropout",
    look_for="no dropout at h.0.attn.weights",
)
def _(patches: Patches) -> None:
    patches(attention, "dropout", _undropped)


@TrainingFault.register(
    "no-embedding-dropout",
    "no dropout on the embeddings",
    at="dropout-plain.1.dropout",
    look_for="no dropout at embeddings",
)
def _(patches: Patches) -> None:
    patches(model, "dropout", _undropped)


@TrainingFault.register(
    "dropout-left-off",
    "the model stays in evaluation mode while it is trained",
    at="dropout-plain.1.dropout",
    look_for="no dropout at embeddings",
)
def _(patches: Patches) -> None:
    right = trainer.accumulate

    def accumulate(of: nn.Module, *given: Any, **named: Any) -> tuple[float, int]:
        of.eval()
        return right(of, *given, **named)

    patches(trainer, "accumulate", accumulate)


@TrainingFault.register(
    "dropout-in-validation",
    "dropout is left on for the validation loss",
    at="dropout-plain.2.validation",
    look_for="dropout is left on",
)
def _(patches: Patches) -> None:
    patches(trainer, "evaluation_mode", lambda _model: torch.no_grad())


@TrainingFault.register(
    "keep-probability",
    "elements are kept with the probability of being dropped",
    at="dropout-plain.1.loss",
    look_for="kept with the probability of being dropped",
)
def _(patches: Patches) -> None:
    right = dropping.dropout
    patches(blocks, "dropout", lambda x, p: right(x, 1.0 - p if p else p))


@TrainingFault.register(
    "masks-repeat",
    "every step has the dropout masks of the first",
    at="dropout-plain.2.seeds",
    look_for="the seed of the masks",
)
def _(patches: Patches) -> None:
    right = reproducibility.seed_dropout
    patches(reproducibility, "seed_dropout", lambda seed, _step, part: right(seed, 0, part))


@TrainingFault.register(
    "masks-of-one-micro-batch",
    "all micro-batches of a step have the same dropout masks",
    at="dropout-plain.1.seeds",
    look_for="the seed of the masks",
)
def _(patches: Patches) -> None:
    right = reproducibility.seed_dropout
    patches(reproducibility, "seed_dropout", lambda seed, step, _part: right(seed, step, 0))


@TrainingFault.register(
    "tile-masks-reversed",
    "the tiled kernel takes the heads' dropout masks in reversed order on the way back",
    at="dropout-tiled.1.gradient",
    look_for="the tiles' dropout masks",
)
def _(patches: Patches) -> None:
    right = tiled._attend_backward

    def backward(inputs: Any, outputs: Any, masks: Any, probability: float) -> None:
        right(inputs, outputs, (mask.flip(0) for mask in masks), probability)

    patches(tiled, "_attend_backward", backward)


@TrainingFault.register(
    "tile-dropout-unscaled",
    "the tiled kernel does not scale the elements that it keeps",
    at="dropout-tiled.1.loss",
    look_for="not scaled",
)
def _(patches: Patches) -> None:
    right = tiled._attend

    def attend(inputs: Any, context: Tensor, normalizer: Tensor, probability: float) -> Any:
        masks = right(inputs, context, normalizer, probability)
        context.mul_(1.0 - probability)
        return masks

    patches(tiled, "_attend", attend)


@TrainingFault.register(
    "tile-dropout-backward-unscaled",
    "the tiled kernel scales the elements that it keeps only on the way forward",
    at="dropout-tiled.1.gradient",
    look_for="the tiles' dropout masks",
)
def _(patches: Patches) -> None:
    right = tiled._attend_backward

    def backward(inputs: Any, outputs: Any, masks: Any, probability: float) -> None:
        scaled = (mask * (1.0 - probability) for mask in masks)
        right(inputs, outputs, scaled, probability)

    patches(tiled, "_attend_backward", backward)


# The loss, and gradients that are accumulated.


@TrainingFault.register(
    "targets-not-shifted",
    "each position predicts its own token",
    at="{variant}.1.loss",
    look_for="targets not shifted",
)
def _(patches: Patches) -> None:
    def own(logits: Tensor, token_ids: Tensor, **_: Any) -> Tensor:
        picked = loss.log_softmax(logits).gather(-1, token_ids.clamp_min(0)[..., None])
        return -picked.mean()

    patches(trainer, "next_token_loss", own)


@TrainingFault.register(
    "mean-of-rows",
    "the loss is a mean of the rows' means",
    at="uneven.1.loss",
    look_for="a mean of means",
)
def _(patches: Patches) -> None:
    right = loss.next_token_loss

    def of_rows(logits: Tensor, token_ids: Tensor, **named: Any) -> Tensor:
        rows = zip(torch.split(logits, 1), torch.split(token_ids, 1), strict=True)
        return torch.stack([right(a, b, **named) for a, b in rows]).mean()

    patches(trainer, "next_token_loss", of_rows)


def _accumulate(share: Any, counted: Any = lambda loss, _share: loss) -> Any:
    """Return an accumulation in which `share` is a micro-batch's part, given its own counts."""

    def accumulate(
        of: nn.Module,
        micro_batches: Any,
        _group: Group,
        *,
        before: Any = lambda _index: None,
    ) -> tuple[float, int]:
        counts = [trainer.count_predictions(ids) for ids in micro_batches]
        total, summed = sum(counts), 0.0
        for index, (ids, count) in enumerate(zip(micro_batches, counts, strict=True)):
            before(index)
            logits = of(trainer.replace_ignored(ids))
            mean = loss.next_token_loss(logits, ids, ignore_index=trainer.IGNORED)
            part = share(count, total, len(counts))
            (mean * part).backward()
            summed += float(mean.detach()) * counted(count / total, part)
        return summed, total

    return accumulate


@TrainingFault.register(
    "mean-of-micro-batches",
    "the loss is a mean of the micro-batches' means",
    at="uneven.1.loss",
    look_for="a mean of means",
)
def _(patches: Patches) -> None:
    wrong = _accumulate(lambda _count, _total, parts: 1.0 / parts, lambda _right, part: part)
    patches(trainer, "accumulate", wrong)


@TrainingFault.register(
    "parts-not-averaged",
    "accumulated gradients are added up and not averaged",
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    look_for="2 times the reference's: parts of the batch are added up",
)
def _(patches: Patches) -> None:
    patches(trainer, "accumulate", _accumulate(lambda _count, _total, _parts: 1.0))


@TrainingFault.register(
    "gradients-of-the-last-part",
    "each micro-batch's gradients replace those of the one before",
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    look_for="of some micro-batches alone",
)
def _(patches: Patches) -> None:
    right = trainer.accumulate

    def accumulate(of: nn.Module, micro_batches: Any, group: Group, *, before: Any) -> Any:
        def clear(index: int) -> None:
            of.zero_grad()
            before(index)

        return right(of, micro_batches, group, before=clear)

    patches(trainer, "accumulate", accumulate)


@TrainingFault.register(
    "gradients-kept",
    "gradients are not set to zero after a step",
    at="{variant}.2.gradient.h.{last}.ln_2.weight",
    look_for="not cleared (zero_grad)",
)
def _(patches: Patches) -> None:
    patches(Adam, "zero_grad", lambda _self: None)


@TrainingFault.register(
    "lower-half-frozen",
    "the lower half of the blocks is not trained",
    at="{variant}.1.gradient.h.0.ln_2.weight",
    look_for="are not trained",
)
def _(patches: Patches) -> None:
    right = trainer.accumulate

    def accumulate(of: nn.Module, *given: Any, **named: Any) -> Any:
        made = right(of, *given, **named)
        layers = sum(name.endswith("ln_2.bias") for name, _ in of.named_parameters())
        for name, parameter in of.named_parameters():
            if name.startswith("h.") and int(name.split(".")[1]) < layers / 2:
                assert parameter.grad is not None  # noqa: S101 - for the type checker
                parameter.grad.zero_()
        return made

    patches(trainer, "accumulate", accumulate)


@TrainingFault.register(
    "loss-in-half",
    "the loss of logits in half precision is computed in half precision",
    at="loss-in-half.1.dtype",
    look_for="not widened",
)
def _(patches: Patches) -> None:
    right = loss.next_token_loss

    def narrow(logits: Tensor, token_ids: Tensor, **named: Any) -> Tensor:
        return right(logits, token_ids, **named).to(logits.dtype)

    patches(loss, "next_token_loss", narrow)


@TrainingFault.register(
    "rounded-outside-the-graph",
    "the weights are rounded outside the graph, so that no gradient reaches them",
    at="weights-rounded.1.dtype",
    look_for="rounded weights",
)
def _(patches: Patches) -> None:
    def forward(self: Any, token_ids: Tensor) -> Tensor:
        named = self.model.named_parameters()
        rounded = {name: p.detach().to(torch.bfloat16).requires_grad_() for name, p in named}
        made: Tensor = torch.func.functional_call(self.model, rounded, (token_ids,))
        return made

    patches(trainer.RoundedWeights, "forward", forward)


# Clipping.


def _norm(named: Iterable[tuple[str, nn.Parameter]]) -> float:
    return gradient_clipping.clip_global_norm(named, math.inf)


@TrainingFault.register(
    "clip-per-parameter",
    "each gradient is clipped by its own norm, as in the official PyTorch port",
    at="{variant}.1.first_moment",
    look_for="clipped one parameter at a time",
)
def _(patches: Patches) -> None:
    right = gradient_clipping.clip_global_norm

    def clip(named: Iterable[tuple[str, nn.Parameter]], maximum: float) -> float:
        pairs = list(named)
        norm = right(pairs, math.inf)
        for pair in pairs:
            right([pair], maximum)
        return norm

    patches(trainer, "clip_global_norm", clip)


@TrainingFault.register(
    "clip-after-step",
    "gradients are clipped after the step, or never",
    at="{variant}.1.first_moment",
    look_for="after it, never",
)
def _(patches: Patches) -> None:
    patches(trainer, "clip_global_norm", lambda named, _maximum: _norm(named))


@TrainingFault.register(
    "clip-always",
    "gradients below the largest norm are scaled up to it",
    at="dropout-plain.1.first_moment",
    look_for="below the largest norm",
)
def _(patches: Patches) -> None:
    def clip(named: Iterable[tuple[str, nn.Parameter]], maximum: float) -> float:
        pairs = list(named)
        norm = _norm(pairs)
        for _, parameter in pairs:
            assert parameter.grad is not None  # noqa: S101 - for the type checker
            parameter.grad.mul_(maximum / norm)
        return norm

    patches(trainer, "clip_global_norm", clip)


@TrainingFault.register(
    "norm-without-embedding",
    "the norm leaves the token embedding out",
    at="{variant}.1.norm",
    look_for="not of all gradients together",
)
def _(patches: Patches) -> None:
    right = gradient_clipping.clip_global_norm

    def clip(named: Iterable[tuple[str, nn.Parameter]], maximum: float) -> float:
        return right([pair for pair in named if pair[0] != "tokens_embed.weight"], maximum)

    patches(trainer, "clip_global_norm", clip)


# The optimizer.


@TrainingFault.register(
    "decay-in-gradient",
    "weight decay is added to the gradient (L2)",
    at="{variant}.1.first_moment",
    look_for="decay added to them",
)
def _(patches: Patches) -> None:
    right = Adam.step

    def step(self: Adam, learning_rate: float) -> None:
        for parameter in self.parameters.values():
            if parameter.grad is not None and parameter.ndim > 1:
                parameter.grad.add_(parameter.detach(), alpha=0.01)
        right(self, learning_rate)

    patches(Adam, "step", step)


def _with_settings(**changes: object) -> Any:
    """Return the code of a fault whose optimizer has other settings."""

    def code(patches: Patches) -> None:
        right = Adam.__init__

        def begin(self: Adam, *given: Any, **named: Any) -> None:
            right(self, *given, **(named | changes))

        patches(Adam, "__init__", begin)

    return code


TrainingFault.register(
    "decay-on-vectors",
    "biases and gains decay too",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="weight decay on them",
)(_with_settings(decay_vectors=True))

TrainingFault.register(
    "decay-missing",
    "nothing decays",
    at="{variant}.2.weight.h.{last}.mlp.c_proj.weight",
    look_for="weight decay is missing",
)(_with_settings(weight_decay=0.0))

TrainingFault.register(
    "beta1", "0.85 for beta1, 0.9", at="{variant}.1.first_moment", look_for="another beta1"
)(_with_settings(betas=(0.85, 0.999)))

TrainingFault.register(
    "beta2", "0.99 for beta2, 0.999", at="{variant}.1.second_moment", look_for="another beta2"
)(_with_settings(betas=(0.9, 0.99)))


def _with_correction(corrections: Any) -> Any:
    """Return the code of a fault with other corrections of the moments' bias."""

    def code(patches: Patches) -> None:
        def rates(self: Adam, learning_rate: float) -> Rates:
            bias_1, bias_2 = corrections(self)
            update = optimizer.VARIANTS[self.variant]
            return update(learning_rate, bias_1, bias_2, self.weight_decay)

        patches(Adam, "_rates", rates)

    return code


def _bias(adam: Adam, steps: int) -> list[float]:
    return [1.0 - beta**steps for beta in adam.betas]


TrainingFault.register(
    "no-bias-correction",
    "the moments are used as they are",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction missing",
)(_with_correction(lambda _adam: (1.0, 1.0)))

TrainingFault.register(
    "correction-one-late",
    "bias correction counts the steps before this one",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
)(_with_correction(lambda adam: _bias(adam, max(1, adam.steps))))

TrainingFault.register(
    "correction-stops",
    "bias correction is that of the third step from then on",
    at="optimizer-openai.4.weight",
    look_for="from step 4 on",
)(_with_correction(lambda adam: _bias(adam, min(adam.steps + 1, 3))))


@TrainingFault.register(
    "epsilon-inside-root",
    "the root of v + epsilon for the root of v, plus epsilon",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="epsilon inside the root",
)
def _(patches: Patches) -> None:
    right = Adam._update_run

    def update(  # noqa: PLR0913 - as the right one's
        self: Adam, p: Tensor, g: Tensor, m: Tensor, v: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        before = p.clone()
        right(self, p, g, m, v, scratch, rates)
        root = torch.sqrt(v / rates.root**2 + self.epsilon)
        p.copy_(before * rates.kept - rates.rate * m / root)

    patches(Adam, "_update_run", update)


@TrainingFault.register(
    "other-variant",
    "the release's variant for AdamW's, and the other way round",
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
)
def _(patches: Patches) -> None:
    swapped = {
        "openai": optimizer.VARIANTS["adamw"],
        "adamw": optimizer.VARIANTS["openai"],
    }
    patches(optimizer, "VARIANTS", swapped)


@TrainingFault.register(
    "moments-not-carried",
    "every step begins with moments of zero",
    at="{variant}.2.first_moment",
    look_for="not carried over",
)
def _(patches: Patches) -> None:
    right = Adam.step

    def step(self: Adam, learning_rate: float) -> None:
        for moment in self.state_dict().values():
            if isinstance(moment, Tensor):
                moment.zero_()
        right(self, learning_rate)

    patches(Adam, "step", step)


@TrainingFault.register(
    "moments-in-half",
    "the moments have the dtype of half-precision parameters",
    at="optimizer-openai.1.dtype.bfloat16",
    look_for="half precision",
)
def _(patches: Patches) -> None:
    patches(optimizer, "accumulate_dtype", lambda dtype: dtype)


@TrainingFault.register(
    "tied-stepped-twice",
    "the token embedding is stepped as an embedding and as a head",
    at="{variant}.2.weight.tokens_embed.weight",
    look_for="stepped twice",
)
def _(patches: Patches) -> None:
    right = Adam.step

    def step(self: Adam, learning_rate: float) -> None:
        table = self.parameters.get("tokens_embed.weight", next(iter(self.parameters.values())))
        before = table.detach().clone()
        right(self, learning_rate)
        if "tokens_embed.weight" in self.parameters:
            table.detach().add_(table.detach() - before)

    patches(Adam, "step", step)


# The schedule.


def _with_steps(changed: Any) -> Any:
    """Return the code of a fault whose schedule is asked for another step, or has other fields."""

    def code(patches: Patches) -> None:
        right = schedule.Schedule.learning_rate
        patches(
            schedule.Schedule,
            "learning_rate",
            lambda self, step: right(*changed(self, step)),
        )

    return code


TrainingFault.register(
    "schedule-off-by-one",
    "the schedule counts steps from 1",
    at="{variant}.1.rate",
    look_for="off by one",
)(_with_steps(lambda own, step: (own, step + 1)))

TrainingFault.register(
    "no-warmup", "the schedule has no warm-up", at="{variant}.1.rate", look_for="its warm-up"
)(_with_steps(lambda own, step: (dataclasses.replace(own, warmup=0), step)))

TrainingFault.register(
    "linear-for-cosine",
    "the rate falls in a line where a cosine is due",
    at="cosine.6.rate",
    look_for="its shape",
)(
    _with_steps(
        lambda own, step: (
            dataclasses.replace(own, shape="linear")
            if own.shape == "cosine" and step + own.counted_from > own.warmup
            else own,
            step,
        )
    )
)

TrainingFault.register(
    "schedule-begins-again",
    "behind its end the schedule begins again",
    at="cosine.14.rate",
    look_for="behind its end",
)(_with_steps(lambda own, step: (own, step if step <= own.steps else step - own.steps)))


# Resuming.


def _resumed(after: Any) -> Any:
    """Return the code of a fault that changes a trainer after it was resumed."""

    def code(patches: Patches) -> None:
        right = trainer.Trainer.resume

        def resume(self: trainer.Trainer, checkpoint: Checkpoint) -> None:
            right(self, checkpoint)
            after(self)

        patches(trainer.Trainer, "resume", resume)

    return code


def _forget_moments(own: trainer.Trainer) -> None:
    for name, moment in own.optimizer.state_dict().items():
        if name.startswith((FIRST, SECOND)) and isinstance(moment, Tensor):
            moment.zero_()


TrainingFault.register(
    "resumed-without-moments",
    "a resumed run begins with moments of zero",
    at="resume-float32.3.first_moment",
    look_for="not restored",
)(_resumed(_forget_moments))

TrainingFault.register(
    "resumed-at-the-first-window",
    "a resumed run begins again with the first window",
    at="resume-float32.3.ids",
    look_for="position in the data",
)(_resumed(lambda own: setattr(own, "windows_seen", 0)))

TrainingFault.register(
    "resumed-at-step-0",
    "a resumed run begins the schedule and the dropout masks again",
    at="resume-float32.3.seeds",
    look_for="the seed of the masks",
)(_resumed(lambda own: setattr(own, "step", 0)))


@TrainingFault.register(
    "resumed-in-float32",
    "the weights of a float64 run are saved in float32",
    at="resume-float64.3.loss",
    look_for="not restored",
)
def _(patches: Patches) -> None:
    right = trainer.Trainer.checkpoint

    def checkpoint(self: trainer.Trainer, settings: dict[str, object]) -> Checkpoint:
        made = right(self, settings)
        weights = {name: t.float().to(t.dtype) for name, t in made.weights.items()}
        return dataclasses.replace(made, weights=weights)

    patches(trainer.Trainer, "checkpoint", checkpoint)


TRAINING_FAULTS = faults_of(TrainingFault)
"""Every fault of the trainer by name."""
