"""Causal multi-head self-attention: a table of cores with one signature, and the layer.

A core turns queries, keys and values into context vectors:

    context = core(query, key, value, mask=None, tap=None, dropout_probability=0.0)

`query` is `[batch head time_q head_width]`, `key` and `value` are `[batch head time_k
head_width]`. Causality is aligned at the end: the last query sees every key, and query `t` sees
keys up to `t + time_k - time_q`. `mask` is `[batch time_k]` bool, False at padding. A row of
padding has nothing real to look at on its left, so every query may see its own key: such rows
stay finite and causal, and no row of real text changes.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scratch_gpt.causal_mask import check_kernel_inputs, hidden_keys
from scratch_gpt.dropout import dropout
from scratch_gpt.kernels.tiled_attention import tiled_attention
from scratch_gpt.kv_cache import BlockCache
from scratch_gpt.linear import Linear
from scratch_gpt.tap import Tap, no_tap, prefixed


@runtime_checkable
class AttentionKernel(Protocol):
    """The signature that every attention core has; see the module's docstring."""

    def __call__(  # noqa: PLR0913 - the three inputs and what qualifies them
        self,
        query: Float[Tensor, "batch head time_q head_width"],
        key: Float[Tensor, "batch head time_k head_width"],
        value: Float[Tensor, "batch head time_k head_width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap | None = None,
        dropout_probability: float = 0.0,
    ) -> Float[Tensor, "batch head time_q head_width"]:
        """Return the context vectors."""
        ...


def softmax(scores: Float[Tensor, "*rows time_k"]) -> Float[Tensor, "*rows time_k"]:
    """Return the softmax over the last axis; safe for scores of any finite size.

    The row's largest score is subtracted first. It cancels, so no gradient flows through it.
    """
    exponentials = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def plain_attention(  # noqa: PLR0913 - the signature of a core
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return `softmax(query key^T / sqrt(head_width)) value`, as the paper has it.

    Forms the whole `[time_q time_k]` matrix. The query is scaled rather than the scores: the
    same product, and no overflow where only the unscaled scores would not fit the dtype.
    Taps: `scores` (scaled, unmasked) and `weights`.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: Vaswani et al. 2017, section 3.2.1; train.py `_attn` (a69b5c4).
    """
    check_kernel_inputs(query, key, value, mask)
    tap = tap or no_tap
    scores = tap("scores", (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1))
    hidden = hidden_keys(query.shape[-2], key.shape[-2], mask, query.device)
    weights = tap("weights", softmax(scores.masked_fill(hidden, float("-inf"))))
    return dropout(weights, dropout_probability) @ value


def triton_attention(  # noqa: PLR0913 - the signature of a core
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return what the GPU kernel computes; see `scratch_gpt.kernels.triton_attention`.

    Nothing but this call imports Triton: it is an accelerator beside the model.
    """
    from scratch_gpt.kernels.triton_attention import attend

    return attend(query, key, value, mask, tap, dropout_probability)


KERNELS: dict[str, AttentionKernel] = {
    "plain": plain_attention,
    "tiled": tiled_attention,
    "triton": triton_attention,
}
"""Every attention core by name."""


def split_heads(
    x: Float[Tensor, "batch time width"], n_head: int
) -> Float[Tensor, "batch head time head_width"]:
    """Return `x` cut into heads: head `j` is the `j`-th run of consecutive features."""
    return x.reshape(*x.shape[:-1], n_head, -1).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, "batch head time head_width"],
) -> Float[Tensor, "batch time width"]:
    """Return the heads laid side by side again."""
    return x.transpose(1, 2).flatten(-2)


class Attention(nn.Module):
    """Multi-head causal self-attention: project, split, attend, merge, project."""

    def __init__(
        self, width: int, n_head: int, *, core: AttentionKernel, attn_pdrop: float
    ) -> None:
        super().__init__()
        self.n_head = n_head
        self.core = core
        self.attn_pdrop = attn_pdrop
        self.c_attn = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)

    def gathered(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap = no_tap,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the context of each position: what `c_proj` is given.

        With a cache, `x` follows the tokens that are there, and sees them.

        Source: finetune-transformer-lm train.py `attn` (a69b5c4).
        """
        query, key, value = (
            split_heads(part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1)
        )
        tap_attn = prefixed("attn", tap)
        query = tap_attn("query", query)
        key = tap_attn("key", key)
        value = tap_attn("value", value)
        if cache is not None:
            key, value = cache.extended(key, value)
        dropped = self.attn_pdrop if self.training else 0.0
        context = merge_heads(self.core(query, key, value, mask, tap_attn, dropped))
        return tap_attn("context", context)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap = no_tap,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return what each position gathers from itself and the positions before it."""
        return tap("attn", self.c_proj(self.gathered(x, mask, tap, cache)))
