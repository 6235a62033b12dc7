"""Faults of a backward pass alone: what goes forward is right to the bit, what comes back is not.

A right model cannot be told from one with such a fault by any look at its outputs. Each is
planted at a tap: the tensor there keeps its value and is given the gradient of something else,
by `parity.gradients.wrong`. So nothing in `scratch_gpt` is touched, and a fault can be planted
into every path that has the tap.
"""

import copy
import dataclasses
from collections.abc import Callable
from types import MethodType
from typing import cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from parity.gradients import wrong
from parity.gradients.places import BLOCK
from parity.gradients.wrong import Scene
from parity.taps import PATHS
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, untapped


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
    instead: Callable[[Tensor, Scene], Tensor]
    at: tuple[str, ...]
    first: str
    behind: bool = False


BACKWARD_FAULTS: dict[str, BackwardFault] = {
    "loss-not-divided": BackwardFault(
        "the loss's gradient not divided by the number of targets",
        wrong.times_targets,
        ("logits",),
        "logits",
        behind=True,
    ),
    "head-detached": BackwardFault(
        "the head's path into the tied embedding is cut",
        wrong.head_detached,
        ("logits",),
        "tokens_embed.weight",
    ),
    "lookup-detached": BackwardFault(
        "the lookup's path into the tied embedding is cut",
        wrong.cut_off,
        ("embeddings.tokens",),
        "tokens_embed.weight",
    ),
    "repeat-overwritten": BackwardFault(
        "of a token that occurs twice, the last gradient overwrites the others",
        wrong.last_of_each_token,
        ("embeddings.tokens",),
        "tokens_embed.weight",
    ),
    "norm-without-mean": BackwardFault(
        "layer norm's backward without the term of the mean",
        wrong.norm_without_mean,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.input",
    ),
    "norm-without-variance": BackwardFault(
        "layer norm's backward without the term of the variance",
        wrong.norm_without_variance,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.input",
    ),
    "gain-of-one-row": BackwardFault(
        "the gradient of ln_1's gain is that of one row",
        wrong.gain_of_one_row,
        ("h.{i}.ln_1",),
        "h.{i}.ln_1.weight",
    ),
    "bias-of-one-row": BackwardFault(
        "the gradient of c_fc's bias is that of one row",
        wrong.bias_of_one_row,
        ("h.{i}.mlp.c_fc",),
        "h.{i}.mlp.c_fc.bias",
    ),
    "erf-derivative": BackwardFault(
        "the derivative of the erf GELU",
        wrong.erf_gelu,
        ("h.{i}.mlp.gelu",),
        "h.{i}.mlp.c_fc",
    ),
    "delta-missing": BackwardFault(
        "the softmax's backward without its row term",
        wrong.attention_without_delta,
        ("h.{i}.attn.weights", "h.{i}.attn.context"),
        "h.{i}.attn.scores",
    ),
    "scale-missing-behind": BackwardFault(
        "the query's gradient without 1/sqrt(head_width)",
        wrong.unscaled,
        ("h.{i}.attn.query",),
        "h.{i}.attn.query",
        behind=True,
    ),
    "transpose-missing": BackwardFault(
        "the backward of attention's c_proj multiplies by the matrix, not its transpose",
        wrong.projection_untransposed,
        ("h.{i}.attn",),
        "h.{i}.attn.context",
    ),
    "residual-cut": BackwardFault(
        "no gradient through the residual around attention",
        wrong.residual_cut,
        ("h.{i}.ln_1.input",),
        "<before",
    ),
    "doubled": BackwardFault(
        "the gradient of the MLP's output added twice",
        wrong.doubled,
        ("h.{i}.mlp",),
        "h.{i}.mlp.c_proj.weight",
    ),
}
"""Every fault by name."""


def planted(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Raises:
        ValueError: The model's path does not form the tap at which the fault is planted.
    """
    fault, path = BACKWARD_FAULTS[name], model.attention
    formed = [at for at in fault.at if at.removeprefix("h.{i}.") not in PATHS[path]]
    if not formed:
        message = f"{name} is planted at {fault.at[0]}, which the path {path} does not form"
        raise ValueError(message)
    faulty = copy.deepcopy(model)
    forward = _going_wrong(fault, formed[0].replace("{i}", str(block)), block)
    faulty.forward = MethodType(forward, faulty)  # type: ignore[method-assign]
    return faulty


def first_place(name: str, block: int, attention: str) -> str:
    """Return the gradient that must be named first on an attention path."""
    first = BACKWARD_FAULTS[name].first
    if first == "<before":
        return f"h.{block - 1}.ln_2" if block > 0 else "embeddings"
    kind = first.removeprefix("h.{i}.")
    while kind in PATHS[attention]:  # what a path never forms shows in what is made from it
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
        shown = tap or untapped
        scene = Scene(model=self, block=block, token_ids=token_ids, mask=attention_mask)

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
