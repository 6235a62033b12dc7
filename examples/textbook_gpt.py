"""GPT-1 in PyTorch's own modules: a right model that the check takes as it is.

    python -m parity.check layerwise --candidate examples/textbook_gpt.py

Nothing here is made for the check, which builds `TextbookGPT` from the sizes of the weights and
copies the weights in by names and shapes.
"""
# ruff: noqa: INP001 - loaded by its path, not a package

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Attention, add, norm; feed-forward, add, norm."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.norm1 = nn.LayerNorm(d_model, eps=1e-5)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * d_model, d_model),
        )
        self.norm2 = nn.LayerNorm(d_model, eps=1e-5)

    def attend(self, x: Tensor) -> Tensor:
        """Return the output of causal self-attention."""
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, `[batch time width]` as the input."""
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class TextbookGPT(nn.Module):
    """Token ids `[batch time]` to logits `[batch time vocab]`."""

    def __init__(
        self, vocab_size: int, context_length: int, d_model: int, n_layers: int, n_heads: int
    ) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tok_emb.weight

    def forward(self, idx: Tensor) -> Tensor:
        """Return the logits."""
        x = self.tok_emb(idx) + self.pos_emb(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)
