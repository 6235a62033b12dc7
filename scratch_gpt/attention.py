"""Causal multi-head self-attention: the plain kernel, the layer, and the parts of a backend.

An attention kernel turns queries, keys and values into context vectors. `plain_attention` is the
paper's formula; `scratch_gpt.kernels` holds faster kernels with the same signature.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scratch_gpt.causal_mask import check_kernel_inputs, hidden_keys
from scratch_gpt.config import GPTConfig
from scratch_gpt.dropout import dropout
from scratch_gpt.kv_cache import BlockCache
from scratch_gpt.linear import Linear, linear
from scratch_gpt.tap import Tap, no_tap, prefixed


@runtime_checkable
class AttentionKernel(Protocol):
    """The signature of every attention kernel.

    `scratch_gpt.register_attention` makes a backend of a function of one's own.
    """

    def __call__(  # noqa: PLR0913 - the three inputs and their options
        self,
        query: Float[Tensor, "batch head time_q head_width"],
        key: Float[Tensor, "batch head time_k head_width"],
        value: Float[Tensor, "batch head time_k head_width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap | None = None,
        dropout_probability: float = 0.0,
    ) -> Float[Tensor, "batch head time_q head_width"]:
        """Return the context vectors: a new tensor with the shape, dtype and device of `query`.

        A kernel is called with all six arguments by position, and writes into none of them.

        Args:
            query: The last `time_q` tokens. Query `t` attends to the keys up to
                `t + time_k - time_q`.
            key: With cached keys `time_k` exceeds `time_q`.
            value: Like `key`.
            mask: False at padding, which is hidden; None without padding. A padding query attends
                to itself, so that softmax gives no NaN; rows of real tokens are unaffected.
            tap: Called as `x = tap("scores", x)` with the scaled scores before the masks, and as
                `x = tap("weights", x)` with the softmax, both `[batch head time_q time_k]`. A
                kernel that never forms one of them makes no such call, and its backend declares it.
            dropout_probability: The share of the weights that become 0; the others are divided by
                what is left. Above 0 in training alone.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """The functions that a model is computed with; all backends compute the same numbers.

    The table of backends is `scratch_gpt.kernels.backends.BACKENDS`.
    """

    attention: AttentionKernel
    gelu: Callable[[Tensor], Tensor]
    layer_norm: Callable[..., Tensor]
    head: Callable[[Tensor, Tensor], Tensor]
    linear: Callable[..., Tensor] = linear
    fuse_residual: bool = False
    """Whether a residual is added in the memory of the product before it."""
    compiled: bool = False
    """Whether each block runs through `torch.compile`."""
    never_forms: tuple[str, ...] = ()
    """Taps that a registered kernel does not call: `scores`, `weights`, both or none."""


def softmax(scores: Float[Tensor, "*rows time_k"]) -> Float[Tensor, "*rows time_k"]:
    """Return the softmax over the last axis; large scores cannot overflow.

    A score of `-inf` gets weight 0; each row needs one finite score. The row's largest score is
    subtracted first. It cancels, so no gradient flows through it.
    """
    exponentials = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def plain_attention(  # noqa: PLR0913 - the signature of an attention kernel
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,
    dropout_probability: float = 0.0,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return `softmax(query key^T / sqrt(head_width)) value`, as in the paper.

    Forms the whole `[time_q time_k]` matrix. The query is scaled rather than the scores: the
    product is the same, and unscaled scores, which may exceed the dtype's range, never exist.
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


def split_heads(
    x: Float[Tensor, "batch time width"], n_head: int
) -> Float[Tensor, "batch head time head_width"]:
    """Return `x` split into heads: head `j` is the `j`-th run of consecutive features."""
    return x.reshape(*x.shape[:-1], n_head, -1).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, "batch head time head_width"],
) -> Float[Tensor, "batch time width"]:
    """Return the heads concatenated; the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(-2)


class Attention(nn.Module):
    """Multi-head causal self-attention: project, split, attend, merge, project."""

    def __init__(self, config: GPTConfig, backend: Backend) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.attn_pdrop = config.attn_pdrop
        self.kernel = backend.attention
        width, product = config.n_embd, backend.linear
        self.c_attn = Linear(width, 3 * width, product=product)
        self.c_proj = Linear(width, width, product=product)

    def context(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap = no_tap,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the merged context vectors, the input of `c_proj`.

        With a cache, `x` follows the cached tokens and attends to them too. Taps: `attn.query`,
        `attn.key`, `attn.value`, the kernel's, `attn.context`.

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
            query = query.to(key.dtype)  # the cache of a half-precision model may be float32
        probability = self.attn_pdrop if self.training else 0.0
        context = merge_heads(self.kernel(query, key, value, mask, tap_attn, probability))
        return tap_attn("context", context.to(x.dtype))

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap = no_tap,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the attention output at each position; taps `context`'s and `attn`."""
        return tap("attn", self.c_proj(self.context(x, mask, tap, cache)))
