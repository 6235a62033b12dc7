"""A stranger's GPT-1 with one bug, which the check names.

    python -m parity.check layerwise --candidate examples/broken_gpt.py

The model loads, runs and generates plausible text, but one line is wrong. The report has its file
and line, what is wrong with it, and the fix. The end of this file gives the answer.
"""
# ruff: noqa: INP001 - loaded by its path, not a package

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Config:
    """The sizes of the model."""

    vocab_size: int = 40478
    block_size: int = 512
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12


class SelfAttention(nn.Module):
    """Causal attention with separate projections."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.query = nn.Linear(config.n_embd, config.n_embd)
        self.key = nn.Linear(config.n_embd, config.n_embd)
        self.value = nn.Linear(config.n_embd, config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)
        visible = torch.ones(config.block_size, config.block_size, dtype=torch.bool).tril()
        self.register_buffer("visible", visible, persistent=False)

    def split(self, x: Tensor) -> Tensor:
        """Return `[batch time width]` as `[batch head time head_width]`."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `[batch time width]` as the input."""
        time = x.shape[1]
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.visible[:time, :time], -math.inf)
        y = torch.softmax(scores, dim=-1) @ v
        return self.out(y.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.widen = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.narrow = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `[batch time width]` as the input."""
        return self.narrow(nn.functional.gelu(self.widen(x)))


class Layer(nn.Module):
    """Attention and feed-forward layers, each with a residual sum and a norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.n_embd, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `[batch time width]` as the input."""
        x = self.attention_norm(x + self.attention(x))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """Token ids `[batch time]` to logits `[batch time vocab]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.positions(places)
        for layer in self.layers:
            x = layer(x)
        return x @ self.words.weight.T


# The bug: `nn.functional.gelu(x)` is the erf GELU. GPT-1 uses the tanh approximation,
# `nn.functional.gelu(x, approximate="tanh")`. With it, the verdict is PASS.
