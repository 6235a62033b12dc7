"""A cache of keys and values, so that generation computes each token once.

The memory is allocated once, for the full capacity. A block writes its new keys and values after
the cached ones and attends to a view of all of them, without concatenation or copies.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.config import GPTConfig
from scratch_gpt.numerics import accumulate_dtype


class BlockCache(NamedTuple):
    """One block's part of a cache, during the forward pass of a chunk of tokens."""

    key: Tensor
    """`[batch head capacity head_width]`, filled up to `start`, as `value`."""
    value: Tensor
    start: int
    """Number of tokens before the chunk."""

    def extended(
        self,
        key: Float[Tensor, "batch head time head_width"],
        value: Float[Tensor, "batch head time head_width"],
    ) -> tuple[
        Float[Tensor, "batch head time_k head_width"], Float[Tensor, "batch head time_k head_width"]
    ]:
        """Store a chunk's keys and values; return all keys and values, in the cache's dtype.

        The first chunk is returned as it is: a model without a cache attends to the same tensors.
        """
        end = self.start + key.shape[-2]
        self.key[:, :, self.start : end] = key
        self.value[:, :, self.start : end] = value
        if self.start == 0:
            return key, value
        return self.key[:, :, :end], self.value[:, :, :end]


class KVCache:
    """Every block's keys and values for `length` of at most `capacity` tokens in each row."""

    def __init__(
        self,
        config: GPTConfig,
        *,
        batch: int,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Allocate the memory for `batch` rows of `capacity` tokens, by default `n_positions`.

        `dtype` is the model's, or float32 for a half-precision model.

        Raises:
            ValueError: `batch` or `capacity` is below 1.
        """
        capacity = config.n_positions if capacity is None else capacity
        if min(batch, capacity) < 1:
            raise ValueError(
                f"a cache needs a batch and a capacity of at least 1, got {batch}, {capacity}"
            )
        self.config = config
        self.batch, self.capacity, self.length = batch, capacity, 0
        shape = (config.n_layer, 2, batch, config.n_head, capacity, config.n_embd // config.n_head)
        self.kept = torch.empty(shape, dtype=dtype, device=device)
        self.keys, self.values = self.kept[:, 0], self.kept[:, 1]

    def block(self, index: int) -> BlockCache:
        """Return one block's part."""
        return BlockCache(self.keys[index], self.values[index], self.length)

    def views(self, seen: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the views of each block that a one-token step uses; `seen` counts its token too.

        For each block, these are the last token's slot `[2 batch head head_width]`, the keys
        `[heads head_width seen]` and the values `[heads seen head_width]`; `heads` are the heads of
        all rows.
        """
        slots = self.kept[..., seen - 1, :].unbind(0)
        flat = self.kept.flatten(2, 3)[..., :seen, :]
        return slots, flat[:, 0].transpose(-2, -1).unbind(0), flat[:, 1].unbind(0)

    def check(
        self,
        token_ids: Int[Tensor, "batch time"],
        config: GPTConfig,
        table: Float[Tensor, "vocab width"],
    ) -> None:
        """Reject a chunk of tokens that does not fit this cache.

        `config` and `table`, the token embedding, are those of the model that runs the chunk.

        Raises:
            ValueError: The cache was made for another model or batch, its capacity is exceeded, or
                autograd is recording: a later chunk would overwrite tensors that an earlier
                chunk's gradient needs.
        """
        batch, time = token_ids.shape
        if config != self.config:
            raise ValueError(f"the cache was made for {self.config}, the model has {config}")
        dtypes = (table.dtype, accumulate_dtype(table.dtype))
        if self.keys.device != table.device or self.keys.dtype not in dtypes:
            raise ValueError(
                f"the cache is {self.keys.dtype} on {self.keys.device}, the model's weights are "
                f"{table.dtype} on {table.device}"
            )
        if batch != self.batch:
            raise ValueError(f"token_ids has {batch} rows, the cache was made for {self.batch}")
        if self.length + time > self.capacity:
            raise ValueError(
                f"token_ids has {time} tokens a row and the cache {self.length} of at most "
                f"{self.capacity}; make it with more capacity"
            )
        if torch.is_grad_enabled():
            raise ValueError("a cache records no gradients; call the model inside torch.no_grad()")

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Copy row `rows[i]` to row `i`, for every row that changes; beam search needs it."""
        moved = (rows != torch.arange(self.batch, device=rows.device)).nonzero()[:, 0]
        if len(moved) > 0:
            texts = self.kept[:, :, rows[moved], :, : self.length]
            self.kept[:, :, moved, :, : self.length] = texts

    def clear(self) -> None:
        """Remove every token; the memory stays allocated."""
        self.length = 0
