"""Faults of the trainer: each replaces a function of `scratch_gpt` while a check runs.

Training code really has them. The reference's side uses none of these functions.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from parity.faults.registry import faults_of
from parity.faults.replacing import Function, ReplacingFault
from scratch_gpt import attention, loss, model, optimizer
from scratch_gpt import dropout as dropping
from scratch_gpt import transformer_block as blocks
from scratch_gpt.data.windows import Windows
from scratch_gpt.kernels import tiled_attention as tiled
from scratch_gpt.optimizer import Adam, Rates
from scratch_gpt.schedule import Schedule
from scratch_gpt.training import reproducibility, trainer
from scratch_gpt.training.checkpoints import Checkpoint
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFault(ReplacingFault):
    """A fault of the trainer.

    In `at`, `{last}` is the last block and `{variant}` the optimizer's variant.
    """

    look_for: str  # no fault is without

    @property
    def is_of_steps(self) -> bool:
        """Whether the steps of any model show it; else only the trainer's own small runs do."""
        return self.at.startswith("{variant}")


fault = TrainingFault.register


def injected(name: str | None) -> AbstractContextManager[None]:
    """Inject a fault while a check runs; none if `name` is None."""
    return contextlib.nullcontext() if name is None else TRAINING_FAULTS[name].injected()


# The data.


@fault(
    at="{variant}.1.ids", look_for="a micro-batch is left out", replaces=(Trainer, "_micro_batches")
)
def last_micro_batch_dropped(right: Function, own: Trainer) -> list[Tensor]:
    """The last micro-batch of a step is left out."""
    found: list[Tensor] = right(own)
    return found[:-1]


@fault(at="{variant}.1.ids", look_for="windows overlap", replaces=(Windows, "rows"))
def windows_overlap(right: Function, own: Windows, first: int, count: int) -> Any:
    """A window begins at the last token of the one before."""
    found = []
    for place in range(first, first + count):
        epoch, within = divmod(place, len(own))
        begin, order = own._epoch(epoch)
        start = begin + int(order[within]) * (own._time - 1)
        found.append(torch.tensor(own._tokens[start : start + own._time].astype("int64")))
    return torch.stack(found) if found else right(own, first, count)


@fault(
    at="{variant}.1.ids",
    look_for="windows overlap, begin elsewhere, or come in another order",
    replaces=(Windows, "rows"),
)
def windows_one_late(right: Function, own: Windows, first: int, count: int) -> Any:
    """Each window is that of the next position."""
    return right(own, first + 1, count)


@fault(
    at="windows-16-bit.3.ids",
    look_for="from the second epoch on",
    replaces=(Windows, "_drawn_epoch"),
)
def epochs_alike(right: Function, own: Windows, _epoch: int) -> Any:
    """Every epoch has the order of the first."""
    return right(own, 0)


@fault(
    at="windows-16-bit.1.ids", look_for="ids that do not fit their type", replaces=(Windows, "rows")
)
def data_in_16_bits(right: Function, own: Windows, first: int, count: int) -> Any:
    """Ids are read as signed numbers of 16 bits."""
    narrow = right(own, first, count).to(torch.int16).long()
    return narrow.clamp_min(0)  # a model rejects negative ids


# Dropout.


@fault(
    at="dropout-plain.1.loss",
    look_for="a norm's output",
    replaces=(blocks.TransformerBlock, "forward"),
)
def dropout_on_norm(
    _right: Function, own: Any, x: Tensor, mask: Any = None, tap: Any = None, **_: Any
) -> Any:
    """Dropout on ln_1's output and not before its residual sum."""
    probability = own.resid_pdrop if own.training else 0.0
    tap = tap or (lambda _name, value: value)
    attended = own.attn(x, mask, tap)
    normed = dropping.dropout(tap("ln_1", own.ln_1(tap("ln_1.input", x + attended))), probability)
    transformed = dropping.dropout(own.mlp(normed, tap), probability)
    return tap("ln_2", own.ln_2(tap("ln_2.input", normed + transformed)))


@fault(
    at="dropout-plain.1.dropout",
    look_for="no dropout at h.0.attn.weights",
    replaces=(attention, "dropout"),
)
def no_attention_dropout(_right: Function, x: Tensor, _probability: float) -> Tensor:
    """No dropout on the attention weights."""
    return x


@fault(
    at="dropout-plain.1.dropout", look_for="no dropout at embeddings", replaces=(model, "dropout")
)
def no_embedding_dropout(_right: Function, x: Tensor, _probability: float) -> Tensor:
    """No dropout on the embeddings."""
    return x


@fault(
    at="dropout-plain.1.dropout",
    look_for="no dropout at embeddings",
    replaces=(trainer, "accumulate"),
)
def dropout_left_off(right: Function, of: nn.Module, *given: Any, **named: Any) -> Any:
    """The model stays in evaluation mode while it is trained."""
    of.eval()
    return right(of, *given, **named)


@fault(
    at="dropout-plain.2.validation",
    look_for="dropout is left on",
    replaces=(trainer, "evaluation_mode"),
)
def dropout_in_validation(_right: Function, _model: nn.Module) -> Any:
    """Dropout is left on for the validation loss."""
    return torch.no_grad()


@fault(
    at="dropout-plain.1.loss",
    look_for="kept with the probability of being dropped",
    replaces=(blocks, "dropout"),
)
def keep_probability(right: Function, x: Tensor, probability: float) -> Any:
    """Elements are kept with the probability of being dropped."""
    return right(x, 1.0 - probability if probability else probability)


@fault(
    at="dropout-plain.2.seeds",
    look_for="the seed of the masks",
    replaces=(reproducibility, "seed_dropout"),
)
def masks_repeat(right: Function, seed: int, _step: int, part: int) -> None:
    """Every step has the dropout masks of the first."""
    right(seed, 0, part)


@fault(
    at="dropout-plain.1.seeds",
    look_for="the seed of the masks",
    replaces=(reproducibility, "seed_dropout"),
)
def masks_of_one_micro_batch(right: Function, seed: int, step: int, _part: int) -> None:
    """All micro-batches of a step have the same dropout masks."""
    right(seed, step, 0)


@fault(
    at="dropout-tiled.1.gradient",
    look_for="the tiles' dropout masks",
    replaces=(tiled, "_attend_backward"),
)
def tile_masks_reversed(
    right: Function, inputs: Any, outputs: Any, masks: Any, probability: float
) -> None:
    """The tiled kernel takes the heads' dropout masks in reversed order on the way back."""
    right(inputs, outputs, (mask.flip(0) for mask in masks), probability)


@fault(at="dropout-tiled.1.loss", look_for="not scaled", replaces=(tiled, "_attend"))
def tile_dropout_unscaled(
    right: Function, inputs: Any, context: Tensor, normalizer: Tensor, probability: float
) -> Any:
    """The tiled kernel does not scale the elements that it keeps."""
    masks = right(inputs, context, normalizer, probability)
    context.mul_(1.0 - probability)
    return masks


@fault(
    at="dropout-tiled.1.gradient",
    look_for="the tiles' dropout masks",
    replaces=(tiled, "_attend_backward"),
)
def tile_dropout_backward_unscaled(
    right: Function, inputs: Any, outputs: Any, masks: Any, probability: float
) -> None:
    """The tiled kernel scales the elements that it keeps only on the way forward."""
    right(inputs, outputs, (mask * (1.0 - probability) for mask in masks), probability)


# The loss, and gradients that are accumulated.


@fault(at="{variant}.1.loss", look_for="targets not shifted", replaces=(trainer, "next_token_loss"))
def targets_not_shifted(_right: Function, logits: Tensor, token_ids: Tensor, **_: Any) -> Tensor:
    """Each position predicts its own token."""
    picked = loss.log_softmax(logits).gather(-1, token_ids.clamp_min(0)[..., None])
    return -picked.mean()


@fault(at="uneven.1.loss", look_for="a mean of means", replaces=(trainer, "next_token_loss"))
def mean_of_rows(right: Function, logits: Tensor, token_ids: Tensor, **named: Any) -> Tensor:
    """The loss is a mean of the rows' means."""
    rows = zip(torch.split(logits, 1), torch.split(token_ids, 1), strict=True)
    return torch.stack([right(a, b, **named) for a, b in rows]).mean()


def _accumulate(share: Any, counted: Any = lambda loss, _share: loss) -> Function:
    """Return an accumulation in which `share` is a micro-batch's part, given its own counts."""

    def accumulate(
        _right: Function,
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


fault(
    "mean-of-micro-batches",
    "the loss is a mean of the micro-batches' means",
    at="uneven.1.loss",
    look_for="a mean of means",
    replaces=(trainer, "accumulate"),
)(_accumulate(lambda _count, _total, parts: 1.0 / parts, lambda _right, part: part))

fault(
    "parts-not-averaged",
    "accumulated gradients are added up and not averaged",
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    look_for="2 times the reference's: parts of the batch are added up",
    replaces=(trainer, "accumulate"),
)(_accumulate(lambda _count, _total, _parts: 1.0))


@fault(
    at="{variant}.1.gradient.h.{last}.ln_2.weight",
    look_for="of some micro-batches alone",
    replaces=(trainer, "accumulate"),
)
def gradients_of_the_last_part(
    right: Function, of: nn.Module, micro_batches: Any, group: Group, *, before: Any
) -> Any:
    """Each micro-batch's gradients replace those of the one before."""

    def clear(index: int) -> None:
        of.zero_grad()
        before(index)

    return right(of, micro_batches, group, before=clear)


@fault(
    at="{variant}.2.gradient.h.{last}.ln_2.weight",
    look_for="not cleared (zero_grad)",
    replaces=(Adam, "zero_grad"),
)
def gradients_kept(_right: Function, _own: Adam) -> None:
    """Gradients are not set to zero after a step."""


@fault(
    at="{variant}.1.gradient.h.0.ln_2.weight",
    look_for="are not trained",
    replaces=(trainer, "accumulate"),
)
def lower_half_frozen(right: Function, of: nn.Module, *given: Any, **named: Any) -> Any:
    """The lower half of the blocks is not trained."""
    made = right(of, *given, **named)
    layers = sum(name.endswith("ln_2.bias") for name, _ in of.named_parameters())
    for name, parameter in of.named_parameters():
        if name.startswith("h.") and int(name.split(".")[1]) < layers / 2:
            assert parameter.grad is not None  # noqa: S101 - for the type checker
            parameter.grad.zero_()
    return made


@fault(at="loss-in-half.1.dtype", look_for="not widened", replaces=(loss, "next_token_loss"))
def loss_in_half(right: Function, logits: Tensor, token_ids: Tensor, **named: Any) -> Any:
    """The loss of logits in half precision is computed in half precision."""
    return right(logits, token_ids, **named).to(logits.dtype)


@fault(
    at="weights-rounded.1.dtype",
    look_for="rounded weights",
    replaces=(trainer.RoundedWeights, "forward"),
)
def rounded_outside_the_graph(_right: Function, own: Any, token_ids: Tensor) -> Any:
    """The weights are rounded outside the graph, so that no gradient reaches them."""
    named = own.model.named_parameters()
    rounded = {name: p.detach().to(torch.bfloat16).requires_grad_() for name, p in named}
    return torch.func.functional_call(own.model, rounded, (token_ids,))


# Clipping.

Named = Iterable[tuple[str, nn.Parameter]]


@fault(
    at="{variant}.1.first_moment",
    look_for="clipped one parameter at a time",
    replaces=(trainer, "clip_global_norm"),
)
def clip_per_parameter(right: Function, named: Named, maximum: float) -> Any:
    """Each gradient is clipped by its own norm, as in the official PyTorch port."""
    pairs = list(named)
    norm = right(pairs, math.inf)
    for pair in pairs:
        right([pair], maximum)
    return norm


@fault(
    at="{variant}.1.first_moment",
    look_for="after it, never",
    replaces=(trainer, "clip_global_norm"),
)
def clip_after_step(right: Function, named: Named, _maximum: float) -> Any:
    """Gradients are clipped after the step, or never."""
    return right(named, math.inf)


@fault(
    at="dropout-plain.1.first_moment",
    look_for="below the largest norm",
    replaces=(trainer, "clip_global_norm"),
)
def clip_always(right: Function, named: Named, maximum: float) -> Any:
    """Gradients below the largest norm are scaled up to it."""
    pairs = list(named)
    norm = right(pairs, math.inf)
    for _, parameter in pairs:
        assert parameter.grad is not None  # noqa: S101 - for the type checker
        parameter.grad.mul_(maximum / norm)
    return norm


@fault(
    at="{variant}.1.norm",
    look_for="not of all gradients together",
    replaces=(trainer, "clip_global_norm"),
)
def norm_without_embedding(right: Function, named: Named, maximum: float) -> Any:
    """The norm leaves the token embedding out."""
    return right([pair for pair in named if pair[0] != "tokens_embed.weight"], maximum)


# The optimizer.


@fault(at="{variant}.1.first_moment", look_for="decay added to them", replaces=(Adam, "step"))
def decay_in_gradient(right: Function, own: Adam, learning_rate: float) -> None:
    """Weight decay is added to the gradient (L2)."""
    for parameter in own.parameters.values():
        if parameter.grad is not None and parameter.ndim > 1:
            parameter.grad.add_(parameter.detach(), alpha=0.01)
    right(own, learning_rate)


@fault(
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="weight decay on them",
    replaces=(Adam, "__init__"),
)
def decay_on_vectors(right: Function, own: Adam, *given: Any, **named: Any) -> None:
    """Biases and gains decay too."""
    right(own, *given, **named | {"decay_vectors": True})


@fault(
    at="{variant}.2.weight.h.{last}.mlp.c_proj.weight",
    look_for="weight decay is missing",
    replaces=(Adam, "__init__"),
)
def decay_missing(right: Function, own: Adam, *given: Any, **named: Any) -> None:
    """Nothing decays."""
    right(own, *given, **named | {"weight_decay": 0.0})


@fault(at="{variant}.1.first_moment", look_for="another beta1", replaces=(Adam, "__init__"))
def beta1(right: Function, own: Adam, *given: Any, **named: Any) -> None:
    """0.85 for beta1, 0.9."""
    right(own, *given, **named | {"betas": (0.85, 0.999)})


@fault(at="{variant}.1.second_moment", look_for="another beta2", replaces=(Adam, "__init__"))
def beta2(right: Function, own: Adam, *given: Any, **named: Any) -> None:
    """0.99 for beta2, 0.999."""
    right(own, *given, **named | {"betas": (0.9, 0.99)})


def _changed(own: Adam, **changes: object) -> Adam:
    """Return a shallow copy of an optimizer with other attributes."""
    other = copy.copy(own)
    vars(other).update(changes)
    return other


@fault(
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction missing",
    replaces=(Adam, "_rates"),
)
def no_bias_correction(_right: Function, own: Adam, learning_rate: float) -> Rates:
    """The moments are used as they are."""
    return optimizer.VARIANTS[own.variant](learning_rate, 1.0, 1.0, own.weight_decay)


@fault(
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
    replaces=(Adam, "_rates"),
)
def correction_one_late(right: Function, own: Adam, learning_rate: float) -> Any:
    """Bias correction counts the steps before this one."""
    return right(_changed(own, steps=max(0, own.steps - 1)), learning_rate)


@fault(at="optimizer-openai.4.weight", look_for="from step 4 on", replaces=(Adam, "_rates"))
def correction_stops(right: Function, own: Adam, learning_rate: float) -> Any:
    """Bias correction is that of the third step from then on."""
    return right(_changed(own, steps=min(own.steps, 2)), learning_rate)


@fault(
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="epsilon inside the root",
    replaces=(Adam, "_update_run"),
)
def epsilon_inside_root(right: Function, own: Adam, p: Tensor, *given: Any) -> None:
    """The root of v + epsilon for the root of v, plus epsilon."""
    before = p.clone()
    right(own, p, *given)
    _gradient, m, v, _scratch, rates = given
    root = torch.sqrt(v / rates.root**2 + own.epsilon)
    p.copy_(before * rates.kept - rates.rate * m / root)


@fault(
    at="{variant}.2.weight.h.{last}.ln_2.weight",
    look_for="bias correction",
    replaces=(Adam, "_rates"),
)
def other_variant(right: Function, own: Adam, learning_rate: float) -> Any:
    """The release's variant for AdamW's, and the other way round."""
    other = {"openai": "adamw", "adamw": "openai"}[own.variant]
    return right(_changed(own, variant=other), learning_rate)


@fault(at="{variant}.2.first_moment", look_for="not carried over", replaces=(Adam, "step"))
def moments_not_carried(right: Function, own: Adam, learning_rate: float) -> None:
    """Every step begins with moments of zero."""
    _forget_moments(own)
    right(own, learning_rate)


def _forget_moments(own: Adam) -> None:
    for moment in own.state_dict().values():
        if isinstance(moment, Tensor):
            moment.zero_()


@fault(
    at="optimizer-openai.1.dtype.bfloat16",
    look_for="half precision",
    replaces=(optimizer, "accumulate_dtype"),
)
def moments_in_half(_right: Function, dtype: torch.dtype) -> torch.dtype:
    """The moments have the dtype of half-precision parameters."""
    return dtype


@fault(
    at="{variant}.2.weight.tokens_embed.weight", look_for="stepped twice", replaces=(Adam, "step")
)
def tied_stepped_twice(right: Function, own: Adam, learning_rate: float) -> None:
    """The token embedding is stepped as an embedding and as a head."""
    table = own.parameters.get("tokens_embed.weight", next(iter(own.parameters.values())))
    before = table.detach().clone()
    right(own, learning_rate)
    if "tokens_embed.weight" in own.parameters:
        table.detach().add_(table.detach() - before)


# The schedule.


@fault(at="{variant}.1.rate", look_for="off by one", replaces=(Schedule, "learning_rate"))
def schedule_off_by_one(right: Function, own: Schedule, step: int) -> Any:
    """The schedule counts steps from 1."""
    return right(own, step + 1)


@fault(at="{variant}.1.rate", look_for="its warm-up", replaces=(Schedule, "learning_rate"))
def no_warmup(right: Function, own: Schedule, step: int) -> Any:
    """The schedule has no warm-up."""
    return right(dataclasses.replace(own, warmup=0), step)


@fault(at="cosine.6.rate", look_for="its shape", replaces=(Schedule, "learning_rate"))
def linear_for_cosine(right: Function, own: Schedule, step: int) -> Any:
    """The rate falls in a line where a cosine is due."""
    falls = own.shape == "cosine" and step + own.counted_from > own.warmup
    return right(dataclasses.replace(own, shape="linear") if falls else own, step)


@fault(at="cosine.14.rate", look_for="behind its end", replaces=(Schedule, "learning_rate"))
def schedule_begins_again(right: Function, own: Schedule, step: int) -> Any:
    """Behind its end the schedule begins again."""
    return right(own, step if step <= own.steps else step - own.steps)


# Resuming.


@fault(at="resume-float32.3.first_moment", look_for="not restored", replaces=(Trainer, "resume"))
def resumed_without_moments(right: Function, own: Trainer, checkpoint: Checkpoint) -> None:
    """A resumed run begins with moments of zero."""
    right(own, checkpoint)
    _forget_moments(own.optimizer)


@fault(at="resume-float32.3.ids", look_for="position in the data", replaces=(Trainer, "resume"))
def resumed_at_the_first_window(right: Function, own: Trainer, checkpoint: Checkpoint) -> None:
    """A resumed run begins again with the first window."""
    right(own, checkpoint)
    own.windows_seen = 0


@fault(at="resume-float32.3.seeds", look_for="the seed of the masks", replaces=(Trainer, "resume"))
def resumed_at_step_0(right: Function, own: Trainer, checkpoint: Checkpoint) -> None:
    """A resumed run begins the schedule and the dropout masks again."""
    right(own, checkpoint)
    own.step = 0


@fault(at="resume-float64.3.loss", look_for="not restored", replaces=(Trainer, "checkpoint"))
def resumed_in_float32(right: Function, own: Trainer, settings: dict[str, object]) -> Checkpoint:
    """The weights of a float64 run are saved in float32."""
    made: Checkpoint = right(own, settings)
    weights = {name: t.float().to(t.dtype) for name, t in made.weights.items()}
    return dataclasses.replace(made, weights=weights)


TRAINING_FAULTS = faults_of(TrainingFault)
"""Every fault of the trainer by name."""
