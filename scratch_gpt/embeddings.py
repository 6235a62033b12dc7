"""Token and learned position embeddings, their sum, and the output head that shares the table."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.tap import Tap


class Embedding(nn.Module):
    """A table `[entries, width]`; a lookup is plain indexing."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width))

    def forward(self, indices: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Return the rows at `indices`; the caller has checked their range."""
        return self.weight[indices]


def embed(  # noqa: PLR0913 - two tables, their indices, the tap
    tokens_embed: Embedding,
    positions_embed: Embedding,
    token_ids: Int[Tensor, "batch time"],
    positions: Int[Tensor, "rows time"] | None,
    tap: Tap,
    first: int = 0,
) -> Float[Tensor, "batch time width"]:
    """Return each token's row plus its position's row.

    Taps: `embeddings.tokens` and `embeddings.positions`. The caller taps the sum.

    Args:
        tokens_embed: Table `[vocab, width]`.
        positions_embed: Table `[n_positions, width]`.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; if None, `first`, `first + 1`, ...
        tap: Called with both lookups.
        first: The first token's position if `positions` is None.

    Source: finetune-transformer-lm train.py `embed` (a69b5c4).
    """
    tokens = tap("embeddings.tokens", tokens_embed(token_ids))
    if positions is None:
        positions = first + torch.arange(token_ids.shape[1], device=token_ids.device)[None]
    return tokens + tap("embeddings.positions", positions_embed(positions))


def head(
    x: Float[Tensor, "batch time width"], table: Float[Tensor, "vocab width"]
) -> Float[Tensor, "batch time vocab"]:
    """Return the logits `x table^T`, where `table` is the token embedding.

    This is the output head, unrelated to attention heads. The released code keeps tokens and
    positions in one table; here only the tokens are scored.

    Source: finetune-transformer-lm train.py `model` (a69b5c4).
    """
    return x @ table.T
