"""GPT-1 as a table of operations: for each kind of tap, one plain torch function.

A function gets its inputs, the parameters and the arguments of the call, and returns the tap's
tensor. Faults replace entries of the table. It is never a reference, and uses no model class.

Source: finetune-transformer-lm train.py (a69b5c4); Radford et al. 2018.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from parity.core.lockstep import TapFunction
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One forward pass: the model's parameters and sizes, and the arguments.

    `token_ids` is `[batch time]`; `positions` is `[batch time]`, `[1 time]` or None for 0, 1, 2,
    ...; `mask` is `[batch time]`, bool, False at padding, or None without padding.
    """

    parameters: Mapping[str, Tensor]
    n_layer: int
    n_head: int
    epsilon: float
    token_ids: Tensor
    positions: Tensor | None = None
    mask: Tensor | None = None


class Op:
    """The context of one operation: its inputs, its parameters, and the arguments of the call.

    `seen` has the taps so far, as the model continued with them; `table` computes those that the
    model does not form; `block` is None outside the blocks.
    """

    def __init__(
        self,
        call: Call,
        seen: Mapping[str, Tensor],
        table: Mapping[str, "Operation"],
        block: int | None,
    ) -> None:
        self.token_ids, self.mask = call.token_ids, call.mask
        self.n_layer, self.n_head, self.epsilon = call.n_layer, call.n_head, call.epsilon
        self._call, self._seen, self._table, self._block = call, seen, table, block

    @property
    def positions(self) -> Tensor:
        """`[batch time]` or `[1 time]`: the position of each token."""
        if self._call.positions is not None:
            return self._call.positions
        return torch.arange(self.token_ids.shape[1], device=self.token_ids.device)[None]

    def input(self, kind: str) -> Tensor:
        """Return the tensor at a kind of tap; `<x` is the input of the block, or of the head.

        An input that the model does not form is computed by the table.
        """
        name = self._name(kind)
        return self._seen[name] if name in self._seen else self._table[kind](self)

    def is_formed(self, kind: str) -> bool:
        """Return whether the model has formed the tensor at a kind of tap."""
        return self._name(kind) in self._seen

    def parameter(self, name: str) -> Tensor:
        """Return a parameter of the block, or of the model outside the blocks."""
        return self._call.parameters[name if self._block is None else f"h.{self._block}.{name}"]

    def _name(self, kind: str) -> str:
        if kind == "<x":
            before = self._call.n_layer if self._block is None else self._block
            return f"h.{before - 1}.ln_2" if before > 0 else "embeddings"
        return kind if self._block is None else f"h.{self._block}.{kind}"


Operation = Callable[[Op], Tensor]

# The formulas.


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `x @ weight + bias`; `weight` is `[in, out]`."""
    return x @ weight + bias


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Return normalized rows: biased variance, epsilon inside the root."""
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True)
    return centered * torch.rsqrt(variance + epsilon) * gain + bias


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Return `[batch head time head_width]`: head `j` is the `j`-th run of features."""
    return x.reshape(*x.shape[:-1], n_head, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return `[batch time width]` from `[batch head time head_width]`."""
    return x.transpose(1, 2).flatten(-2)


def hidden(time: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """Return `[rows 1 time time]`: True where a query must not see a key.

    Later keys and padding are hidden. A position's own key never is, so rows of padding stay
    finite.
    """
    places = torch.arange(time, device=device)
    future = (places[None, :] > places[:, None])[None, None]
    if mask is None:
        return future
    return future | (~mask[:, None, None, :] & (places[None, :] != places[:, None]))


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis; the largest score is subtracted first."""
    exponentials = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def projection(op: Op, part: int) -> Tensor:
    """Return `[batch time width]`: a third of `c_attn`; 0 is query, 1 key, 2 value."""
    x = op.input("<x")
    columns = slice(part * x.shape[-1], (part + 1) * x.shape[-1])
    return linear(
        x, op.parameter("attn.c_attn.weight")[:, columns], op.parameter("attn.c_attn.bias")[columns]
    )


def normed(op: Op, kind: str, norm: str) -> Tensor:
    """Return the input of a kind, normalized with the parameters of a norm."""
    return layer_norm(
        op.input(kind), op.parameter(f"{norm}.weight"), op.parameter(f"{norm}.bias"), op.epsilon
    )


def _linear_of(kind: str, layer: str) -> Operation:
    return lambda op: linear(
        op.input(kind), op.parameter(f"{layer}.weight"), op.parameter(f"{layer}.bias")
    )


def _scores(op: Op) -> Tensor:
    query = op.input("attn.query")
    return (query * (1.0 / math.sqrt(query.shape[-1]))) @ op.input("attn.key").transpose(-2, -1)


def _weights(op: Op) -> Tensor:
    scores = op.input("attn.scores")
    return softmax(scores.masked_fill(hidden(scores.shape[-1], op.mask, scores.device), -math.inf))


def _gelu(op: Op) -> Tensor:
    x = op.input("mlp.c_fc")
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _loss(op: Op) -> Tensor:
    """Return `[batch time-1]`: the cross-entropy of each next token, in nats."""
    logits, targets = op.input("logits")[:, :-1], op.token_ids[:, 1:, None]
    return torch.logsumexp(logits, -1) - logits.gather(-1, targets.long())[..., 0]


OPERATIONS: dict[str, Operation] = {
    "embeddings.tokens": lambda op: op.parameter("tokens_embed.weight")[op.token_ids],
    "embeddings.positions": lambda op: op.parameter("positions_embed.weight")[op.positions],
    "embeddings": lambda op: op.input("embeddings.tokens") + op.input("embeddings.positions"),
    "attn.query": lambda op: split_heads(projection(op, 0), op.n_head),
    "attn.key": lambda op: split_heads(projection(op, 1), op.n_head),
    "attn.value": lambda op: split_heads(projection(op, 2), op.n_head),
    "attn.scores": _scores,
    "attn.weights": _weights,
    "attn.context": lambda op: merge_heads(op.input("attn.weights") @ op.input("attn.value")),
    "attn": _linear_of("attn.context", "attn.c_proj"),
    "ln_1.input": lambda op: op.input("<x") + op.input("attn"),
    "ln_1": lambda op: normed(op, "ln_1.input", "ln_1"),
    "mlp.c_fc": _linear_of("ln_1", "mlp.c_fc"),
    "mlp.gelu": _gelu,
    "mlp": _linear_of("mlp.gelu", "mlp.c_proj"),
    "ln_2.input": lambda op: op.input("ln_1") + op.input("mlp"),
    "ln_2": lambda op: normed(op, "ln_2.input", "ln_2"),
    "logits": lambda op: op.input("<x") @ op.parameter("tokens_embed.weight").T,
    "loss": _loss,
}
"""The operation of each kind of tap, in network order."""


class Trace:
    """The taps of one forward pass: those of the current block, and the block's input."""

    def __init__(self, call: Call, table: Mapping[str, Operation] = OPERATIONS) -> None:
        self.seen: dict[str, Tensor] = {}
        self._call, self._table = call, table
        self._block: int | None = None

    def op(self, name: str) -> Op:
        """Return the context of the operation whose tap comes next."""
        block, _ = split_name(name)
        if block != self._block:
            self._block = block
            self.seen = dict(list(self.seen.items())[-1:])
        return Op(self._call, self.seen, self._table, block)


def split_name(name: str) -> tuple[int | None, str]:
    """Return a tap's block, None outside the blocks, and its kind."""
    if not name.startswith("h."):
        return None, name
    _, block, kind = name.split(".", 2)
    return int(block), kind


def replacing(
    replaced: Mapping[str, Operation], call: Call, tap: TapFunction, block: int | None = None
) -> TapFunction:
    """Return a tap for one call that replaces operations, and forwards each result to `tap`.

    Where the model does not form the tensor of a replaced operation, the next tap that it forms
    is computed from the replaced operations instead. Operations are replaced in one block, or in
    all if it is None.
    """
    table = {**OPERATIONS, **replaced}
    trace = Trace(call, table)

    def watched(name: str, value: Tensor) -> Tensor:
        op = trace.op(name)
        at, kind = split_name(name)
        if (None in (at, block) or at == block) and _depends(kind, op, replaced):
            value = table[kind](op)
        result = trace.seen[name] = tap(name, value)
        return result

    return watched


def _depends(kind: str, op: Op, replaced: Mapping[str, Operation]) -> bool:
    """Return whether an operation is replaced, or one before it whose tensor is not formed."""
    return kind in replaced or any(
        before != "<x" and not op.is_formed(before) and _depends(before, op, replaced)
        for before in _INPUTS[kind]
    )


_INPUTS = {kind.name: kind.inputs for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)}
