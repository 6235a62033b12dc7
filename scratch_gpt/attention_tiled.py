"""The tiled attention core: causal attention, a tile of queries at a time.

A tile of queries meets the keys up to its own end and no others, so no tile of scores that lies
wholly in the future is ever computed, and the largest buffer is `[tile time_k]`: it grows with
time and not with its square. The causal rule can hide something only in the last `tile` columns
of such a strip, so only these are masked.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scratch_gpt.dropout import dropout
from scratch_gpt.tap import Tap
from scratch_gpt.visibility import check_core_inputs, hidden_keys

TILE = 128
"""Queries per tile: large enough to keep the matrix product busy, small enough for its strip
of scores to stay in the cache."""


def tiled(  # noqa: PLR0913 - the signature of a core
    query: Float[Tensor, "batch head time_q head_width"],
    key: Float[Tensor, "batch head time_k head_width"],
    value: Float[Tensor, "batch head time_k head_width"],
    mask: Bool[Tensor, "batch time_k"] | None = None,
    tap: Tap | None = None,  # noqa: ARG001 - neither scores nor weights are ever formed whole
    dropout_probability: float = 0.0,
    *,
    tile: int = TILE,
) -> Float[Tensor, "batch head time_q head_width"]:
    """Return causal attention's context without forming the matrix of scores.

    Shows no taps: `scores` and `weights` never exist as tensors.

    Raises:
        ValueError: The shapes do not fit each other.

    Source: the tiling of Dao et al. 2022 (arXiv 2205.14135), without its inner loop over keys.
    """
    check_core_inputs(query, key, value, mask)
    past = key.shape[-2] - query.shape[-2]
    scaled = query * query.shape[-1] ** -0.5
    strips = []
    for start in range(0, query.shape[-2], tile):
        rows = scaled[..., start : start + tile, :]
        seen = past + start + rows.shape[-2]
        seen_mask = None if mask is None else mask[:, :seen]
        strips.append(
            _strip(rows, key[..., :seen, :], value[..., :seen, :], seen_mask, dropout_probability)
        )
    return torch.cat(strips, dim=-2)


def _strip(
    rows: Float[Tensor, "batch head tile head_width"],
    key: Float[Tensor, "batch head seen head_width"],
    value: Float[Tensor, "batch head seen head_width"],
    mask: Bool[Tensor, "batch seen"] | None,
    dropout_probability: float,
) -> Float[Tensor, "batch head tile head_width"]:
    """Return the context of one tile of scaled queries, the last of which sees every key.

    The strip of scores is reused in place by every step; the division by the softmax's sum is
    left to the context, which is narrower.
    """
    scores = rows @ key.transpose(-2, -1)
    _hide(scores, mask)
    # The largest score cancels in the quotient: detached, so that no gradient is computed for it.
    scores -= scores.detach().amax(-1, keepdim=True)
    exponentials = scores.exp_()
    total = exponentials.sum(-1, keepdim=True)
    return (dropout(exponentials, dropout_probability) @ value) / total


def _hide(
    scores: Float[Tensor, "batch head tile seen"], mask: Bool[Tensor, "batch seen"] | None
) -> None:
    """Set the scores of hidden keys to minus infinity, in place."""
    tile, seen = scores.shape[-2:]
    if mask is None:
        corner = scores[..., seen - tile :]
        corner.masked_fill_(hidden_keys(tile, tile, None, scores.device), float("-inf"))
    else:
        scores.masked_fill_(hidden_keys(tile, seen, mask, scores.device), float("-inf"))
