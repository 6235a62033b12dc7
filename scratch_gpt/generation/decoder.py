"""Decoding: a prompt at once, then a token at a time.

The prompt goes the model's own way, through the tiled core. A token after it is one row of each
product, where time is reading weights and little else; see `scratch_gpt.generation.step`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.attention_strips import worked_in
from scratch_gpt.generation.cache import Cache
from scratch_gpt.generation.head import Head
from scratch_gpt.generation.step import Step
from scratch_gpt.inputs import check_inputs
from scratch_gpt.model import GPT


class Decoder:
    """A model that goes on from where it is, with its cache; nothing is recorded for gradients.

    Weights are read as they are when it is made: make it anew after they have changed.
    """

    def __init__(self, model: GPT, *, batch: int, capacity: int | None = None) -> None:
        """Make the room.

        Args:
            model: Is run by its `fused` path, as in evaluation, whatever its own path and mode.
            batch: Rows of text.
            capacity: Tokens in each row at most; `n_positions` where None.

        Raises:
            ValueError: No room at all.
        """
        self.model = model.with_attention("fused").eval()
        table = model.tokens_embed.weight
        self.cache = Cache(
            model.config,
            batch=batch,
            capacity=capacity,
            dtype=worked_in(table),
            device=table.device,
        )
        self._step = Step(self.model, self.cache)
        self._head = Head(table, rows=batch)

    @property
    def length(self) -> int:
        """Tokens of each row so far."""
        return self.cache.length

    @torch.no_grad()
    def start(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch vocab"]:
        """Forget what was, take a prompt, and return the logits of what follows it.

        Raises:
            ValueError: Ids that the model cannot take, or another batch, or too many of them.
        """
        self.cache.clear()
        hidden = self.model.hidden(token_ids, cache=self.cache)
        return self._head(hidden[:, -1])

    @torch.no_grad()
    def step(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Take one more token of each row; return the logits of what follows.

        Raises:
            ValueError: As for `start`.
        """
        table, config = self.model.tokens_embed.weight, self.model.config
        chunk, cached = token_ids[:, None], self.length
        check_inputs(chunk, None, None, config=config, device=table.device, cached=cached)
        self.cache.check(chunk, config, table)
        return self._head(self._step(token_ids))

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Let row `i` go on from what row `rows[i]` was."""
        self.cache.reorder(rows)
