"""The faults of the forward pass: operations done wrong, or wrong tensors.

An operation is an entry of the table in `parity.operations`. Re-implementations of GPT-1 really
have these faults. No two are equal, and each changes the logits.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from parity.faults.registry import Fault
from parity.operations import (
    OPERATIONS,
    Op,
    Operation,
    linear,
    merge_heads,
    normed,
    projection,
    softmax,
    split_heads,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardFault(Fault):
    """An operation done wrong; `code` is the operation at `at`, or several by kind of tap.

    `what`, "; " and `right` make one sentence.

    Attributes:
        right: What GPT-1 has instead, in a clause.
        fix: The right code, or what to do.
        inputs: Which ids show it, a key of `INPUTS`.
    """

    right: str
    fix: str
    inputs: str = "one row"

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The wrong operations by kind of tap."""
        named = isinstance(self.code, Mapping)
        return self.code if named else {self.at.removeprefix("h.{i}."): self.code}

    def tensors(self, _parameters: Mapping[str, Tensor], _block: int) -> Mapping[str, Tensor]:
        """Return the wrong parameters by name, given the right ones."""
        return {}


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


Faults = Mapping[str, tuple[str, Operation | Mapping[str, Operation]]]
"""Faults by name: what is wrong, and the code."""


def family(
    at: str, right: str, fix: str, faults: Faults, look_for: str | Sequence[str], **shared: str
) -> None:
    """Register faults that share the first tap that differs, what is right, and the fix.

    `look_for` is one text for all, or one for each; `shared` are other fields.
    """
    words = [look_for] * len(faults) if isinstance(look_for, str) else look_for
    for (name, (what, code)), word in zip(faults.items(), words, strict=True):
        details: dict[str, Any] = {"right": right, "fix": fix, "look_for": word, **shared}
        ForwardFault.register(name, what, at=at, **details)(code)


def sum_of(*kinds: str) -> Operation:
    """Return the sum of some tensors."""

    def operation(op: Op) -> Tensor:
        first, *others = map(op.input, kinds)
        return sum(others, first)

    return operation


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor with the rounding of another dtype."""
    return x.to(dtype).to(x.dtype)


class _Narrow:
    """The context of an operation whose inputs and parameters are rounded to another dtype."""

    def __init__(self, op: Op, dtype: torch.dtype) -> None:
        self._op, self._dtype = op, dtype

    def __getattr__(self, name: str) -> object:
        return getattr(self._op, name)

    def input(self, kind: str) -> Tensor:
        return rounded(self._op.input(kind), self._dtype)

    def parameter(self, name: str) -> Tensor:
        return rounded(self._op.parameter(name), self._dtype)


def narrow(*kinds: str, dtype: torch.dtype) -> dict[str, Operation]:
    """Return operations computed once in another dtype: inputs, parameters and result rounded."""

    def operation(kind: str) -> Operation:
        return lambda op: rounded(OPERATIONS[kind](cast("Op", _Narrow(op, dtype))), dtype)

    return {kind: operation(kind) for kind in kinds}


Norm = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""A layer norm: a function of the input, gain, bias and epsilon."""


def normed_by(function: Norm) -> dict[str, Operation]:
    """Return both norms done wrong."""

    def operation(op: Op, norm: str) -> Tensor:
        gain, bias = op.parameter(f"{norm}.weight"), op.parameter(f"{norm}.bias")
        return function(op.input(f"{norm}.input"), gain, bias, op.epsilon)

    return {norm: partial(operation, norm=norm) for norm in ("ln_1", "ln_2")}


def dropped(kind: str) -> Operation:
    """Return an operation followed by dropout, of the same elements at each call."""

    def operation(op: Op) -> Tensor:
        x = OPERATIONS[kind](op)
        draws = torch.Generator(x.device).manual_seed(0)
        kept = torch.rand(x.shape, generator=draws, device=x.device) >= _PROBABILITY
        return x * kept / (1.0 - _PROBABILITY)

    return operation


_PROBABILITY = 0.1


# Embeddings.


def looked_up(places: Callable[[Op], Tensor]) -> Operation:
    """Return the rows of wrong positions."""

    def operation(op: Op) -> Tensor:
        table = op.parameter("positions_embed.weight")
        return table[places(op) % len(table)]

    return operation


def _sinusoids(op: Op) -> Tensor:
    """Return `[rows time width]`: sines at even features, cosines at odd ones."""
    table = op.parameter("positions_embed.weight")
    features = torch.arange(table.shape[1], device=table.device)
    rates = 10_000.0 ** (-(features - features % 2).to(table.dtype) / table.shape[1])
    return torch.sin(op.positions[..., None] * rates + (features % 2) * (math.pi / 2))


def _skipping_id_0(op: Op) -> Tensor:
    places = ((op.token_ids != 0).long().cumsum(-1) - 1).clamp(min=0)
    return op.input("embeddings.tokens") + op.parameter("positions_embed.weight")[places]


def _embedded(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """Return a wrong sum of the embeddings of tokens and of positions."""
    return lambda op: function(op.input("embeddings.tokens"), op.input("embeddings.positions"))


def bare_norm(x: Tensor) -> Tensor:
    """Return normalized rows, without gain and bias."""
    return functional.layer_norm(x, x.shape[-1:])


@TensorFault.register(
    right="its first rows are those of the tokens",
    fix="tokens, positions = table[:vocab_size], table[vocab_size:]",
    at="embeddings.tokens",
    look_for="reordered",
)
def tables_exchanged(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """The joined table read as positions and then tokens."""
    tokens, positions = "tokens_embed.weight", "positions_embed.weight"
    joined = torch.cat((parameters[tokens], parameters[positions]))
    first = len(parameters[positions])
    return {positions: joined[:first], tokens: joined[first:]}


family(
    "embeddings.tokens",
    "id n is row n of the table",
    "tokens_embed(ids)",
    {
        "ids-shifted": (
            "each id takes the next row",
            lambda op: op.parameter("tokens_embed.weight").roll(-1, 0)[op.token_ids],
        )
    },
    look_for="shifted by one",
)
family(
    "embeddings.positions",
    "GPT-1 counts every token, from 0",
    "positions_embed(torch.arange(ids.shape[1]))",
    {
        "positions-from-one": ("positions counted from 1", looked_up(lambda op: op.positions + 1)),
        "positions-from-two": ("positions counted from 2", looked_up(lambda op: op.positions + 2)),
        "positions-zero": ("every token at position 0", looked_up(lambda op: 0 * op.positions)),
        "positions-reversed": (
            "positions counted from the end",
            looked_up(lambda op: op.positions.flip(-1)),
        ),
    },
    look_for=(
        "positions counted from 1",
        "positions counted from 1",
        "all at position 0",
        "from the end",
    ),
)
family(
    "embeddings.positions",
    "GPT-1 has a trained table",
    "positions_embed = nn.Embedding(n_positions, n_embd)",
    {"positions-sinusoidal": ("sines and cosines for positions", _sinusoids)},
    look_for="sinusoidal",
)
family(
    "embeddings",
    "GPT-1 adds a token's row and a position's row, and nothing else",
    "tokens_embed(ids) + positions_embed(places)",
    {
        "positions-missing": ("no positions", _embedded(lambda tokens, _: tokens)),
        "embeddings-scaled": (
            "embeddings multiplied by sqrt(n_embd)",
            _embedded(lambda tokens, places: (tokens + places) * math.sqrt(tokens.shape[-1])),
        ),
        "token-embeddings-scaled": (
            "token embeddings multiplied by sqrt(n_embd)",
            _embedded(lambda tokens, places: tokens * math.sqrt(tokens.shape[-1]) + places),
        ),
        "token-types-added": (
            "token types of 0 added, which take row 0 of the token table",
            lambda op: OPERATIONS["embeddings"](op) + op.parameter("tokens_embed.weight")[0],
        ),
        "embeddings-normalized": (
            "a layer norm after the embeddings",
            _embedded(lambda tokens, places: bare_norm(tokens + places)),
        ),
    },
    look_for=(
        "positions missing",
        "scaled by sqrt(n_embd)",
        "scaled by sqrt(n_embd)",
        "token types",
        "a norm",
    ),
)
family(
    "embeddings",
    "GPT-1 counts every token",
    "positions_embed(torch.arange(ids.shape[1]))",
    {"positions-skip-id-0": ("positions not counted at id 0, as at padding", _skipping_id_0)},
    look_for="padding",
)
family(
    "embeddings",
    "it is for training alone",
    "model.eval()",
    {
        "dropout-left-on": (
            "dropout left on",
            {kind: dropped(kind) for kind in ("embeddings", "attn.weights", "attn", "mlp")},
        )
    },
    look_for="dropout left on",
    family="dropout",
)


# Query, key and value.

Projection = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A linear layer: a function of the input, the weight `[in, out]` and the bias."""


def _qkv(function: Callable[[Op, int], Tensor]) -> dict[str, Operation]:
    """Return query, key and value by a function of the context and the part: 0, 1 or 2."""

    def operation(part: int) -> Operation:
        return lambda op: function(op, part)

    kinds = ("attn.query", "attn.key", "attn.value")
    return {kind: operation(part) for part, kind in enumerate(kinds)}


def _order(*places: int) -> dict[str, Operation]:
    """Return those of query, key and value that come from another third of `c_attn`."""
    every = _qkv(lambda op, part: split_heads(projection(op, places[part]), op.n_head))
    return {kind: every[kind] for part, kind in enumerate(every) if places[part] != part}


def projected(function: Projection, norm: str | None = None) -> dict[str, Operation]:
    """Return query, key and value by a wrong linear layer, or of a normalized input."""

    def operation(op: Op, part: int) -> Tensor:
        x = op.input("<x") if norm is None else normed(op, "<x", norm)
        columns = slice(part * x.shape[-1], (part + 1) * x.shape[-1])
        weight, bias = op.parameter("attn.c_attn.weight"), op.parameter("attn.c_attn.bias")
        return split_heads(function(x, weight[:, columns], bias[columns]), op.n_head)

    return _qkv(operation)


def _heads(step: int) -> dict[str, Operation]:
    """Return the next number of heads that divides the width, in steps of 1 or -1."""

    def operation(op: Op, part: int) -> Tensor:
        x = projection(op, part)
        width = x.shape[-1]
        counts = range(op.n_head + step, width + 1 if step > 0 else 0, step)
        return split_heads(x, next((n for n in counts if width % n == 0), op.n_head))

    return _qkv(operation)


def _packed_by_head(op: Op, part: int) -> Tensor:
    packed = torch.cat([projection(op, third) for third in range(3)], -1)
    return packed.reshape(*packed.shape[:2], op.n_head, 3, -1)[..., part, :].transpose(1, 2)


def _interleaved(op: Op, part: int) -> Tensor:
    x = projection(op, part)
    return x.reshape(*x.shape[:2], -1, op.n_head).permute(0, 3, 1, 2)


def _not_transposed(op: Op, part: int) -> Tensor:
    x = projection(op, part)
    return x.reshape(x.shape[0], op.n_head, x.shape[1], -1)


family(
    "h.{i}.attn.query",
    "c_attn holds query, key and value in this order",
    "query, key, value = c_attn(x).split(n_embd, dim=2)",
    {
        "query-key-swapped": ("query and key swapped", _order(1, 0, 2)),
        "query-value-swapped": ("query and value swapped", _order(2, 1, 0)),
        "order-key-value-query": ("c_attn read as key, value, query", _order(2, 0, 1)),
        "order-value-query-key": ("c_attn read as value, query, key", _order(1, 2, 0)),
        "packed-by-head": ("c_attn read as query, key, value of each head", _qkv(_packed_by_head)),
    },
    look_for="order not query, key, value",
)
family(
    "h.{i}.attn.key",
    "c_attn holds query, key and value in this order",
    "query, key, value = c_attn(x).split(n_embd, dim=2)",
    {"key-value-swapped": ("key and value swapped", _order(0, 2, 1))},
    look_for="order not query, key, value",
)
family(
    "h.{i}.attn.query",
    "each head takes a run of features",
    "query.view(batch, time, n_head, -1).transpose(1, 2)",
    {
        "heads-interleaved": ("heads take every n_head-th feature", _qkv(_interleaved)),
        "heads-split-without-transpose": ("heads without the transpose", _qkv(_not_transposed)),
    },
    look_for=("heads interleaved", "without transpose"),
)
family(
    "h.{i}.attn.query",
    "GPT-1 has 12, which no weight shows",
    "n_head=12",
    {"heads-fewer": ("too few heads", _heads(-1)), "heads-more": ("too many heads", _heads(1))},
    look_for="[batch head time head_width]",
)


# Scores.


def _scored(scale: Callable[[Op, int], float]) -> Operation:
    """Return scores multiplied by a function of the context and the head's width."""

    def operation(op: Op) -> Tensor:
        query, key = op.input("attn.query"), op.input("attn.key")
        return (query @ key.transpose(-2, -1)) * scale(op, query.shape[-1])

    return operation


def _query_with_itself(op: Op) -> Tensor:
    query = op.input("attn.query")
    return query @ query.transpose(-2, -1) / math.sqrt(query.shape[-1])


family(
    "h.{i}.attn.scores",
    "GPT-1 divides scores by the root of the head's width",
    "query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])",
    {
        "scale-missing": ("scores not divided", _scored(lambda _op, _width: 1.0)),
        "scale-without-root": (
            "scores divided by the head's width, or twice by its root",
            _scored(lambda _op, width: 1.0 / width),
        ),
        "scale-of-width": (
            "scores divided by sqrt(n_embd)",
            _scored(lambda op, width: 1.0 / math.sqrt(op.n_head * width)),
        ),
        "scale-of-heads": (
            "scores divided by sqrt(n_head)",
            _scored(lambda op, _width: 1.0 / math.sqrt(op.n_head)),
        ),
        "scale-inverted": (
            "scores multiplied by the root of the head's width",
            _scored(lambda _op, width: math.sqrt(width)),
        ),
        "scale-after-softmax": (
            "weights divided after the softmax",
            {
                "attn.scores": _scored(lambda _op, _width: 1.0),
                "attn.weights": lambda op: (
                    OPERATIONS["attn.weights"](op) / math.sqrt(op.input("attn.query").shape[-1])
                ),
            },
        ),
    },
    look_for="the scale",
)
family(
    "h.{i}.attn.scores",
    "rows are queries and columns are keys",
    "query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])",
    {
        "query-with-itself": ("scores of queries with queries", _query_with_itself),
        "scores-transposed": (
            "scores transposed",
            lambda op: OPERATIONS["attn.scores"](op).transpose(-2, -1),
        ),
    },
    look_for=("query with itself", "transposed"),
)


# Mask and softmax.

_LOW = -1e9
"""The score of a hidden key where a row may have no other: softmax of -inf alone is NaN."""


def _masked(
    visible: Callable[[Tensor], Tensor],
    *,
    hidden: float = -math.inf,
    function: Callable[[Tensor], Tensor] = softmax,
) -> Operation:
    """Return attention weights where a query sees what `visible` leaves of `[time time]`."""

    def operation(op: Op) -> Tensor:
        scores = op.input("attn.scores")
        seen = visible(torch.ones_like(scores[0, 0], dtype=torch.bool))
        return function(scores.masked_fill(~seen, hidden))

    return operation


family(
    "h.{i}.attn.weights",
    "in GPT-1 a position sees itself and those before",
    'scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))',
    {
        "mask-missing": ("no causal mask", _masked(lambda every: every)),
        "mask-off-by-one": ("each position sees the next", _masked(lambda every: every.tril(1))),
        "mask-strict": (
            "no position sees itself",
            _masked(lambda every: every.tril(-1), hidden=_LOW),
        ),
        "mask-strict-empty": (
            "no position sees itself, and the first sees nothing",
            _masked(lambda every: every.tril(-1), function=lambda x: softmax(x).nan_to_num(0.0)),
        ),
        "mask-upside-down": ("the mask upside down", _masked(torch.triu)),
        "mask-inverted": ("the mask inverted", _masked(lambda every: every.triu(1), hidden=_LOW)),
        "mask-window": (
            "each position sees only itself and the one before",
            _masked(lambda every: every.tril().triu(-1)),
        ),
    },
    look_for="mask",
    family="mask",
)
family(
    "h.{i}.attn.weights",
    "a hidden key has weight 0, and the others of a row add up to 1",
    'scores.masked_fill(hidden, float("-inf")).softmax(-1)',
    {
        "mask-zero": ("hidden scores set to 0", _masked(torch.tril, hidden=0.0)),
        "mask-minus-ten": ("hidden scores set to -10", _masked(torch.tril, hidden=-10.0)),
        "mask-added": (
            "a mask of 0 and 1 added to the scores",
            lambda op: softmax(op.input("attn.scores") + _causal(op)),
        ),
        "mask-after-softmax": (
            "the mask after the softmax",
            lambda op: softmax(op.input("attn.scores")) * _causal(op),
        ),
    },
    look_for="mask",
    family="mask",
)
family(
    "h.{i}.attn.weights",
    "GPT-1 has a softmax over the keys",
    "scores.softmax(-1)",
    {
        "softmax-over-queries": (
            "softmax over the queries",
            _masked(torch.tril, function=partial(torch.softmax, dim=-2)),
        ),
        "softmax-over-heads": (
            "softmax over the heads",
            _masked(torch.tril, hidden=_LOW, function=partial(torch.softmax, dim=1)),
        ),
        "softmax-missing": (
            "no softmax",
            _masked(torch.tril, hidden=0.0, function=lambda scores: scores),
        ),
    },
    look_for=("softmax not over keys", "softmax not over keys", "no softmax"),
    family="softmax",
)
family(
    "h.{i}.attn.weights",
    "the model has a wider dtype",
    "scores.float().softmax(-1), outside autocast",
    {
        "softmax-bfloat16": (
            "the softmax in bfloat16",
            narrow("attn.weights", dtype=torch.bfloat16),
        ),
        "softmax-float16": ("the softmax in float16", narrow("attn.weights", dtype=torch.float16)),
    },
    look_for="an operation computes in it",
    family="precision",
)
family(
    "h.{i}.attn.weights",
    "it is for training alone",
    "functional.dropout(weights, p, training=self.training)",
    {"attention-dropout-left-on": ("attention's dropout left on", dropped("attn.weights"))},
    look_for="dropout left on",
    family="dropout",
)


# Context and output projection.


def _causal(op: Op) -> Tensor:
    """Return `[time time]`: 1 where a query sees a key, 0 elsewhere."""
    return torch.ones_like(op.input("attn.scores")[0, 0]).tril()


def _merged(function: Callable[[Tensor], Tensor]) -> Operation:
    """Return heads `[batch head time head_width]` merged by a function."""
    return lambda op: function(op.input("attn.weights") @ op.input("attn.value"))


family(
    "h.{i}.attn.context",
    "the features of a head stay together",
    "(weights @ value).transpose(1, 2).reshape(batch, time, n_embd)",
    {
        "heads-merged-without-transpose": (
            "heads merged without the transpose",
            _merged(lambda x: x.reshape(x.shape[0], x.shape[2], -1)),
        ),
        "heads-merged-interleaved": (
            "heads merged feature by feature",
            _merged(lambda x: x.permute(0, 2, 3, 1).flatten(-2)),
        ),
    },
    look_for="heads merged",
)
family(
    "h.{i}.attn.context",
    "the last axis of the weights is the keys",
    "weights @ value",
    {
        "weights-transposed": (
            "attention weights transposed",
            lambda op: merge_heads(
                op.input("attn.weights").transpose(-2, -1) @ op.input("attn.value")
            ),
        )
    },
    look_for="weights transposed",
)
family(
    "h.{i}.attn",
    "GPT-1 has c_proj there",
    "c_proj(context)",
    {"projection-missing": ("no projection after attention", sum_of("attn.context"))},
    look_for="no c_proj",
)


# Linear layers, of attention and of the MLP.


def linear_of(kind: str, layer: str, function: Projection = linear) -> Operation:
    """Return a linear layer of another input, or done wrong."""
    return lambda op: function(
        op.input(kind), op.parameter(f"{layer}.weight"), op.parameter(f"{layer}.bias")
    )


def _every(function: Projection) -> dict[str, Operation]:
    """Return all linear layers done wrong."""
    return {
        **projected(function),
        "attn": linear_of("attn.context", "attn.c_proj", function),
        "mlp.c_fc": linear_of("ln_1", "mlp.c_fc", function),
        "mlp": linear_of("mlp.gelu", "mlp.c_proj", function),
    }


def _transposed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear(x, weight.T, bias)


def _reshaped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer with a weight that was read as `[out, in]`, and then transposed."""
    return linear(x, weight.reshape(weight.T.shape).T, bias)


def _without_bias(x: Tensor, weight: Tensor, _bias: Tensor) -> Tensor:
    return x @ weight


def _c_attn_reshaped(op: Op, part: int) -> Tensor:
    weight, bias = op.parameter("attn.c_attn.weight"), op.parameter("attn.c_attn.bias")
    return split_heads(_reshaped(op.input("<x"), weight, bias).chunk(3, -1)[part], op.n_head)


_BIASES = _every(_without_bias)

_LAYOUTS: Mapping[str, Faults] = {
    "h.{i}.attn.query": {
        "qkv-transposed": ("the square thirds of c_attn transposed", projected(_transposed)),
        "c-attn-reshaped": ("c_attn reshaped, not transposed", _qkv(_c_attn_reshaped)),
    },
    "h.{i}.attn": {
        "projection-transposed": (
            "the square c_proj of attention transposed",
            _every(_transposed)["attn"],
        )
    },
    "h.{i}.mlp.c_fc": {
        "c-fc-reshaped": ("c_fc reshaped, not transposed", _every(_reshaped)["mlp.c_fc"])
    },
    "h.{i}.mlp": {
        "mlp-c-proj-reshaped": (
            "the MLP's c_proj reshaped, not transposed",
            _every(_reshaped)["mlp"],
        )
    },
}
for _at, _faults in _LAYOUTS.items():
    family(
        _at,
        "the weight is [in, out]",
        "x @ weight + bias; of an nn.Linear, linear.weight.copy_(weight.T)",
        _faults,
        look_for="c_proj transposed" if _at == "h.{i}.attn" else "[out, in]",
        family="linear",
    )

_DROPPED_BIASES: Mapping[str, Faults] = {
    "h.{i}.attn.query": {
        "c-attn-bias-dropped": ("the bias of c_attn dropped", projected(_without_bias)),
        "biases-dropped": ("the biases of all linear layers dropped", _BIASES),
    },
    "h.{i}.attn": {
        "attn-c-proj-bias-dropped": ("the bias of attention's c_proj dropped", _BIASES["attn"])
    },
    "h.{i}.mlp.c_fc": {"bias-dropped": ("the bias of c_fc dropped", _BIASES["mlp.c_fc"])},
    "h.{i}.mlp": {
        "mlp-c-proj-bias-dropped": ("the bias of the MLP's c_proj dropped", _BIASES["mlp"])
    },
}
for _at, _faults in _DROPPED_BIASES.items():
    right, fix = "each linear layer of GPT-1 has one", "x @ weight + bias"
    family(_at, right, fix, _faults, look_for="bias dropped", family="linear")
