"""Somebody's GPT-1, half right: how to have your own model judged.

    python -m parity.check layerwise --candidate examples/broken_gpt.py

The check calls `build(config, weights)` and compares the model that it returns, operation by
operation. This one has a layout of its own: PyTorch's layers, whose matrices are `[out, in]`,
query, key and value projected apart, names nobody else uses. Two things make it fit to be judged:
`build` moves the weights over, and `forward` shows its tensors under the names of the taps.

It loads, it runs, and what it writes reads well. One line is wrong all the same. The check says
at which operation; the answer stands at the end of this file.
"""
# ruff: noqa: INP001 - a file to be given by its path, not a package

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt import GPTConfig

Show = Callable[[str, Tensor], Tensor]
"""Shows a tensor under a name, and returns the one to go on with: use what it returns."""


def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with these weights in it.

    Args:
        config: The model's sizes and constants, in the names of Hugging Face's config.
        weights: Every tensor under its released name, such as `h.0.attn.c_attn.weight`; matrices
            are `[in, out]`.
    """
    model = SomebodysGPT(config)
    model.load_state_dict(dict(renamed(weights, config.n_layer)))
    return model


def renamed(weights: Mapping[str, Tensor], n_layer: int) -> list[tuple[str, Tensor]]:
    """Return (this model's name, tensor) for every tensor of the release."""
    moved = [
        ("words.weight", weights["tokens_embed.weight"]),
        ("places.weight", weights["positions_embed.weight"]),
    ]
    for index in range(n_layer):
        here, there = f"layers.{index}", f"h.{index}"
        joined = {kind: weights[f"{there}.attn.c_attn.{kind}"] for kind in ("weight", "bias")}
        parts = zip(joined["weight"].T.chunk(3), joined["bias"].chunk(3), strict=True)
        for name, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
            moved += [(f"{here}.{name}.weight", weight), (f"{here}.{name}.bias", bias)]
        for name, released in LAYER_NAMES.items():
            weight = weights[f"{there}.{released}.weight"]
            moved.append((f"{here}.{name}.weight", weight.T if weight.ndim > 1 else weight))
            moved.append((f"{here}.{name}.bias", weights[f"{there}.{released}.bias"]))
    return moved


LAYER_NAMES = {
    "merge": "attn.c_proj",
    "first_norm": "ln_1",
    "widen": "mlp.c_fc",
    "narrow": "mlp.c_proj",
    "second_norm": "ln_2",
}
"""This model's name for a part of a layer, and the release's."""


class SomebodysGPT(nn.Module):
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
        tap: Show | None = None,
    ) -> Tensor:
        """Return the logits `[batch time vocab]`.

        Args:
            token_ids: `[batch time]`.
            positions: `[batch time]` or `[1 time]`; 0, 1, 2, ... where None.
            attention_mask: `[batch time]`, bool, False at padding; None without padding.
            tap: Called as `tap(name, tensor)`; see `parity/core/taps.py` for the names.
        """
        show = tap or (lambda _name, tensor: tensor)
        time = token_ids.shape[1]
        if positions is None:
            positions = torch.arange(time, device=token_ids.device)[None]
        words = show("embeddings.tokens", self.words(token_ids))
        x = show("embeddings", words + show("embeddings.positions", self.places(positions)))
        seen = torch.ones(time, time, dtype=torch.bool, device=token_ids.device).tril()
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None, :]
        for index, layer in enumerate(self.layers):
            x = layer(x, seen, _inside(f"h.{index}", show))
        return show("logits", x @ self.words.weight.T)


def _inside(prefix: str, show: Show) -> Show:
    """Return `show` for the tensors of one layer."""
    return lambda name, tensor: show(f"{prefix}.{name}", tensor)


class Layer(nn.Module):
    """One transformer block: attention, a sum, a norm; two matrices, a sum, a norm."""

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

    def forward(self, x: Tensor, seen: Tensor, show: Show) -> Tensor:
        """Return the block's output; `seen` is True where a query may look at a key."""
        summed = show("ln_1.input", x + self.attend(x, seen, show))
        x = show("ln_1", self.first_norm(summed))
        summed = show("ln_2.input", x + self.think(x, show))
        return show("ln_2", self.second_norm(summed))

    def attend(self, x: Tensor, seen: Tensor, show: Show) -> Tensor:
        """Return what each position gathers from those before it."""
        query = show("attn.query", self.in_heads(self.query(x)))
        key = show("attn.key", self.in_heads(self.key(x)))
        value = show("attn.value", self.in_heads(self.value(x)))
        scores = show("attn.scores", query @ key.mT / math.sqrt(query.shape[-1]))
        weights = show("attn.weights", scores.masked_fill(~seen, -math.inf).softmax(-1))
        context = show("attn.context", (weights @ value).transpose(1, 2).flatten(-2))
        return show("attn", self.merge(context))

    def in_heads(self, x: Tensor) -> Tensor:
        """Return `[batch time width]` as `[batch head time head_width]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def think(self, x: Tensor, show: Show) -> Tensor:
        """Return the feed-forward of each position."""
        inner = show("mlp.c_fc", self.widen(x))
        return show("mlp", self.narrow(show("mlp.gelu", functional.gelu(inner))))


# The answer: `functional.gelu(inner)` is the erf GELU. GPT-1 has the tanh form, which is
# `functional.gelu(inner, approximate="tanh")`. With it, the verdict is PASS.
