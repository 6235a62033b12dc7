"""Token and learned position embeddings, and their sum."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.tap import Tap


class Embedding(nn.Module):
    """Owns a table `[entries, width]`; a lookup is plain indexing."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width))

    def forward(self, indices: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Return the rows at `indices`, which the caller has checked."""
        return self.weight[indices]


def embed(  # noqa: PLR0913 - two tables, what to look up, and from where
    tokens_embed: Embedding,
    positions_embed: Embedding,
    token_ids: Int[Tensor, "batch time"],
    positions: Int[Tensor, "rows time"] | None,
    tap: Tap,
    first: int = 0,
) -> Float[Tensor, "batch time width"]:
    """Return each token's row plus its position's row.

    Args:
        tokens_embed: Table `[vocab, width]`.
        positions_embed: Table `[n_positions, width]`.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; `first`, `first + 1`, ... where None.
        tap: Sees `embeddings.tokens` and `embeddings.positions`; the sum is the caller's to show.
        first: The first token's position where no positions are given.

    Source: finetune-transformer-lm train.py `embed` (a69b5c4).
    """
    tokens = tap("embeddings.tokens", tokens_embed(token_ids))
    if positions is None:
        positions = first + torch.arange(token_ids.shape[1], device=token_ids.device)[None]
    places = tap("embeddings.positions", positions_embed(positions))
    return tokens + places
