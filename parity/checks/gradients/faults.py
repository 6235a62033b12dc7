"""Faults of the backward pass alone: outputs stay right to the bit, gradients are wrong.

A comparison of outputs cannot find them. Each is injected at a tap: the tensor there keeps its
value and has the gradient of another computation. So nothing in `scratch_gpt` changes, and a
fault can be injected into every backend that forms the tap.
"""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from parity.checks.gradients.taps import BLOCK
from parity.core.lockstep import TapFunction
from parity.core.taps import never_formed_kinds
from parity.faults.forward import with_tap
from parity.faults.forward_faults import rounded
from parity.faults.registry import Fault, faults_of
from parity.operations import (
    Call,
    Op,
    Trace,
    hidden,
    layer_norm,
    linear,
    merge_heads,
    softmax,
    split_heads,
)
from scratch_gpt.model import GPT


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackwardFault(Fault):
    """A wrong backward pass.

    `code(value, op)` returns a tensor of the tap's shape that has the wrong gradient; its values
    are not used. `at` names the first wrong gradient; `<before` is the block's input.

    Attributes:
        taps: Where it is injected: at the first of these that the backend forms.
        behind: Whether the tap's own gradient is wrong too, not only those of its inputs.
    """

    taps: tuple[str, ...]
    behind: bool = False

    def first_seen(self, block: int = 0, backend: str = "plain", **names: object) -> str:
        """Return the first wrong gradient: where a tensor is not formed, the next one backwards."""
        if self.at == "<before":
            return f"h.{block - 1}.ln_2" if block > 0 else "embeddings"
        name = self.at.format(i=block, **names)
        while (kind := name.removeprefix(f"h.{block}.")) in never_formed_kinds(backend):
            after = next(place.name for place in BLOCK if kind in place.after)
            name = f"h.{block}.{after}"
        return name


fault = BackwardFault.register


@fault(at="logits", look_for="not divided by the number of targets", taps=("logits",), behind=True)
def loss_not_divided(value: Tensor, op: Op) -> Tensor:
    """The loss's gradient not divided by the number of targets."""
    batch, time = op.token_ids.shape
    return value * float(batch * (time - 1))


@fault(at="tokens_embed.weight", look_for="only one of its two paths", taps=("logits",))
def head_detached(_value: Tensor, op: Op) -> Tensor:
    """The head's path into the tied embedding is cut."""
    return op.input("<x") @ op.parameter("tokens_embed.weight").detach().T


@fault(at="tokens_embed.weight", look_for="only one of its two paths", taps=("embeddings.tokens",))
def lookup_detached(value: Tensor, _op: Op) -> Tensor:
    """The lookup's path into the tied embedding is cut."""
    return value.detach().requires_grad_()  # the tap still receives a gradient


@fault(at="tokens_embed.weight", look_for="occurs twice", taps=("embeddings.tokens",))
def repeat_overwritten(value: Tensor, op: Op) -> Tensor:
    """Of a token that occurs twice, the last gradient overwrites the others."""
    flat = op.token_ids.flatten()
    same = flat[:, None] == flat[None, :]
    repeated_later = same.triu(1).any(-1).view(*op.token_ids.shape, 1)
    return torch.where(repeated_later, value.detach(), value)


@fault(at="h.{i}.ln_1.input", look_for="subtracts the gradient's mean", taps=("h.{i}.ln_1",))
def norm_without_mean(_value: Tensor, op: Op) -> Tensor:
    """Layer norm's backward without the term of the mean."""
    x = op.input("ln_1.input")
    centered = x - x.mean(-1, keepdim=True).detach()
    variance = (centered * centered).mean(-1, keepdim=True)
    normalized = centered * torch.rsqrt(variance + op.epsilon)
    return normalized * op.parameter("ln_1.weight") + op.parameter("ln_1.bias")


@fault(at="h.{i}.ln_1.input", look_for="through the variance", taps=("h.{i}.ln_1",))
def norm_without_variance(_value: Tensor, op: Op) -> Tensor:
    """Layer norm's backward without the term of the variance."""
    normalized = _constant_variance(op.input("ln_1.input"), op.epsilon)
    return normalized * op.parameter("ln_1.weight") + op.parameter("ln_1.bias")


@fault(at="h.{i}.ln_1.weight", look_for="too few rows", taps=("h.{i}.ln_1",))
def gain_of_one_row(_value: Tensor, op: Op) -> Tensor:
    """The gradient of ln_1's gain is that of one row."""
    x, gain = op.input("ln_1.input"), op.parameter("ln_1.weight")
    fixed = gain.detach()
    share = _constant_variance(x, op.epsilon).detach() * _first_row(x) * (gain - fixed)
    return layer_norm(x, fixed, op.parameter("ln_1.bias"), op.epsilon) + share


@fault(at="h.{i}.mlp.c_fc.bias", look_for="one row", taps=("h.{i}.mlp.c_fc",))
def bias_of_one_row(_value: Tensor, op: Op) -> Tensor:
    """The gradient of c_fc's bias is that of one row."""
    x, bias = op.input("ln_1"), op.parameter("mlp.c_fc.bias")
    fixed = bias.detach()
    return linear(x, op.parameter("mlp.c_fc.weight"), fixed) + _first_row(x) * (bias - fixed)


@fault(at="h.{i}.mlp.c_fc", look_for="erf form", taps=("h.{i}.mlp.gelu",))
def erf_derivative(_value: Tensor, op: Op) -> Tensor:
    """The derivative of the erf GELU."""
    x = op.input("mlp.c_fc")
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


@fault(
    at="h.{i}.attn.scores",
    look_for="row term (delta)",
    taps=("h.{i}.attn.weights", "h.{i}.attn.context"),
)
def delta_missing(value: Tensor, op: Op) -> Tensor:
    """The softmax's backward without its row term."""
    scores = op.input("attn.scores")
    masked = scores.masked_fill(hidden(scores.shape[-1], op.mask, scores.device), -math.inf)
    exponentials = torch.exp(masked - masked.detach().amax(-1, keepdim=True))
    weights = exponentials / exponentials.sum(-1, keepdim=True).detach()
    if op.is_formed("attn.scores"):
        return weights
    return merge_heads(weights @ op.input("attn.value")).view_as(value)


@fault(
    at="h.{i}.attn.query",
    look_for="1/sqrt(head_width) is missing",
    taps=("h.{i}.attn.query",),
    behind=True,
)
def scale_missing_behind(value: Tensor, _op: Op) -> Tensor:
    """The query's gradient without 1/sqrt(head_width)."""
    return value * math.sqrt(value.shape[-1])


@fault(at="h.{i}.attn.context", look_for="must be transposed", taps=("h.{i}.attn",))
def transpose_missing(_value: Tensor, op: Op) -> Tensor:
    """The backward of attention's c_proj multiplies by the matrix, not its transpose."""
    context, weight = op.input("attn.context"), op.parameter("attn.c_proj.weight")
    right = linear(context.detach(), weight, op.parameter("attn.c_proj.bias"))
    return right + context @ weight.detach().T


@fault(at="<before", look_for="a branch is missing", family="residual", taps=("h.{i}.ln_1.input",))
def residual_cut(value: Tensor, op: Op) -> Tensor:
    """No gradient through the residual around attention."""
    return value - (op.input("<x") - op.input("<x").detach())


@fault(at="h.{i}.mlp.c_proj.weight", look_for="counted twice", taps=("h.{i}.mlp",))
def doubled(value: Tensor, _op: Op) -> Tensor:
    """The gradient of the MLP's output added twice."""
    return 2.0 * value


# Attention, as hand-written and tiled kernels get it wrong.


def _context_of(value: Tensor, weights: Tensor, op: Op) -> Tensor:
    """Return what is grafted at the weights, or at the context: values keep their gradient."""
    if op.is_formed("attn.scores"):
        return weights
    values, right = op.input("attn.value"), op.input("attn.weights").detach()
    return merge_heads(weights @ values.detach() + right @ values).view_as(value)


@fault(
    at="h.{i}.attn.scores",
    look_for="hidden keys get a share",
    family="mask",
    taps=("h.{i}.attn.weights", "h.{i}.attn.context"),
)
def mask_missing_behind(value: Tensor, op: Op) -> Tensor:
    """The softmax's backward without the causal mask."""
    return _context_of(value, softmax(op.input("attn.scores")), op)


@fault(
    at="h.{i}.attn.scores",
    look_for="hidden keys get a share",
    family="mask",
    taps=("h.{i}.attn.weights", "h.{i}.attn.context"),
)
def mask_late_behind(value: Tensor, op: Op) -> Tensor:
    """The softmax's backward with a mask that is off by one."""
    scores = op.input("attn.scores")
    visible = torch.ones_like(scores[0, 0], dtype=torch.bool).tril(1)
    return _context_of(value, softmax(scores.masked_fill(~visible, -math.inf)), op)


@fault(
    at="h.{i}.attn.key",
    look_for="1/sqrt(head_width) is missing",
    taps=("h.{i}.attn.key",),
    behind=True,
)
def key_scale_missing_behind(value: Tensor, _op: Op) -> Tensor:
    """The key's gradient without 1/sqrt(head_width)."""
    return value * math.sqrt(value.shape[-1])


@fault(at="h.{i}.attn.query", look_for="applied twice", taps=("h.{i}.attn.query",), behind=True)
def scale_twice_behind(value: Tensor, _op: Op) -> Tensor:
    """The query's gradient scaled twice."""
    return value / math.sqrt(value.shape[-1])


@fault(at="h.{i}.attn.c_attn.weight", look_for="a path cut", taps=("h.{i}.attn.value",))
def value_detached(value: Tensor, _op: Op) -> Tensor:
    """No gradient through the values."""
    return value.detach().requires_grad_()


@fault(at="h.{i}.attn.c_attn.bias", look_for="not over all rows", taps=("h.{i}.attn.query",))
def c_attn_bias_of_one_text(_value: Tensor, op: Op) -> Tensor:
    """The gradient of c_attn's bias is that of one text."""
    x, width = op.input("<x"), op.input("<x").shape[-1]
    bias = op.parameter("attn.c_attn.bias")[:width]
    fixed, first = bias.detach(), torch.zeros_like(x[..., :1])
    first[0] = 1.0
    right = linear(x, op.parameter("attn.c_attn.weight")[:, :width], fixed)
    return split_heads(right + first * (bias - fixed), op.n_head)


# The MLP, norms and sums, as hand-written and fused kernels get them wrong.


@fault(at="h.{i}.mlp.c_fc", look_for="the derivative of GELU", taps=("h.{i}.mlp.gelu",))
def gelu_straight_through(_value: Tensor, op: Op) -> Tensor:
    """GELU hands its gradient on as it is."""
    return 1.0 * op.input("mlp.c_fc")


@fault(at="h.{i}.mlp.c_fc", look_for="inside the tanh", taps=("h.{i}.mlp.gelu",))
def gelu_inner_missing(_value: Tensor, op: Op) -> Tensor:
    """The derivative of GELU without the term from inside the tanh."""
    x = op.input("mlp.c_fc")
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + torch.tanh(inner).detach())


@fault(at="h.{i}.mlp.c_fc.bias", look_for="averaged", taps=("h.{i}.mlp.c_fc",))
def bias_averaged(_value: Tensor, op: Op) -> Tensor:
    """The gradient of c_fc's bias is averaged over the rows."""
    x, bias = op.input("ln_1"), op.parameter("mlp.c_fc.bias")
    fixed = bias.detach()
    share = (bias - fixed) / float(x.shape[0] * x.shape[1])
    return linear(x, op.parameter("mlp.c_fc.weight"), fixed) + share


@fault(at="h.{i}.mlp.c_proj.weight", look_for="no gradient ever reached it", taps=("h.{i}.mlp",))
def mlp_detached(value: Tensor, _op: Op) -> Tensor:
    """No gradient through the MLP."""
    return value.detach().requires_grad_()


@fault(at="h.{i}.ln_1.input", look_for="the gain is left out", taps=("h.{i}.ln_1",))
def norm_without_gain(_value: Tensor, op: Op) -> Tensor:
    """Layer norm's backward without the gain."""
    x, gain, bias = op.input("ln_1.input"), op.parameter("ln_1.weight"), op.parameter("ln_1.bias")
    normalized = layer_norm(x, torch.ones_like(gain), torch.zeros_like(bias), op.epsilon)
    return normalized + normalized.detach() * gain + bias


@fault(at="h.{i}.ln_1", look_for="counted twice", family="residual", taps=("h.{i}.ln_2.input",))
def residual_twice(value: Tensor, op: Op) -> Tensor:
    """The gradient through the residual around the MLP added twice."""
    return value + (op.input("ln_1") - op.input("ln_1").detach())


@fault(
    at="h.{i}.mlp.c_fc",
    look_for="numbers of bfloat16: an operation computes in it",
    family="precision",
    taps=("h.{i}.mlp.c_fc",),
    behind=True,
)
def gradient_bfloat16(value: Tensor, _op: Op) -> Tensor:
    """The gradient of c_fc's output rounded to bfloat16."""
    return _with_rounded_gradient(value, torch.bfloat16)


@fault(
    at="h.{i}.ln_1.input",
    look_for="numbers of float32: an operation computes in it",
    family="precision",
    taps=("h.{i}.ln_1.input",),
    behind=True,
)
def gradient_float32(value: Tensor, _op: Op) -> Tensor:
    """The gradient of the sum after attention rounded to float32."""
    return _with_rounded_gradient(value, torch.float32)


# Embeddings.


@fault(at="tokens_embed.weight", look_for="averaged", taps=("logits",))
def head_halved(_value: Tensor, op: Op) -> Tensor:
    """The head's and the lookup's gradients averaged, where they are added."""
    table = op.parameter("tokens_embed.weight")
    return op.input("<x") @ (0.5 * table + 0.5 * table.detach()).T


@fault(at="positions_embed.weight", look_for="averaged", taps=("embeddings.positions",))
def positions_averaged(value: Tensor, op: Op) -> Tensor:
    """The gradients of positions averaged over the batch."""
    return value / float(op.token_ids.shape[0])


def _with_rounded_gradient(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.clone()
    if value.requires_grad:
        value.register_hook(lambda gradient: rounded(gradient, dtype))  # type: ignore[no-untyped-call]
    return value


def _constant_variance(x: Tensor, epsilon: float) -> Tensor:
    """Return rows of mean 0 and variance 1; the variance has no gradient."""
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True).detach()
    return centered * torch.rsqrt(variance + epsilon)


def _first_row(x: Tensor) -> Tensor:
    """Return `[batch time 1]`: 1 at the first row of the first text, else 0."""
    row = x.new_zeros(*x.shape[:2], 1)
    row[0, 0] = 1.0
    return row


BACKWARD_FAULTS = faults_of(BackwardFault)
"""Every fault of the backward pass alone by name."""


def inject(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Raises:
        ValueError: The model's backend does not form the tap of the fault.
    """
    chosen, backend = BACKWARD_FAULTS[name], model.backend
    formed = [
        at for at in chosen.taps if at.removeprefix("h.{i}.") not in never_formed_kinds(backend)
    ]
    if not formed:
        message = (
            f"{name} is injected at {chosen.taps[0]}, which the backend {backend} does not form"
        )
        raise ValueError(message)
    at = formed[0].format(i=block)

    def tap_of(call: Call, tap: TapFunction) -> TapFunction:
        trace = Trace(call)

        def watched(name: str, value: Tensor) -> Tensor:
            op = trace.op(name)
            if name == at and not chosen.behind:
                value = grafted(value, chosen.code(value, op))
            value = trace.seen[name] = tap(name, value)
            if name == at and chosen.behind:
                value = grafted(value, chosen.code(value, op))
            return value

        return watched

    return with_tap(model, tap_of)


def grafted(value: Tensor, other: Tensor) -> Tensor:
    """Return the values of one tensor with the gradient of another of its shape."""
    if not torch.is_grad_enabled():
        return value
    return cast("Tensor", _Graft.apply(value.detach(), other))  # type: ignore[no-untyped-call]


class _Graft(Function):
    """The values of one tensor with the history of another."""

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
