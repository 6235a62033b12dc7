"""Faults that violate a property: wrong functions, which take the right ones' places for a while.

They are put into our own model or its cache, in one block where they are of a block.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from parity.faults.registry import Fault, faults_of
from scratch_gpt import model as model_module
from scratch_gpt import transformer_block
from scratch_gpt.attention import AttentionKernel, plain_attention, softmax
from scratch_gpt.causal_mask import hidden_keys
from scratch_gpt.dropout import dropout
from scratch_gpt.embeddings import Embedding, embed
from scratch_gpt.kernels.tiled_attention import TILE
from scratch_gpt.kv_cache import BlockCache, KVCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.linear import Linear
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap
from scratch_gpt.transformer_block import TransformerBlock

Patch = tuple[Any, str, Any]
"""An object, the name of its function, and the function that takes its place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvariantFault(Fault):
    """A fault that violates `violates`; `code(model, block)` returns patches."""

    violates: str

    @property
    def group(self) -> str:
        """The property."""
        return self.violates


@contextlib.contextmanager
def inject(name: str, block: int, model: nn.Module) -> Iterator[None]:
    """Give a model a fault within the context."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, wrong in INVARIANT_FAULTS[name].code(model, block):
            stack.enter_context(mock.patch.object(owner, attribute, wrong))
        yield


_register = InvariantFault.register


# Attention.


class Given(NamedTuple):
    """What a kernel is given, and the right kernel."""

    right: AttentionKernel
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    tap: Tap | None
    probability: float

    def context(self) -> Tensor:
        """Return the right kernel's context."""
        return self.right(*self[1:])

    def hidden(self) -> Tensor:
        """Return the keys that must be hidden."""
        times = self.query.shape[-2], self.key.shape[-2]
        return hidden_keys(*times, self.mask, self.query.device).clone()

    def with_hidden(self, hidden: Tensor, low: float = -torch.inf) -> Tensor:
        """Return the context with other hidden keys; the taps are those of the right kernel."""
        tap = self.tap if self.tap is not None and self.right is plain_attention else no_tap
        query = self.query * self.query.shape[-1] ** -0.5
        scores = tap("scores", query @ self.key.transpose(-2, -1))
        weights = tap("weights", softmax(scores.masked_fill(hidden, low)))
        return dropout(weights, self.probability) @ self.value


def _kernel(
    name: str,
    what: str,
    violates: str,
    at: str = "weights",
) -> Callable[[Callable[[Given], Tensor]], Callable[[GPT, int], list[Patch]]]:
    """Return a decorator that registers a function of what a kernel is given as a faulty kernel."""

    def add(change: Callable[[Given], Tensor]) -> Callable[[GPT, int], list[Patch]]:
        def patches(model: GPT, block: int) -> list[Patch]:
            attention = _block(model, block).attn
            right = attention.kernel

            def kernel(  # noqa: PLR0913 - the signature of an attention kernel
                query: Tensor,
                key: Tensor,
                value: Tensor,
                mask: Tensor | None = None,
                tap: Tap | None = None,
                dropout_probability: float = 0.0,
            ) -> Tensor:
                return change(Given(right, query, key, value, mask, tap, dropout_probability))

            return [(attention, "kernel", kernel)]

        return _register(name, what, at=f"h.{{i}}.attn.{at}", violates=violates)(patches)

    return add


def _block(model: GPT, block: int) -> TransformerBlock:
    found = model.h[block]
    assert isinstance(found, TransformerBlock), "our model has no other blocks"  # noqa: S101
    return found


@_kernel("future-seen", "one position sees the last token", "causality")
def _(given: Given) -> Tensor:
    hidden = given.hidden()
    hidden[..., hidden.shape[-2] // 2, -1] = False
    return given.with_hidden(hidden)


@_kernel("next-token-seen", "each position sees the next one", "causality")
def _(given: Given) -> Tensor:
    hidden = given.hidden()
    return given.with_hidden(hidden & hidden.roll(1, -1))


@_kernel("hidden-at-minus-ten", "hidden scores are -10, not minus infinity", "causality")
def _(given: Given) -> Tensor:
    return given.with_hidden(given.hidden(), low=-10.0)


@_kernel("tile-edge-seen", "a tile's last query sees the first key of the next", "causality")
def _(given: Given) -> Tensor:
    hidden = given.hidden()
    if hidden.shape[-2] == hidden.shape[-1] > TILE:
        hidden[..., TILE - 1, TILE] = False
    return given.with_hidden(hidden)


@_kernel("last-tile-alone", "the last, smaller tile sees no key before it", "prefix", "context")
def _(given: Given) -> Tensor:
    context = given.context().clone()
    time, start = given.query.shape[-2], given.query.shape[-2] // TILE * TILE
    if 0 < start < time == given.key.shape[-2]:
        last = Given(
            given.right,
            given.query[..., start:, :],
            given.key[..., start:, :],
            given.value[..., start:, :],
            None if given.mask is None else given.mask[:, start:],
            None,
            given.probability,
        )
        context[..., start:, :] = last.context()
    return context


@_kernel("one-token-halved", "the special case of one token is wrong", "prefix", "context")
def _(given: Given) -> Tensor:
    return given.context() / (2 if given.key.shape[-2] == 1 else 1)


@_kernel("rows-reversed", "rows of a batch get each other's context", "batch", "context")
def _(given: Given) -> Tensor:
    return given.context().flip(0)


@_kernel(
    "last-row-repeated", "the last row of a large batch gets the row before it", "batch", "context"
)
def _(given: Given) -> Tensor:
    context = given.context().clone()
    if len(context) > 5:  # noqa: PLR2004 - more than in most calls
        context[-1] = context[-2]
    return context


@_kernel("padding-not-hidden", "padding is not hidden", "padding")
def _(given: Given) -> Tensor:
    return given._replace(mask=None).context()


@_kernel("padding-swapped", "the tokens are hidden, and padding is not", "padding")
def _(given: Given) -> Tensor:
    return given._replace(mask=None if given.mask is None else ~given.mask).context()


@_kernel(
    "padding-row-by-row", "masks lie row after row, for heads that lie head after head", "padding"
)
def _(given: Given) -> Tensor:
    hidden = given.hidden()
    if given.mask is not None:
        batch, heads = given.query.shape[:2]
        hidden = hidden.repeat(heads, 1, 1, 1).view(batch, heads, *hidden.shape[2:])
    return given.with_hidden(hidden)


@_kernel(
    "attention-dropout-unscaled", "kept weights are not divided by 1 - p", "dropout", "context"
)
def _(given: Given) -> Tensor:
    return given.context() * (1.0 - given.probability)


# The rest of a block.


def _layer(name: str, change: Callable[..., Tensor]) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: `change(layer, right, x)` in place of the forward of a block's layer."""

    def patches(model: GPT, block: int) -> list[Patch]:
        layer = _block(model, block).get_submodule(name)
        right = layer.forward
        return [(layer, "forward", lambda x: change(layer, right, x))]

    return patches


def _activation(
    change: Callable[[dict[str, Tensor], Tensor], Tensor],
) -> Callable[[GPT, int], list[Patch]]:
    """Return a fault: `change(state, x)` of what GELU makes; the state is kept between calls."""

    def patches(model: GPT, block: int) -> list[Patch]:
        layer = _block(model, block).mlp
        state: dict[str, Tensor] = {}
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


def _without_bias(layer: Linear, _right: object, x: Tensor) -> Tensor:
    return x @ layer.weight


def _without_gain(layer: LayerNorm, _right: object, x: Tensor) -> Tensor:
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
        tokens: Embedding,
        table: Embedding,
        ids: Tensor,
        positions: Tensor | None,
        tap: Tap,
        first: int = 0,
    ) -> Tensor:
        other, start = change(ids, positions, first)
        return embed(tokens, table, ids, other, tap, start)

    return lambda _model, _block: [(model_module, "embed", wrong)]


def _written(ids: Tensor, positions: Tensor | None, first: int) -> tuple[Tensor | None, int]:
    ids[..., 0] = 0
    return positions, first


for _name, _what, _violates, _embedded in (
    (
        "given-positions-ignored",
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
    _register(_name, _what, at="embeddings.positions", violates=_violates)(_embedding(_embedded))
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

    def hidden(
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
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
