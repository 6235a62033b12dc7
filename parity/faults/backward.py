"""Faults of a backward pass alone: what goes forward is right to the bit, what comes back is not.

A right model cannot be told from one with such a fault by any look at its outputs. Each is
planted at a tap: the tensor there keeps its value and is given the gradient of something else,
by `parity.faults.backward`. So nothing in `scratch_gpt` is touched, and a fault can be planted
into every path that has the tap.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from types import MethodType
from typing import cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from parity.checks.gradients.taps import BLOCK
from parity.core.taps import NEVER_FORMED
from scratch_gpt.attention import merge_heads
from scratch_gpt.causal_mask import hidden_keys
from scratch_gpt.layer_norm import LayerNorm, layer_norm
from scratch_gpt.linear import linear
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap
from scratch_gpt.transformer_block import TransformerBlock

# What a wrong backward pass believes it came from.
#
# Each function returns a tensor that has the shape of the right one and the gradient of the fault;
# its values are thrown away. It is told what the taps before have shown.


@dataclasses.dataclass(kw_only=True)
class FaultContext:
    """Where a fault happens.

    Attributes:
        model: The faulty model.
        block: The number of the faulty block.
        token_ids: `[batch time]`.
        mask: `[batch time]`, bool; None without padding.
        seen: The taps shown so far, as the model goes on with them.
    """

    model: GPT
    block: int
    token_ids: Tensor
    mask: Tensor | None
    seen: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def tap(self, kind: str) -> Tensor:
        """Return what the faulty block has shown at a kind of tap."""
        return self.seen[f"h.{self.block}.{kind}"]

    @property
    def parts(self) -> TransformerBlock:
        """The faulty block."""
        return cast("TransformerBlock", self.model.h[self.block])

    @property
    def input(self) -> Tensor:
        """What the faulty block is given."""
        before = f"h.{self.block - 1}.ln_2" if self.block > 0 else "embeddings"
        return self.seen[before]


def cut_off(value: Tensor, _scene: FaultContext) -> Tensor:
    """Depend on nothing; a tap can still be watched."""
    return value.detach().requires_grad_()


def doubled(value: Tensor, _scene: FaultContext) -> Tensor:
    """Send every gradient back twice."""
    return 2.0 * value


def times_targets(value: Tensor, scene: FaultContext) -> Tensor:
    """Undo the division by the number of targets."""
    batch, time = scene.token_ids.shape
    return value * float(batch * (time - 1))


def unscaled(value: Tensor, _scene: FaultContext) -> Tensor:
    """Undo the scale of the scores."""
    return value * math.sqrt(value.shape[-1])


def residual_cut(value: Tensor, scene: FaultContext) -> Tensor:
    """Take the block's input out of the sum again."""
    return value - (scene.input - scene.input.detach())


def head_detached(_value: Tensor, scene: FaultContext) -> Tensor:
    """Use the token embedding in the head as a constant."""
    last = scene.seen[f"h.{len(scene.model.h) - 1}.ln_2"]
    return last @ scene.model.tokens_embed.weight.detach().T


def last_of_each_token(value: Tensor, scene: FaultContext) -> Tensor:
    """Let only the last occurrence of a token depend on its row of the table."""
    flat = scene.token_ids.flatten()
    same = flat[:, None] == flat[None, :]
    repeated_later = same.triu(1).any(-1).view(*scene.token_ids.shape, 1)
    return torch.where(repeated_later, value.detach(), value)


def norm_without_mean(_value: Tensor, scene: FaultContext) -> Tensor:
    """Take the row's mean for a constant."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    centred = x - x.mean(-1, keepdim=True).detach()
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + norm.epsilon) * norm.weight + norm.bias


def norm_without_variance(_value: Tensor, scene: FaultContext) -> Tensor:
    """Take the row's variance for a constant."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    return _normalised(x, norm) * norm.weight + norm.bias


def gain_of_one_row(_value: Tensor, scene: FaultContext) -> Tensor:
    """Let only the first row depend on the gain."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    gain = norm.weight.detach()
    share = _normalised(x, norm).detach() * _first_row(x) * (norm.weight - gain)
    return layer_norm(x, gain, norm.bias, epsilon=norm.epsilon) + share


def bias_of_one_row(_value: Tensor, scene: FaultContext) -> Tensor:
    """Let only the first row depend on the bias."""
    x, fc = scene.tap("ln_1"), scene.parts.mlp.c_fc
    bias = fc.bias.detach()
    return linear(x, fc.weight, bias) + _first_row(x) * (fc.bias - bias)


def erf_gelu(_value: Tensor, scene: FaultContext) -> Tensor:
    """Differentiate the erf form of GELU."""
    inner = scene.tap("mlp.c_fc")
    return 0.5 * inner * (1.0 + torch.erf(inner / math.sqrt(2.0)))


def projection_untransposed(_value: Tensor, scene: FaultContext) -> Tensor:
    """Depend on the context through the transpose of the projection."""
    context, projection = scene.tap("attn.context"), scene.parts.attn.c_proj
    turned = context @ projection.weight.detach().T
    return linear(context.detach(), projection.weight, projection.bias) + turned


def attention_without_delta(value: Tensor, scene: FaultContext) -> Tensor:
    """Take the softmax's sum for a constant, in the weights or, unformed, in the context."""
    kind = "attn.scores"
    if f"h.{scene.block}.{kind}" in scene.seen:
        return _weights(scene.tap(kind), scene.mask)
    query, key = scene.tap("attn.query"), scene.tap("attn.key")
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    context = merge_heads(_weights(scores, scene.mask) @ scene.tap("attn.value"))
    return context.view_as(value)


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax of visible scores, its sum a constant."""
    hidden = hidden_keys(scores.shape[-2], scores.shape[-1], mask, scores.device)
    masked = scores.masked_fill(hidden, float("-inf"))
    exponentials = torch.exp(masked - masked.detach().amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True).detach()


def _normalised(x: Tensor, norm: LayerNorm) -> Tensor:
    """Return rows of mean 0 and variance 1, the variance a constant."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True).detach()
    return centred * torch.rsqrt(variance + norm.epsilon)


def _first_row(x: Tensor) -> Tensor:
    """Return `[batch time 1]`: 1 at the very first row, else 0."""
    row = torch.zeros(x.shape[0] * x.shape[1], 1, dtype=x.dtype, device=x.device)
    row[0] = 1.0
    return row.view(*x.shape[:2], 1)


@dataclasses.dataclass(frozen=True)
class BackwardFault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        instead: Returns a tensor that has the wrong gradient; its values are not used.
        at: The tap that it is planted at, `{i}` being the block; the first that a path forms.
        first: The gradient that is seen to be wrong first; `<before` is the block's input.
        behind: Whether it is the tap's own gradient that is wrong, not that of what made it.
    """

    what: str
    instead: Callable[[Tensor, FaultContext], Tensor]
    at: tuple[str, ...]
    first: str
    behind: bool = False


BACKWARD_FAULTS: dict[str, BackwardFault] = {
    "loss-not-divided": BackwardFault(
        "the loss's gradient not divided by the number of targets",
        times_targets,
        ("logits",),
        "logits",
        behind=True,
    ),
    "head-detached": BackwardFault(
        "the head's path into the tied embedding is cut",
        head_detached,
        ("logits",),
        "tokens_embed.weight",
    ),
    "lookup-detached": BackwardFault(
        "the lookup's path into the tied embedding is cut",
        cut_off,
        ("embeddings.tokens",),
        "tokens_embed.weight",
    ),
    "repeat-overwritten": BackwardFault(
        "of a token that occurs twice, the last gradient overwrites the others",
        last_of_each_token,
        ("embeddings.tokens",),
        "tokens_embed.weight",
    ),
    "norm-without-mean": BackwardFault(
        "layer norm's backward without the term of the mean",
        norm_without_mean,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.input",
    ),
    "norm-without-variance": BackwardFault(
        "layer norm's backward without the term of the variance",
        norm_without_variance,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.input",
    ),
    "gain-of-one-row": BackwardFault(
        "the gradient of ln_1's gain is that of one row",
        gain_of_one_row,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.weight",
    ),
    "bias-of-one-row": BackwardFault(
        "the gradient of c_fc's bias is that of one row",
        bias_of_one_row,
        ("h.{i}.mlp.c_fc",),
        "h.{i}.mlp.c_fc.bias",
    ),
    "erf-derivative": BackwardFault(
        "the derivative of the erf GELU",
        erf_gelu,
        ("h.{i}.mlp.gelu",),
        "h.{i}.mlp.c_fc",
    ),
    "delta-missing": BackwardFault(
        "the softmax's backward without its row term",
        attention_without_delta,
        ("h.{i}.attn.weights", "h.{i}.attn.context"),
        "h.{i}.attn.scores",
    ),
    "scale-missing-behind": BackwardFault(
        "the query's gradient without 1/sqrt(head_width)",
        unscaled,
        ("h.{i}.attn.query",),
        "h.{i}.attn.query",
        behind=True,
    ),
    "transpose-missing": BackwardFault(
        "the backward of attention's c_proj multiplies by the matrix, not its transpose",
        projection_untransposed,
        ("h.{i}.attn",),
        "h.{i}.attn.context",
    ),
    "residual-cut": BackwardFault(
        "no gradient through the residual around attention",
        residual_cut,
        ("h.{i}.ln_1.input",),
        "<before",
    ),
    "doubled": BackwardFault(
        "the gradient of the MLP's output added twice",
        doubled,
        ("h.{i}.mlp",),
        "h.{i}.mlp.c_proj.weight",
    ),
}
"""Every fault by name."""


def inject(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Raises:
        ValueError: The model's path does not form the tap at which the fault is planted.
    """
    fault, path = BACKWARD_FAULTS[name], model.backend
    formed = [at for at in fault.at if at.removeprefix("h.{i}.") not in NEVER_FORMED[path]]
    if not formed:
        message = f"{name} is planted at {fault.at[0]}, which the path {path} does not form"
        raise ValueError(message)
    faulty = copy.deepcopy(model)
    forward = _going_wrong(fault, formed[0].replace("{i}", str(block)), block)
    faulty.forward = MethodType(forward, faulty)  # type: ignore[method-assign]
    return faulty


def expected_at(name: str, block: int, backend: str) -> str:
    """Return the gradient that must be named first on an attention path."""
    first = BACKWARD_FAULTS[name].first
    if first == "<before":
        return f"h.{block - 1}.ln_2" if block > 0 else "embeddings"
    kind = first.removeprefix("h.{i}.")
    while kind in NEVER_FORMED[backend]:  # what a path never forms shows in what is made from it
        kind = next(place.name for place in BLOCK if kind in place.after)
    return f"h.{block}.{kind}" if first.startswith("h.") else first


def _going_wrong(fault: BackwardFault, at: str, block: int) -> Callable[..., Tensor]:
    """Return a forward method that has the fault at a tap."""

    def forward(
        self: GPT,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        shown = tap or no_tap
        scene = FaultContext(model=self, block=block, token_ids=token_ids, mask=attention_mask)

        def watched(name: str, value: Tensor) -> Tensor:
            if name == at and not fault.behind:
                value = grafted(value, fault.instead(value, scene))
            value = scene.seen[name] = shown(name, value)
            if name == at and fault.behind:
                value = grafted(value, fault.instead(value, scene))
            return value

        return GPT.forward(self, token_ids, positions, attention_mask, tap=watched)

    return forward


def grafted(value: Tensor, other: Tensor) -> Tensor:
    """Return the values of one tensor with the gradient of another of its shape."""
    if not torch.is_grad_enabled():
        return value
    return cast("Tensor", _Graft.apply(value.detach(), other))  # type: ignore[no-untyped-call]


class _Graft(Function):
    """One tensor's values before another one's history."""

    @staticmethod
    def forward(_ctx: FunctionCtx, value: Tensor, other: Tensor) -> Tensor:
        if value.shape != other.shape:
            message = (
                f"a tensor {list(value.shape)} cannot take the gradient of {list(other.shape)}"
            )
            raise ValueError(message)
        return value.clone()

    @staticmethod
    def backward(_ctx: FunctionCtx, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
