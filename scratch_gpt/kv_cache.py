"""Keys and values of the tokens so far, so that no token is ever computed twice.

Room is made once, for every token there can be. A block writes its new keys and values behind
those it has and attends to a view of them all: nothing is joined, and nothing is copied.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.causal_mask import accumulate_dtype
from scratch_gpt.config import GPTConfig


class BlockCache(NamedTuple):
    """One block's part of a cache, while a chunk of tokens passes.

    Attributes:
        key: `[batch head capacity head_width]`, filled up to `start`.
        value: `[batch head capacity head_width]`, the same.
        start: Tokens that were there before the chunk.
    """

    key: Tensor
    value: Tensor
    start: int

    def extended(
        self,
        key: Float[Tensor, "batch head time head_width"],
        value: Float[Tensor, "batch head time head_width"],
    ) -> tuple[
        Float[Tensor, "batch head time_k head_width"], Float[Tensor, "batch head time_k head_width"]
    ]:
        """Keep a chunk's keys and values; return all there are, in the dtype they are kept in.

        A chunk with nothing before it is returned as it came: the very tensors that a model
        without a cache attends to.
        """
        end = self.start + key.shape[-2]
        self.key[:, :, self.start : end] = key
        self.value[:, :, self.start : end] = value
        if self.start == 0:
            return key, value
        return self.key[:, :, :end], self.value[:, :, :end]


Views = tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]


class KVCache:
    """Every block's keys and values of `length` tokens in each row, with room for `capacity`."""

    def __init__(
        self,
        config: GPTConfig,
        *,
        batch: int,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Make the room.

        Args:
            config: The model's shape.
            batch: Rows of text.
            capacity: Tokens in each row at most; the model's `n_positions` where None.
            dtype: The model's, or the one that its core works in; torch's default where None.
            device: The model's; torch's default where None.

        Raises:
            ValueError: There would be no room at all.
        """
        capacity = config.n_positions if capacity is None else capacity
        if min(batch, capacity) < 1:
            message = f"a cache needs a batch and a capacity of at least 1, got {batch}, {capacity}"
            raise ValueError(message)
        self.config = config
        self.batch, self.capacity, self.length = batch, capacity, 0
        shape = (config.n_layer, 2, batch, config.n_head, capacity, config.n_embd // config.n_head)
        self.kept = torch.empty(shape, dtype=dtype, device=device)
        self.keys, self.values = self.kept[:, 0], self.kept[:, 1]

    def block(self, index: int) -> BlockCache:
        """Return the part that belongs to one block."""
        return BlockCache(self.keys[index], self.values[index], self.length)

    def views(self, seen: int) -> Views:
        """Return what a step of one token needs of each block, `seen` tokens being there after it.

        Returns:
            Of each block the last token's place `[2 batch head head_width]`, the keys
            `[heads head_width seen]` and the values `[heads seen head_width]`; the heads of all
            rows are one axis.
        """
        places = self.kept[..., seen - 1, :].unbind(0)
        flat = self.kept.flatten(2, 3)[..., :seen, :]
        return places, flat[:, 0].transpose(-2, -1).unbind(0), flat[:, 1].unbind(0)

    def check(
        self,
        token_ids: Int[Tensor, "batch time"],
        config: GPTConfig,
        table: Float[Tensor, "vocab width"],
    ) -> None:
        """Refuse a chunk of tokens that cannot follow.

        Args:
            token_ids: `[batch time]`, the chunk.
            config: That of the model which is given it.
            table: The model's token embedding.

        Raises:
            ValueError: The cache was made for another model or batch, it has no room left, or
                autograd is recording: a later chunk would change what an earlier one's gradient
                needs.
        """
        batch, time = token_ids.shape
        message = ""
        if config != self.config:
            message = f"the cache was made for {self.config}, the model has {config}"
        elif (self.keys.dtype, self.keys.device) not in _homes(table):
            message = (
                f"the cache is {self.keys.dtype} on {self.keys.device}, the model's weights are "
                f"{table.dtype} on {table.device}"
            )
        elif batch != self.batch:
            message = f"token_ids has {batch} rows, the cache was made for {self.batch}"
        elif self.length + time > self.capacity:
            message = (
                f"token_ids has {time} tokens a row and the cache {self.length} of at most "
                f"{self.capacity}; make it with more capacity"
            )
        elif torch.is_grad_enabled():
            message = "a cache keeps no gradients; call the model inside torch.no_grad()"
        if message:
            raise ValueError(message)

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Let row `i` go on from what row `rows[i]` was.

        The one copy that there is: whoever keeps some rows and drops others asks for it.
        """
        moved = (rows != torch.arange(self.batch, device=rows.device)).nonzero()[:, 0]
        if len(moved) > 0:
            texts = self.kept[:, :, rows[moved], :, : self.length]
            self.kept[:, :, moved, :, : self.length] = texts

    def clear(self) -> None:
        """Forget every token; the room stays."""
        self.length = 0


def _homes(table: Tensor) -> set[tuple[torch.dtype, torch.device]]:
    """Return where a model's keys may be kept: in its own dtype, or in float32 for half ones."""
    return {(dtype, table.device) for dtype in (table.dtype, accumulate_dtype(table.dtype))}
