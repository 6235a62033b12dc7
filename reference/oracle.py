"""GPT-1's forward pass in NumPy float64, from the paper and the release.

It imports numpy alone and shares no code with the models that it is compared with: `_gelu` and
`_norm` repeat other code on purpose. It follows the release's train.py in order and vocabulary: one
matrix `we` that holds tokens and positions, convolutions of width one, a mask that blends in -1e9,
and a plain loop over heads.

`forward` is a generator. It yields every tap as `(name, value)` in network order, and continues
with the value that is sent back, or with its own if none is.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Taps = Generator[tuple[str, Array], Array | None, None]
Shown = Generator[tuple[str, Array], Array | None, Array]

_PER_BLOCK = 12
_STRIP = 4096
"""Tokens whose logits are computed at once."""


class Weights(NamedTuple):
    """The released tensors, arranged as in train.py's graph."""

    we: NDArray[np.floating]  # `[vocab + n_positions, width]`: token rows, then position rows
    blocks: Sequence[Sequence[NDArray[np.floating]]]  # twelve per block, in the release's order
    n_vocab: int  # rows of `we` that are tokens
    n_head: int  # no tensor's shape shows it


def arrange(tensors: Sequence[NDArray[np.floating]], *, n_head: int) -> Weights:
    """Return the weights from the release's list: positions, tokens, then 12 per block.

    Any float type is accepted; the computation is float64.

    Raises:
        ValueError: The list is not two tensors and twelve per block.

    Source: train.py lines 404-412 (a69b5c4).
    """
    if len(tensors) < 2 + _PER_BLOCK or (len(tensors) - 2) % _PER_BLOCK != 0:
        message = f"expected 2 + 12 n_layer tensors, got {len(tensors)}"
        raise ValueError(message)
    positions, tokens, *rest = tensors
    blocks = [rest[at : at + _PER_BLOCK] for at in range(0, len(rest), _PER_BLOCK)]
    return Weights(np.concatenate([tokens, positions]), blocks, len(tokens), n_head)


def forward(
    weights: Weights,
    token_ids: NDArray[np.integer],
    *,
    positions: NDArray[np.integer] | None = None,
    mask: NDArray[np.bool_] | None = None,
    epsilon: float = 1e-5,
) -> Taps:
    """Yield every tap of the forward pass, `embeddings.tokens` first, `loss` last.

    Token ids are `[batch time]`, positions `[batch time]` or `[1 time]`, by default 0, 1, 2, ...
    The mask `[batch time]` is False at padding. The release has none: it pads on the right, where
    causality hides it. A padded row attends to itself and to real tokens before it.

    Source: train.py `model` (a69b5c4); there is no `loss` at time 1.
    """
    time = token_ids.shape[1]
    at = np.arange(time)[None] if positions is None else positions
    tokens = yield from _show("embeddings.tokens", _double(weights.we[token_ids]))
    places = yield from _show("embeddings.positions", _double(weights.we[weights.n_vocab + at]))
    h = yield from _show("embeddings", tokens + places)
    visible = _visible(len(token_ids), time, mask)
    for index, tensors in enumerate(weights.blocks):
        h = yield from _block(f"h.{index}", h, tensors, visible, weights.n_head, epsilon)
    logits = yield from _show("logits", _logits(h, weights.we[: weights.n_vocab]))
    if time > 1:
        yield from _show("loss", _loss(logits, token_ids))


def _show(name: str, value: Array) -> Shown:
    """Yield one tap; return the value to continue with."""
    sent = yield name, value
    return value if sent is None else sent


def _double(x: NDArray[np.floating]) -> Array:
    return np.asarray(x, np.float64)


def _visible(batch: int, time: int, mask: NDArray[np.bool_] | None) -> Array:
    """Return `[batch time time]`: 1 where the row's token attends to the column's, else 0."""
    causal = np.tril(np.ones((time, time)))
    if mask is None:
        return np.broadcast_to(causal, (batch, time, time))
    return np.maximum(causal * mask[:, None, :], np.eye(time))


def _block(  # noqa: PLR0913 - one block's whole context, passed on explicitly
    name: str,
    x: Array,
    tensors: Sequence[NDArray[np.floating]],
    visible: Array,
    n_head: int,
    epsilon: float,
) -> Shown:
    """Yield a block's fourteen taps; return its output. Source: train.py `block`."""
    attn_w, attn_b, proj_w, proj_b, g_1, b_1, fc_w, fc_b, out_w, out_b, g_2, b_2 = tensors
    a = yield from _attn(f"{name}.attn", x, attn_w, attn_b, visible, n_head)
    a = yield from _show(f"{name}.attn", _conv1d(a, proj_w, proj_b))
    n = yield from _show(f"{name}.ln_1.input", x + a)
    n = yield from _show(f"{name}.ln_1", _norm(n, g_1, b_1, epsilon))
    m = yield from _show(f"{name}.mlp.c_fc", _conv1d(n, fc_w, fc_b))
    m = yield from _show(f"{name}.mlp.gelu", _gelu(m))
    m = yield from _show(f"{name}.mlp", _conv1d(m, out_w, out_b))
    h = yield from _show(f"{name}.ln_2.input", n + m)
    return (yield from _show(f"{name}.ln_2", _norm(h, g_2, b_2, epsilon)))


def _attn(  # noqa: PLR0913 - one layer's whole context, passed on explicitly
    name: str,
    x: Array,
    w: NDArray[np.floating],
    b: NDArray[np.floating],
    visible: Array,
    n_head: int,
) -> Shown:
    """Yield query, key, value, scores, weights and context. Source: train.py `attn`, `_attn`."""
    batch, time, width = x.shape
    head_width = width // n_head
    c = _conv1d(x, w, b)
    parts = [c[:, :, at * width : (at + 1) * width] for at in range(3)]
    split = [part.reshape(batch, time, n_head, head_width).swapaxes(1, 2) for part in parts]
    q = yield from _show(f"{name}.query", np.ascontiguousarray(split[0]))
    k = yield from _show(f"{name}.key", np.ascontiguousarray(split[1]))
    v = yield from _show(f"{name}.value", np.ascontiguousarray(split[2]))
    scores = np.empty((batch, n_head, time, time))
    for row in range(batch):
        for head in range(n_head):
            scores[row, head] = (q[row, head] @ k[row, head].T) * (1.0 / np.sqrt(head_width))
    scores = yield from _show(f"{name}.scores", scores)
    weights = np.empty_like(scores)
    for row in range(batch):
        for head in range(n_head):
            weights[row, head] = _softmax(_mask_attn_weights(scores[row, head], visible[row]))
    weights = yield from _show(f"{name}.weights", weights)
    a = np.empty((batch, time, width))
    for row in range(batch):
        for head in range(n_head):
            merged = slice(head * head_width, (head + 1) * head_width)
            a[row, :, merged] = weights[row, head] @ v[row, head]
    return (yield from _show(f"{name}.context", a))


def _mask_attn_weights(w: Array, b: Array) -> Array:
    """Blend in -1e9 where `b` is 0. Source: train.py `mask_attn_weights`."""
    return w * b + -1e9 * (1.0 - b)


def _softmax(w: Array) -> Array:
    e = np.exp(w - w.max(axis=-1, keepdims=True))
    p: Array = e / e.sum(axis=-1, keepdims=True)
    return p


def _conv1d(x: Array, w: NDArray[np.floating], b: NDArray[np.floating]) -> Array:
    """A convolution of receptive field 1, `w` being `[1, nx, nf]`. Source: train.py `conv1d`."""
    rf, nx, nf = w.shape
    if rf != 1:
        message = f"expected a receptive field of 1, got weights of shape {w.shape}"
        raise ValueError(message)
    return (x.reshape(-1, nx) @ _double(w[0]) + _double(b)).reshape(*x.shape[:-1], nf)


def _norm(x: Array, g: NDArray[np.floating], b: NDArray[np.floating], epsilon: float) -> Array:
    """Biased variance, epsilon inside the root. Source: train.py `_norm`."""
    u = x.mean(axis=-1, keepdims=True)
    s = np.square(x - u).mean(axis=-1, keepdims=True)
    n: Array = (x - u) / np.sqrt(s + epsilon) * _double(g) + _double(b)
    return n


def _gelu(x: Array) -> Array:
    """The tanh form. Source: train.py `gelu`."""
    u = np.sqrt(2.0 / np.pi) * (x + 0.044715 * (x * x * x))
    y: Array = 0.5 * x * (1.0 + np.tanh(u))
    return y


def _logits(h: Array, tokens: NDArray[np.floating]) -> Array:
    """Return `[batch time vocab]`, a strip of tokens at a time, to save memory."""
    rows = h.reshape(-1, h.shape[-1])
    logits = np.empty((len(rows), len(tokens)))
    for at in range(0, len(tokens), _STRIP):
        strip = slice(at, at + _STRIP)
        logits[:, strip] = rows @ _double(tokens[strip]).T
    return logits.reshape(*h.shape[:2], -1)


def _loss(logits: Array, token_ids: NDArray[np.integer]) -> Array:
    """Return `[batch time-1]`: the cross-entropy of each next token, in nats."""
    batch, time, _ = logits.shape
    loss = np.empty((batch, time - 1))
    for row in range(batch):
        for at in range(time - 1):
            scores = logits[row, at]
            largest = scores.max()
            total = np.exp(scores - largest).sum()
            loss[row, at] = np.log(total) + largest - scores[token_ids[row, at + 1]]
    return loss
