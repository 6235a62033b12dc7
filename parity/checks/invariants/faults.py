"""Faults that violate a property: wrong functions, which take the right ones' places for a while.

They are put into our own model or its cache, in one block where they are of a block.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from parity.core.taps import BLOCK_KINDS, never_formed_kinds
from parity.faults.registry import Fault, faults_of
from scratch_gpt import model as model_module
from scratch_gpt import transformer_block
from scratch_gpt.attention import plain_attention, softmax
from scratch_gpt.causal_mask import hidden_keys
from scratch_gpt.dropout import dropout
from scratch_gpt.embeddings import embed
from scratch_gpt.kernels.tiled_attention import TILE
from scratch_gpt.kv_cache import BlockCache, KVCache
from scratch_gpt.model import GPT

Patch = tuple[Any, str, Any]
"""An object, the name of its function, and the function that takes its place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvariantFault(Fault):
    """A fault that violates `violates`; `code(model, block)` returns patches."""

    violates: str

    def first_seen(self, block: int = 0, backend: str = "plain", **names: object) -> str:
        """Return the first tap that differs: where a tensor is not formed, the next one."""
        tap = super().first_seen(block, backend, **names)
        kinds = [kind.name for kind in BLOCK_KINDS]
        while (kind := tap.split(".", 2)[-1]) in never_formed_kinds(backend):
            tap = tap.removesuffix(kind) + kinds[kinds.index(kind) + 1]
        return tap


@contextlib.contextmanager
def inject(name: str, block: int, model: nn.Module) -> Iterator[None]:
    """Give a model a fault within the context."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, wrong in INVARIANT_FAULTS[name].code(model, block):
            stack.enter_context(mock.patch.object(owner, attribute, wrong))
        yield


_register = InvariantFault.register


# Attention.


def _kernel(change: Callable[..., Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: `change` is called as a kernel is, with the right kernel before."""

    def patches(model: GPT, block: int) -> list[Patch]:
        attention = model.h[block].attn
        right = attention.kernel

        def kernel(*given: Any) -> Tensor:
            return change(right, *given)

        return [(attention, "kernel", kernel)]

    return patches


def _formula(  # noqa: PLR0913 - a kernel's arguments
    right: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor,
    tap: Any,  # noqa: ANN401 - a tap
    probability: float,
    low: float = -torch.inf,
) -> Tensor:
    """Return attention with other hidden keys; the taps are those of the right kernel."""
    if tap is None or right is not plain_attention:
        tap = lambda _name, x: x  # noqa: E731
    scores = tap("scores", (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1))
    weights = tap("weights", softmax(scores.masked_fill(hidden, low)))
    return dropout(weights, probability) @ value


def _hidden(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    return hidden_keys(query.shape[-2], key.shape[-2], mask, query.device).clone()


@_register(
    "future-seen",
    "one position sees the last token",
    at="h.{i}.attn.weights",
    violates="causality",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    hidden = _hidden(query, key, mask)
    hidden[..., hidden.shape[-2] // 2, -1] = False
    return _formula(right, query, key, value, hidden, *rest)


@_register(
    "next-token-seen",
    "each position sees the next one",
    at="h.{i}.attn.weights",
    violates="causality",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    hidden = _hidden(query, key, mask)
    return _formula(right, query, key, value, hidden & hidden.roll(1, -1), *rest)


@_register(
    "hidden-at-minus-ten",
    "hidden scores are -10, not minus infinity",
    at="h.{i}.attn.weights",
    violates="causality",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    return _formula(right, query, key, value, _hidden(query, key, mask), *rest, low=-10.0)


@_register(
    "tile-edge-seen",
    "the last query of a tile sees the first key of the next",
    at="h.{i}.attn.weights",
    violates="causality",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    hidden = _hidden(query, key, mask)
    if query.shape[-2] == key.shape[-2] > TILE:
        hidden[..., TILE - 1, TILE] = False
    return _formula(right, query, key, value, hidden, *rest)


@_register(
    "last-tile-alone",
    "the queries of the last, smaller tile see no key before it",
    at="h.{i}.attn.context",
    violates="prefix",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    context = right(query, key, value, mask, *rest).clone()
    time, start = query.shape[-2], query.shape[-2] // TILE * TILE
    if 0 < start < time == key.shape[-2]:
        parts = (x[..., start:, :] for x in (query, key, value))
        context[..., start:, :] = right(*parts, None if mask is None else mask[:, start:], None)
    return context


@_register(
    "one-token-halved",
    "the special case of one token is wrong",
    at="h.{i}.attn.context",
    violates="prefix",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, *rest: Any) -> Tensor:
    context: Tensor = right(query, key, *rest)
    return context / 2 if key.shape[-2] == 1 else context


@_register(
    "rows-reversed",
    "rows of a batch get each other's context",
    at="h.{i}.attn.context",
    violates="batch",
)
@_kernel
def _(right: Any, *given: Any) -> Tensor:
    context: Tensor = right(*given)
    return context.flip(0)


@_register(
    "last-row-repeated",
    "the last row of a large batch gets the context of the one before",
    at="h.{i}.attn.context",
    violates="batch",
)
@_kernel
def _(right: Any, *given: Any) -> Tensor:
    context: Tensor = right(*given).clone()
    if len(context) > 5:  # noqa: PLR2004 - more than in most calls
        context[-1] = context[-2]
    return context


@_register(
    "padding-ignored",
    "padding is not hidden",
    at="h.{i}.attn.weights",
    violates="padding",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *rest: Any) -> Tensor:
    context: Tensor = right(query, key, value, None, *rest)
    return context


@_register(
    "padding-inverted",
    "the tokens are hidden, and padding is not",
    at="h.{i}.attn.weights",
    violates="padding",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    context: Tensor = right(query, key, value, None if mask is None else ~mask, *rest)
    return context


@_register(
    "padding-over-heads",
    "masks are repeated row after row for heads that lie head after head",
    at="h.{i}.attn.weights",
    violates="padding",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    hidden = _hidden(query, key, mask)
    if mask is not None:
        heads = query.shape[1]
        hidden = hidden.repeat(heads, 1, 1, 1).view(len(mask), heads, *hidden.shape[2:])
    return _formula(right, query, key, value, hidden, *rest)


@_register(
    "attention-dropout-unscaled",
    "kept weights are not divided by 1 - p",
    at="h.{i}.attn.context",
    violates="dropout",
)
@_kernel
def _(right: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *rest: Any) -> Tensor:
    context: Tensor = right(query, key, value, mask, *rest)
    return context * (1.0 - (rest[1] if len(rest) > 1 else 0.0))


# The rest of a block.


def _layer(name: str, change: Callable[..., Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: `change(layer, right, x)` in place of the forward of a block's layer."""

    def patches(model: GPT, block: int) -> list[Patch]:
        layer = model.h[block].get_submodule(name)
        right = layer.forward
        return [(layer, "forward", lambda x: change(layer, right, x))]

    return patches


def _activation(change: Callable[..., Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: `change(state, x)` of what GELU makes; the state is kept between calls."""

    def patches(model: GPT, block: int) -> list[Patch]:
        layer, state = model.h[block].mlp, {}
        right = layer.activation
        return [(layer, "activation", lambda x: change(state, right(x)))]

    return patches


def _with_state(state: dict[str, Tensor], x: Tensor) -> Tensor:
    before = state.get("mean", x.new_zeros(()))
    state["mean"] = x.detach().mean()
    return x + 1e-3 * before


def _by_threads(_state: object, x: Tensor) -> Tensor:
    return x * (1.0 + 1e-9 * torch.get_num_threads())


def _by_mode(_state: object, x: Tensor) -> Tensor:
    return x * (1.0 + 1e-9 * torch.is_grad_enabled())


def _without_bias(layer: Any, _right: Any, x: Tensor) -> Tensor:
    result: Tensor = x @ layer.weight
    return result


def _without_gain(layer: Any, _right: Any, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], None, layer.bias, layer.epsilon)


_register(
    "rows-mixed",
    "the mean of the batch goes into a norm",
    at="h.{i}.ln_1",
    violates="batch",
)(_layer("ln_1", lambda _layer, right, x: right(x + 0.01 * x.mean(0, keepdim=True))))
_register(
    "text-mixed",
    "the mean of the text goes into a norm",
    at="h.{i}.ln_1",
    violates="causality",
)(_layer("ln_1", lambda _layer, right, x: right(x + 0.01 * x.mean(1, keepdim=True))))
_register(
    "parameter-dead",
    "the bias of c_fc changes nothing",
    at="h.{i}.mlp.c_fc",
    violates="sensitivity",
)(_layer("mlp.c_fc", _without_bias))
_register(
    "gain-dead",
    "the gain of ln_2 changes nothing",
    at="h.{i}.ln_2",
    violates="sensitivity",
)(_layer("ln_2", _without_gain))
_register(
    "state-kept",
    "a call changes the next one",
    at="h.{i}.mlp.gelu",
    violates="determinism",
)(_activation(_with_state))
_register(
    "dropout-in-evaluation",
    "dropout is not turned off",
    at="h.{i}.mlp.gelu",
    violates="determinism",
)(_activation(lambda _state, x: dropout(x, 0.1)))
_register(
    "threads-counted",
    "the result depends on the number of threads",
    at="h.{i}.mlp.gelu",
    violates="determinism",
)(_activation(_by_threads))
_register(
    "gradients-differ",
    "the result depends on whether gradients are recorded",
    at="h.{i}.mlp.gelu",
    violates="determinism",
)(_activation(_by_mode))


# Residual dropout, of all blocks.


def _dropping(change: Callable[[Tensor, float], Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: a function in place of dropout, where there is some."""

    def wrong(x: Tensor, probability: float) -> Tensor:
        return change(x, probability) if probability else x

    return lambda _model, _block: [(transformer_block, "dropout", wrong)]


def _same_mask(x: Tensor, probability: float) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dropout(x, probability)


def _of_one_row(x: Tensor, probability: float) -> Tensor:
    return x * dropout(torch.ones_like(x[:1]), probability)


for _name, _what, _at, _change in (
    (
        "dropout-unscaled",
        "kept elements are not divided by 1 - p",
        "h.0.ln_1.input",
        lambda x, p: dropout(x, p) * (1.0 - p),
    ),
    (
        "dropout-share",
        "twice as many are dropped",
        "h.0.ln_1.input",
        lambda x, p: dropout(x, 2 * p),
    ),
    ("dropout-missing", "nothing is dropped", "h.0.ln_1.input", lambda x, _p: x),
    ("dropout-mask-shared", "every place has the same mask", "h.0.ln_2.input", _same_mask),
    ("dropout-of-one-row", "all rows have the same mask", "h.0.ln_1.input", _of_one_row),
):
    _register(_name, _what, at=_at, violates="dropout")(_dropping(_change))


# Ids and positions.


def _lookup(change: Callable[[Tensor, int], Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: other ids are looked up, a function of the right ones."""

    def patches(model: GPT, _block: int) -> list[Patch]:
        table, right = model.tokens_embed, model.tokens_embed.forward
        return [(table, "forward", lambda ids: right(change(ids, len(table.weight))))]

    return patches


_register(
    "ids-clamped",
    "the last id is taken for the one before",
    at="embeddings.tokens",
    violates="ids",
)(_lookup(lambda ids, size: ids.clamp(max=size - 2)))
_register(
    "ids-in-int8",
    "ids are kept in 8 bits",
    at="embeddings.tokens",
    violates="ids",
)(_lookup(lambda ids, size: ids.to(torch.int8).long() % size))


def _embedding(
    change: Callable[[Tensor, Tensor | None, int], tuple[Tensor | None, int]],
) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: other positions, and another first position, are embedded."""

    def wrong(  # noqa: PLR0913 - as `embed`
        tokens: Any, table: Any, ids: Tensor, positions: Tensor | None, tap: Any, first: int = 0
    ) -> Tensor:
        other, start = change(ids, positions, first)
        return embed(tokens, table, ids, other, tap, start)

    return lambda _model, _block: [(model_module, "embed", wrong)]


def _written(ids: Tensor, positions: Tensor | None, first: int) -> tuple[Tensor | None, int]:
    ids[..., 0] = 0
    return positions, first


for _name, _what, _violates, _change in (
    (
        "positions-ignored",
        "explicit positions are ignored",
        "positions",
        lambda _ids, _positions, first: (None, first),
    ),
    (
        "positions-of-one-row",
        "all rows have the positions of the first",
        "positions",
        lambda _ids, positions, first: (None if positions is None else positions[:1], first),
    ),
    (
        "positions-all-zero",
        "every token is at position 0",
        "positions",
        lambda ids, _positions, first: (torch.zeros_like(ids), first),
    ),
    (
        "cache-position-late",
        "tokens behind a cache are one position further",
        "cache",
        lambda _ids, positions, first: (positions, first + (first > 0)),
    ),
):
    _register(_name, _what, at="embeddings.positions", violates=_violates)(_embedding(_change))
_register("ids-written", "a call writes to its ids", at="token_ids", violates="determinism")(
    _embedding(_written)
)


@_register(
    "padding-counted",
    "with padding on the left, positions count it",
    at="embeddings.positions",
    violates="padding",
)
def _(model: GPT, _block: int) -> list[Patch]:
    right = model.hidden

    def hidden(ids: Tensor, positions: Any, mask: Any, cache: Any, tap: Any) -> Tensor:
        return right(ids, None if mask is not None else positions, mask, cache, tap)

    return [(model, "hidden", hidden)]


# The cache.


@_register(
    "cache-not-cleared",
    "a second text follows the first",
    at="embeddings.positions",
    violates="cache",
)
def _(_model: GPT, _block: int) -> list[Patch]:
    return [(KVCache, "clear", lambda _cache: None)]


@_register(
    "cache-key-lost",
    "the first key is that of the newest token",
    at="h.0.attn.context",
    violates="cache",
)
def _(_model: GPT, _block: int) -> list[Patch]:
    right = BlockCache.extended

    def extended(cache: BlockCache, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = right(cache, key, value)
        if cache.start:
            keys[:, :, 0] = key[:, :, -1]
        return keys, values

    return [(BlockCache, "extended", extended)]


INVARIANT_FAULTS = faults_of(InvariantFault)
"""Every fault of a property by name."""
