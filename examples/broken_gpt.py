"""A third-party GPT-1 with one bug: how to check your own model.

    python -m parity.check layerwise --candidate examples/broken_gpt.py

The check calls `build(config, weights)` and compares the returned model operation by operation.
This model has its own layout: PyTorch's layers with `[out, in]` matrices, separate projections of
query, key and value, and its own parameter names. The check needs two things: `build` copies the
weights into the model, and `forward` passes its tensors to `tap` under the names of the taps.

The model loads, runs and generates plausible text, but one line is wrong. The check reports the
operation; the end of this file gives the answer.
"""
# ruff: noqa: INP001 - loaded by its path, not a package

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt import GPTConfig

Tap = Callable[[str, Tensor], Tensor]
"""A named hook: called with a tap's name and its tensor; returns the tensor to use from then on."""


def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with these weights.

    Args:
        config: The model's sizes and constants, in the names of Hugging Face's config.
        weights: Every tensor by its released name, such as `h.0.attn.c_attn.weight`; matrices are
            `[in, out]`.
    """
    model = ThirdPartyGPT(config)
    model.load_state_dict(dict(renamed(weights, config.n_layer)))
    return model


def renamed(weights: Mapping[str, Tensor], n_layer: int) -> list[tuple[str, Tensor]]:
    """Return pairs of this model's parameter name and the tensor, for every released tensor."""
    pairs = [
        ("words.weight", weights["tokens_embed.weight"]),
        ("places.weight", weights["positions_embed.weight"]),
    ]
    for index in range(n_layer):
        own, released = f"layers.{index}", f"h.{index}"
        fused = {kind: weights[f"{released}.attn.c_attn.{kind}"] for kind in ("weight", "bias")}
        projections = zip(fused["weight"].T.chunk(3), fused["bias"].chunk(3), strict=True)
        for name, (weight, bias) in zip(("query", "key", "value"), projections, strict=True):
            pairs += [(f"{own}.{name}.weight", weight), (f"{own}.{name}.bias", bias)]
        for name, part in LAYER_NAMES.items():
            weight = weights[f"{released}.{part}.weight"]
            pairs.append((f"{own}.{name}.weight", weight.T if weight.ndim > 1 else weight))
            pairs.append((f"{own}.{name}.bias", weights[f"{released}.{part}.bias"]))
    return pairs


LAYER_NAMES = {
    "merge": "attn.c_proj",
    "first_norm": "ln_1",
    "widen": "mlp.c_fc",
    "narrow": "mlp.c_proj",
    "second_norm": "ln_2",
}
"""This model's names of a layer's parts, and the release's."""


class ThirdPartyGPT(nn.Module):
    """Token ids to logits."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.n_embd)
        self.places = nn.Embedding(config.n_positions, config.n_embd)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """Return the logits `[batch time vocab]`.

        Args:
            token_ids: `[batch time]`.
            positions: `[batch time]` or `[1 time]`; None for 0, 1, 2, ...
            attention_mask: `[batch time]`, bool, False at padding; None without padding.
            tap: Called with each tap's name and tensor; `parity/core/taps.py` lists the names.
        """
        tap = tap or (lambda _name, tensor: tensor)
        time = token_ids.shape[1]
        if positions is None:
            positions = torch.arange(time, device=token_ids.device)[None]
        words = tap("embeddings.tokens", self.words(token_ids))
        x = tap("embeddings", words + tap("embeddings.positions", self.places(positions)))
        visible = torch.ones(time, time, dtype=torch.bool, device=token_ids.device).tril()
        if attention_mask is not None:
            visible = visible & attention_mask[:, None, None, :]
        for index, layer in enumerate(self.layers):
            x = layer(x, visible, _prefixed(f"h.{index}", tap))
        return tap("logits", x @ self.words.weight.T)


def _prefixed(prefix: str, tap: Tap) -> Tap:
    """Return the tap of one layer, which adds the layer's prefix to the names."""
    return lambda name, tensor: tap(f"{prefix}.{name}", tensor)


class Layer(nn.Module):
    """A post-norm transformer block: attention, add, norm; feed-forward, add, norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width, epsilon = config.n_embd, config.layer_norm_epsilon
        self.heads = config.n_head
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.merge = nn.Linear(width, width)
        self.first_norm = nn.LayerNorm(width, eps=epsilon)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.second_norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor, visible: Tensor, tap: Tap) -> Tensor:
        """Return the block's output; `visible` is True where a query may attend to a key."""
        summed = tap("ln_1.input", x + self.attend(x, visible, tap))
        x = tap("ln_1", self.first_norm(summed))
        summed = tap("ln_2.input", x + self.feed_forward(x, tap))
        return tap("ln_2", self.second_norm(summed))

    def attend(self, x: Tensor, visible: Tensor, tap: Tap) -> Tensor:
        """Return the output of causal self-attention."""
        query = tap("attn.query", self.in_heads(self.query(x)))
        key = tap("attn.key", self.in_heads(self.key(x)))
        value = tap("attn.value", self.in_heads(self.value(x)))
        scores = tap("attn.scores", query @ key.mT / math.sqrt(query.shape[-1]))
        weights = tap("attn.weights", scores.masked_fill(~visible, -math.inf).softmax(-1))
        context = tap("attn.context", (weights @ value).transpose(1, 2).flatten(-2))
        return tap("attn", self.merge(context))

    def in_heads(self, x: Tensor) -> Tensor:
        """Return `[batch time width]` as `[batch head time head_width]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def feed_forward(self, x: Tensor, tap: Tap) -> Tensor:
        """Return the output of the feed-forward layers."""
        inner = tap("mlp.c_fc", self.widen(x))
        return tap("mlp", self.narrow(tap("mlp.gelu", functional.gelu(inner))))


# The bug: `functional.gelu(inner)` is the erf GELU. GPT-1 uses the tanh approximation,
# `functional.gelu(inner, approximate="tanh")`. With it, the verdict is PASS.
