"""Faults of the forward pass that only some ids, lengths, batches or dtypes show.

Precision, dropout, padding, rows of a batch, tiles of a kernel, and forms that are equivalent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from parity.core.inputs import Inputs, seeded
from parity.faults.forward_faults import Faults, dropped, family, looked_up, narrow, normed_by
from parity.operations import OPERATIONS, Op, Operation, hidden, layer_norm, merge_heads, softmax

# Inputs.

TILE = 64
"""Queries of a tile, as in the tiled kernel."""


def _rows(batch: int, time: int) -> Callable[[int, int], Inputs]:
    return lambda size, seed: seeded(batch=batch, time=time, vocab_size=size, seed=seed)


def _padded(size: int, seed: int) -> Inputs:
    """Three rows, two of them padded on the left; each row counts its own positions from 0."""
    ids = _rows(3, 11)(size, seed).token_ids
    mask = torch.arange(11) >= torch.tensor([4, 0, 7])[:, None]
    return Inputs(
        token_ids=ids, positions=(mask.long().cumsum(-1) - 1).clamp(min=0), attention_mask=mask
    )


INPUTS: dict[str, Callable[[int, int], Inputs]] = {
    "one row": _rows(1, 37),
    "three rows": _rows(3, 11),
    "one token": _rows(1, 1),
    "two tiles": _rows(1, TILE + 13),
    "padding": _padded,
    "another epsilon": _rows(1, 11),
}
"""Inputs by name: functions of the vocabulary's size and a seed. Those of `another epsilon` need a
model whose config has one."""


def _places(op: Op) -> tuple[Tensor, Tensor]:
    """Return the numbers of queries `[time 1]` and of keys `[1 time]`."""
    numbers = torch.arange(op.token_ids.shape[1], device=op.token_ids.device)
    return numbers[:, None], numbers[None, :]


# Precision.


_QKV = ("attn.query", "attn.key", "attn.value")
_half, _single = (partial(narrow, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))

_NARROWED: Mapping[str, Faults] = {
    "embeddings": {
        "embeddings-bfloat16": ("the embeddings in bfloat16", _half("embeddings")),
        "embeddings-float32": ("the embeddings in float32", _single("embeddings")),
    },
    "h.{i}.attn.query": {
        "qkv-bfloat16": ("query, key and value in bfloat16", _half(*_QKV)),
        "qkv-float32": ("query, key and value in float32", _single(*_QKV)),
    },
    "h.{i}.attn.scores": {
        "scores-bfloat16": ("the scores in bfloat16", _half("attn.scores")),
        "scores-float32": ("the scores in float32", _single("attn.scores")),
    },
    "h.{i}.attn.weights": {"softmax-float32": ("the softmax in float32", _single("attn.weights"))},
    "h.{i}.attn.context": {
        "context-bfloat16": (
            "the product of weights and values in bfloat16",
            _half("attn.context"),
        ),
        "context-float32": (
            "the product of weights and values in float32",
            _single("attn.context"),
        ),
    },
    "h.{i}.attn": {
        "attn-c-proj-bfloat16": ("attention's c_proj in bfloat16", _half("attn")),
        "attn-c-proj-float32": ("attention's c_proj in float32", _single("attn")),
    },
    "h.{i}.ln_1.input": {
        "attention-sum-bfloat16": ("the sum after attention in bfloat16", _half("ln_1.input")),
        "attention-sum-float32": ("the sum after attention in float32", _single("ln_1.input")),
    },
    "h.{i}.ln_1": {"norm-float32": ("the norms in float32", _single("ln_1", "ln_2"))},
    "h.{i}.mlp.c_fc": {
        "c-fc-bfloat16": ("c_fc in bfloat16", _half("mlp.c_fc")),
        "c-fc-float32": ("c_fc in float32", _single("mlp.c_fc")),
    },
    "h.{i}.mlp.gelu": {"gelu-float32": ("GELU in float32", _single("mlp.gelu"))},
    "h.{i}.mlp": {
        "mlp-c-proj-bfloat16": ("the MLP's c_proj in bfloat16", _half("mlp")),
        "mlp-c-proj-float32": ("the MLP's c_proj in float32", _single("mlp")),
    },
    "h.{i}.ln_2.input": {
        "mlp-sum-bfloat16": ("the sum after the MLP in bfloat16", _half("ln_2.input")),
        "mlp-sum-float32": ("the sum after the MLP in float32", _single("ln_2.input")),
    },
    "logits": {
        "logits-bfloat16": ("the head in bfloat16", _half("logits")),
        "logits-float32": ("the head in float32", _single("logits")),
    },
}
for _at, _faults in _NARROWED.items():
    family(
        _at,
        "the model has a wider dtype",
        "the same without .float() and .bfloat16(), outside autocast",
        _faults,
        look_for="an operation computes in it",
        family="precision",
    )


# Dropout.

_DROPPED: Mapping[str, Faults] = {
    "embeddings": {
        "embedding-dropout-left-on": ("dropout of the embeddings left on", dropped("embeddings")),
        "embedding-dropout-scaled": (
            "embeddings scaled by 0.9, as dropout once did it",
            lambda op: 0.9 * OPERATIONS["embeddings"](op),
        ),
    },
    "h.{i}.attn": {
        "projection-dropout-left-on": ("dropout after attention left on", dropped("attn"))
    },
    "h.{i}.mlp": {"mlp-dropout-left-on": ("dropout after the MLP left on", dropped("mlp"))},
}
for _at, _faults in _DROPPED.items():
    family(
        _at,
        "it is for training alone",
        "functional.dropout(x, p, training=self.training)",
        _faults,
        look_for="dropout left on",
        family="dropout",
    )


# Padding and positions.


def _padding(change: Callable[[Tensor], Tensor]) -> Operation:
    """Return attention weights with another padding mask, `[batch time]` or `[batch head time]`."""

    def operation(op: Op) -> Tensor:
        scores = op.input("attn.scores")
        if op.mask is None:
            return OPERATIONS["attn.weights"](op)
        mask = change(op.mask)
        mask = mask[:, None] if mask.ndim == 2 else mask  # noqa: PLR2004 - rows and keys
        causal = hidden(scores.shape[-1], None, scores.device)
        own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        return softmax(scores.masked_fill(causal | (~mask[:, :, None] & ~own), -math.inf))

    return operation


def _over_heads(op: Op) -> Tensor:
    """Repeat the mask head by head, where rows of scores go batch by batch."""
    return _padding(lambda mask: mask.repeat(op.n_head, 1).view(len(mask), op.n_head, -1))(op)


def _padding_after_softmax(op: Op) -> Tensor:
    scores = op.input("attn.scores")
    weights = softmax(scores.masked_fill(hidden(scores.shape[-1], None, scores.device), -math.inf))
    return weights if op.mask is None else weights * op.mask[:, None, None]


family(
    "h.{i}.attn.weights",
    "no query sees the padding",
    "scores.masked_fill(~mask[:, None, None, :], -math.inf)",
    {
        "padding-ignored": ("the padding mask ignored", _padding(torch.ones_like)),
        "padding-inverted": ("the padding mask inverted", _padding(torch.logical_not)),
        "padding-of-first-row": (
            "the padding mask of the first row for all",
            _padding(lambda mask: mask[:1].expand_as(mask)),
        ),
        "padding-shifted": (
            "the padding mask one position late",
            _padding(lambda mask: mask.roll(1, -1)),
        ),
        "padding-over-heads": ("the padding mask repeated in another order", _over_heads),
        "padding-after-softmax": ("padding hidden after the softmax", _padding_after_softmax),
    },
    look_for="the padding mask",
    family="padding and batch",
    inputs="padding",
)


family(
    "embeddings.positions",
    "each row has positions of its own",
    "positions_embed(positions)",
    {
        "positions-ignored": (
            "given positions ignored",
            looked_up(lambda op: _places(op)[1].expand_as(op.positions)),
        ),
        "positions-of-first-row": (
            "the positions of the first row for all",
            looked_up(lambda op: op.positions[:1].expand_as(op.positions)),
        ),
    },
    look_for=("or ignored", "those of another row"),
    family="padding and batch",
    inputs="padding",
)
family(
    "embeddings.positions",
    "positions do not depend on the row",
    "positions_embed(torch.arange(ids.shape[1]))",
    {
        "positions-go-on": (
            "positions go on from row to row",
            looked_up(lambda op: torch.arange(op.token_ids.numel()).view_as(op.token_ids)),
        )
    },
    look_for="[rows time width]",
    family="padding and batch",
    inputs="three rows",
)


# Rows of a batch.


def _keys_of_first_row(op: Op) -> Tensor:
    key = OPERATIONS["attn.key"](op)
    return key[:1].expand_as(key)


def _last_row_empty(op: Op) -> Tensor:
    context = OPERATIONS["attn.context"](op).clone()
    context[-1] = 0.0
    return context


def _norm_over_rows(x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    centered = x - x.mean((0, 2), keepdim=True)
    variance = centered.square().mean((0, 2), keepdim=True)
    return centered * torch.rsqrt(variance + epsilon) * gain + bias


_MIXED: Sequence[tuple[str, str, Faults]] = (
    (
        "h.{i}.attn.key",
        "rows of the batch",
        {"keys-of-first-row": ("keys of the first row for all", _keys_of_first_row)},
    ),
    (
        "h.{i}.attn.context",
        "rows of a batch",
        {
            "rows-rotated": (
                "each row gets the context of another",
                lambda op: OPERATIONS["attn.context"](op).roll(1, 0),
            ),
            "last-row-empty": ("the last row of the batch left out", _last_row_empty),
        },
    ),
    (
        "h.{i}.ln_1",
        "over another axis",
        {"norm-over-rows": ("norm over the batch and features", normed_by(_norm_over_rows))},
    ),
)
for _at, _look, _faults in _MIXED:
    family(
        _at,
        "a row does not depend on the others",
        "the first axis is the batch: no operation mixes it",
        _faults,
        look_for=_look,
        family="padding and batch",
        inputs="three rows",
    )


# Tiles of a kernel.


def _tiled(visible: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    """Return the context where a query sees a function of its number and the key's."""

    def operation(op: Op) -> Tensor:
        scores = op.input("attn.scores").masked_fill(~visible(*_places(op)), -math.inf)
        return merge_heads(softmax(scores) @ op.input("attn.value"))

    return operation


def _last_tile_empty(op: Op) -> Tensor:
    context = OPERATIONS["attn.context"](op).clone()
    time = context.shape[1]
    context[:, time - time % TILE :] = 0.0
    return context


def _by_tiles(combine: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Operation:
    """Return the context combined from numerators, sums and maxima of tiles of keys, stacked."""

    def operation(op: Op) -> Tensor:
        query, key = _places(op)
        scores = op.input("attn.scores").masked_fill(key > query, -math.inf)
        tops, sums, numerators = [], [], []
        for start in range(0, scores.shape[-1], TILE):
            part, value = scores[..., start : start + TILE], op.input("attn.value")
            top = part.amax(-1, keepdim=True).clamp(min=-1e9)
            powers = torch.exp(part - top)
            tops.append(top)
            sums.append(powers.sum(-1, keepdim=True))
            numerators.append(powers @ value[..., start : start + TILE, :])
        return merge_heads(combine(*map(torch.stack, (numerators, sums, tops))))

    return operation


def _sum_of_first(numerators: Tensor, sums: Tensor, tops: Tensor) -> Tensor:
    scales = torch.exp(tops - tops.amax(0))
    return (numerators * scales).sum(0) / (sums[0] * scales[0])


family(
    "h.{i}.attn.context",
    "a query sees every key up to its own",
    "compare with (scores.masked_fill(hidden, -math.inf).softmax(-1) @ value)",
    {
        "tile-last-empty": ("the ragged last tile of queries left out", _last_tile_empty),
        "tile-last-unmasked": (
            "the last tile without the causal mask",
            _tiled(lambda query, key: (key <= query) | (query >= TILE)),
        ),
        "tile-keys-forgotten": (
            "a query sees only the keys of its own tile",
            _tiled(lambda query, key: (key <= query) & (key // TILE == query // TILE)),
        ),
        "tile-mask-from-zero": (
            "a tile's causal mask counted from its own start",
            _tiled(lambda query, key: key <= query % TILE),
        ),
        "tile-edge-skipped": (
            "the last key of a full tile skipped",
            _tiled(lambda query, key: (key <= query) & ((key % TILE < TILE - 1) | (key == query))),
        ),
        "tile-diagonal-hidden": (
            "the first query of a later tile does not see itself",
            _tiled(
                lambda query, key: (
                    (key <= query) & ((key < query) | (query % TILE > 0) | (query < TILE))
                )
            ),
        ),
        "tile-not-rescaled": (
            "tiles added without rescaling to one maximum",
            _by_tiles(lambda numerators, sums, _tops: numerators.sum(0) / sums.sum(0)),
        ),
        "tile-sum-of-first": (
            "divided by the sum of the first tile alone",
            _by_tiles(_sum_of_first),
        ),
    },
    look_for="the end of a tile",
    family="kernel and tile",
    inputs="two tiles",
)
family(
    "h.{i}.attn.context",
    "a single token sees itself",
    "a mask of one row hides nothing",
    {
        "single-token-padded": (
            "one token shares its weight with an empty key",
            lambda op: OPERATIONS["attn.context"](op) / (1.0 + (op.token_ids.shape[1] == 1)),
        )
    },
    look_for="the end of a tile",
    family="kernel and tile",
    inputs="one token",
)


# Constants.

family(
    "h.{i}.ln_1",
    "the config has it: layer_norm_epsilon",
    "nn.LayerNorm(n_embd, eps=config.layer_norm_epsilon)",
    {
        "epsilon-fixed": (
            "epsilon 1e-5 whatever the config has",
            normed_by(lambda x, gain, bias, _epsilon: layer_norm(x, gain, bias, 1e-5)),
        )
    },
    look_for="or the config's",
    inputs="another epsilon",
)


def _with_base(scores: Tensor, log: float) -> Tensor:
    powers = torch.exp2((scores - scores.amax(-1, keepdim=True)) * log)
    return powers / powers.sum(-1, keepdim=True)


def _weights_by(function: Callable[[Tensor], Tensor], low: float = -math.inf) -> Operation:
    """Return attention weights by another softmax, or another number for hidden scores."""

    def operation(op: Op) -> Tensor:
        scores = op.input("attn.scores")
        return function(scores.masked_fill(hidden(scores.shape[-1], op.mask, scores.device), low))

    return operation


family(
    "h.{i}.attn.weights",
    "the softmax has base e",
    "torch.exp(scores), or torch.exp2(scores / math.log(2.0))",
    {
        "softmax-base-rounded": (
            "1.4427 for 1 / log(2) in the softmax",
            _weights_by(lambda scores: _with_base(scores, 1.4427)),
        ),
        "softmax-base-two": (
            "powers of 2 in the softmax",
            _weights_by(lambda scores: _with_base(scores, 1.0)),
        ),
    },
    look_for="another base",
    family="softmax",
)


# Equivalent forms: they look like faults, and give the same tensors.


def _equivalent(at: str, name: str, what: str, proof: str, code: Operation) -> None:
    right, fix = "both are right", "nothing to do"
    family(at, right, fix, {name: (what, code)}, look_for="", family="equivalent", proof=proof)


def _sigmoid_gelu(op: Op) -> Tensor:
    x = op.input("mlp.c_fc")
    return x * torch.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


_equivalent(
    "h.{i}.attn.weights",
    "mask-smallest-number",
    "hidden scores set to the smallest number",
    "a row's maximum is at its own key or a visible one, and exp underflows to 0 for the others",
    _weights_by(softmax, torch.finfo(torch.float32).min),
)
_equivalent(
    "h.{i}.attn.weights",
    "mask-minus-ten-thousand",
    "hidden scores set to -1e4",
    "exp(-1e4 - maximum) underflows to 0 as long as a visible score is above -9,000",
    _weights_by(softmax, -1e4),
)
_equivalent(
    "h.{i}.attn.weights",
    "softmax-without-maximum",
    "the largest score not subtracted",
    "exp(s - m) / sum exp(s - m) = exp(s) / sum exp(s), and exp overflows only above 709",
    _weights_by(lambda scores: scores.exp() / scores.exp().sum(-1, keepdim=True)),
)
_equivalent(
    "h.{i}.attn.scores",
    "scale-after-product",
    "the product scaled, not the query",
    "(c q) k = c (q k) for a number c",
    lambda op: (
        (op.input("attn.query") @ op.input("attn.key").transpose(-2, -1))
        / math.sqrt(op.input("attn.query").shape[-1])
    ),
)
_equivalent(
    "h.{i}.mlp.gelu",
    "gelu-of-sigmoid",
    "x * sigmoid(2u) for the tanh form of GELU",
    "(1 + tanh u) / 2 = sigmoid(2u)",
    _sigmoid_gelu,
)
