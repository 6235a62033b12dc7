"""Faults of the forward pass: operations done wrong, or wrong tensors.

An operation is an entry of the table in `parity.operations`. Re-implementations of GPT-1 really
have these faults.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn

from parity.core.lockstep import TapFunction
from parity.core.taps import BLOCK_KINDS, NEVER_FORMED
from parity.faults.registry import Fault, faults_of
from parity.operations import (
    Call,
    Op,
    Operation,
    layer_norm,
    normed,
    projection,
    replacing,
    softmax,
    split_heads,
)
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap


class ForwardFault(Fault):
    """An operation done wrong; `code` is the operation at `at`, or several by kind of tap."""

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The wrong operations by kind of tap."""
        named = isinstance(self.code, Mapping)
        return self.code if named else {self.at.removeprefix("h.{i}."): self.code}

    def tensors(self, _parameters: Mapping[str, Tensor], _block: int) -> Mapping[str, Tensor]:
        """Return the wrong parameters by name, given the right ones."""
        return {}

    def first_seen(self, block: int = 0, backend: str = "plain", **names: object) -> str:
        """Return the first tap that differs: where a tensor is not formed, the next one."""
        tap = super().first_seen(block, backend, **names)
        kinds = [kind.name for kind in BLOCK_KINDS]
        while (kind := tap.split(".", 2)[-1]) in NEVER_FORMED[backend]:
            tap = tap.removesuffix(kind) + kinds[kinds.index(kind) + 1]
        return tap


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFault(ForwardFault):
    """Wrong tensors; `code(parameters, block)` returns them by name.

    A name that the model does not have becomes a parameter, which `reads` uses: operations by kind
    of tap.
    """

    reads: Mapping[str, Operation] = dataclasses.field(default_factory=dict)

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The operations that use added parameters."""
        return self.reads

    def tensors(self, parameters: Mapping[str, Tensor], block: int) -> Mapping[str, Tensor]:
        """Return the wrong parameters by name, given the right ones."""
        return cast("Mapping[str, Tensor]", self.code(parameters, block))


@ForwardFault.register("erf-gelu", "the erf GELU for the tanh form", at="h.{i}.mlp.gelu")
def _(op: Op) -> Tensor:
    x = op.input("mlp.c_fc")
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


@ForwardFault.register("epsilon", "layer-norm epsilon 1e-6 for 1e-5", at="h.{i}.ln_1")
def _(op: Op) -> Tensor:
    gain, bias = op.parameter("ln_1.weight"), op.parameter("ln_1.bias")
    return layer_norm(op.input("ln_1.input"), gain, bias, 1e-6)


@ForwardFault.register("unbiased-variance", "variance divided by width - 1", at="h.{i}.ln_1")
def _(op: Op) -> Tensor:
    x = op.input("ln_1.input")
    variance = x.var(-1, keepdim=True, unbiased=True)
    centered = x - x.mean(-1, keepdim=True)
    normalized = centered * torch.rsqrt(variance + op.epsilon)
    return normalized * op.parameter("ln_1.weight") + op.parameter("ln_1.bias")


ForwardFault.register("norms-swapped", "ln_1 and ln_2 swapped", at="h.{i}.ln_1")(
    {
        "ln_1": lambda op: normed(op, "ln_1.input", "ln_2"),
        "ln_2": lambda op: normed(op, "ln_2.input", "ln_1"),
    }
)


@ForwardFault.register("affine-ignored", "gain and bias of ln_1 ignored", at="h.{i}.ln_1")
def _(op: Op) -> Tensor:
    return _bare_norm(op, "ln_1.input")


def _bare_norm(op: Op, kind: str) -> Tensor:
    """Return an input normalized without gain and bias."""
    x = op.input(kind)
    return layer_norm(x, x.new_ones(x.shape[-1]), x.new_zeros(x.shape[-1]), op.epsilon)


@ForwardFault.register("no-mlp-residual", "the MLP's residual missing", at="h.{i}.ln_2.input")
def _(op: Op) -> Tensor:
    return op.input("mlp")


ForwardFault.register("norm-inside-residual", "x + ln(attn(x))", at="h.{i}.ln_1.input")(
    {
        "ln_1.input": lambda op: op.input("attn"),
        "ln_1": lambda op: op.input("<x") + normed(op, "ln_1.input", "ln_1"),
    }
)


@TensorFault.register(
    "projection-transposed", "the square c_proj of attention transposed", at="h.{i}.attn"
)
def _(parameters: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    name = f"h.{block}.attn.c_proj.weight"
    return {name: parameters[name].T}


def _interleaved(part: int) -> Operation:
    def operation(op: Op) -> Tensor:
        x = projection(op, part)
        batch, time, width = x.shape
        return x.reshape(batch, time, width // op.n_head, op.n_head).permute(0, 3, 1, 2)

    return operation


ForwardFault.register(
    "heads-interleaved", "heads take every n_head-th feature", at="h.{i}.attn.query"
)({"attn.query": _interleaved(0), "attn.key": _interleaved(1), "attn.value": _interleaved(2)})

ForwardFault.register("query-key-swapped", "query and key swapped", at="h.{i}.attn.query")(
    {
        "attn.query": lambda op: split_heads(projection(op, 1), op.n_head),
        "attn.key": lambda op: split_heads(projection(op, 0), op.n_head),
    }
)


@ForwardFault.register("scale-missing", "scores not divided by the root", at="h.{i}.attn.scores")
def _(op: Op) -> Tensor:
    return op.input("attn.query") @ op.input("attn.key").transpose(-2, -1)


@ForwardFault.register("mask-off-by-one", "each position sees the next", at="h.{i}.attn.weights")
def _(op: Op) -> Tensor:
    scores = op.input("attn.scores")
    visible = torch.ones_like(scores[0, 0], dtype=torch.bool).tril(1)
    return softmax(scores.masked_fill(~visible, -math.inf))


@ForwardFault.register("positions-from-one", "positions counted from 1", at="embeddings.positions")
def _(op: Op) -> Tensor:
    table = op.parameter("positions_embed.weight")
    return table[(op.positions + 1) % len(table)]


@TensorFault.register("string-order", "blocks sorted as strings: 0 1 10 11 2", at="h.2.attn.query")
def _(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    names = [name.split(".", 2) for name in parameters if name.startswith("h.")]
    order = sorted({index for _, index, _ in names})
    return {
        f"h.{int(index)}.{part}": parameters[f"h.{order[int(index)]}.{part}"]
        for _, index, part in names
    }


@TensorFault.register("bias-dropped", "the bias of c_fc dropped", at="h.7.mlp.c_fc")
def _(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    name = "h.7.mlp.c_fc.bias"
    return {name: torch.zeros_like(parameters[name])}


@ForwardFault.register("final-norm", "an extra norm before the head", at="logits")
def _(op: Op) -> Tensor:
    return _bare_norm(op, "<x") @ op.parameter("tokens_embed.weight").T


@TensorFault.register(
    "untied-head",
    "a head that is not the embedding",
    at="logits",
    reads={"embeddings.tokens": lambda op: op.parameter("tokens_embed.table")[op.token_ids]},
)
def _(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    table = parameters["tokens_embed.weight"]
    return {"tokens_embed.weight": table.flip(0), "tokens_embed.table": table}


@TensorFault.register("weight-off", "one weight of c_fc off by 1e-4", at="h.{i}.mlp.c_fc")
def _(parameters: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    name = f"h.{block}.mlp.c_fc.weight"
    weight = parameters[name].clone()
    weight[1, 2] += 1e-4
    return {name: weight}


FORWARD_FAULTS = faults_of(ForwardFault)
"""Every fault of the forward pass by name."""


def inject(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of a model, with storage of its own, that has a fault in one block.

    Copies of it have the fault too. Only `forward` has it; `hidden`, a generator or another backend
    made of the model have wrong tensors alone.

    Raises:
        ValueError: The model has too few blocks for the fault.
    """
    chosen = FORWARD_FAULTS[name]
    faulty = with_tap(model, lambda call, tap: replacing(chosen.operations, call, tap, block))
    held = dict(faulty.named_parameters())
    with torch.no_grad():
        try:
            wrong = {key: t.clone() for key, t in chosen.tensors(held, block).items()}
        except KeyError as error:
            message = f"{name} needs the tensor {error}, which the model does not have"
            raise ValueError(message) from error
        for key, tensor in wrong.items():
            if key in held:
                held[key].copy_(tensor)
            else:
                owner, _, attribute = key.rpartition(".")
                faulty.get_submodule(owner).register_parameter(attribute, nn.Parameter(tensor))
    return faulty


def with_tap(model: GPT, tap_of: Callable[[Call, TapFunction], TapFunction]) -> GPT:
    """Return a copy of a model whose forward pass runs inside a tap of its own.

    `tap_of` makes the tap of one forward pass from the call and the caller's tap.
    """
    right = model.forward.__func__  # type: ignore[attr-defined]

    def forward(  # noqa: PLR0913 - the model's own signature
        self: GPT,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        if cache is not None:
            message = "a model with an injected fault runs without a cache"
            raise ValueError(message)
        call = Call(
            parameters=dict(self.named_parameters()),
            n_layer=self.config.n_layer,
            n_head=self.config.n_head,
            epsilon=self.config.layer_norm_epsilon,
            token_ids=token_ids,
            positions=positions,
            mask=attention_mask,
        )
        inner = tap_of(call, tap or no_tap)
        logits: Tensor = right(self, token_ids, positions, attention_mask, tap=inner)
        return logits

    faulty = copy.deepcopy(model)
    faulty.forward = MethodType(forward, faulty)  # type: ignore[method-assign]
    return faulty
