"""Token ids to run the models on: drawn from a seed, or given; and a digest of them."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.core.fingerprints import DIGITS
from parity.errors import UsageError
from scratch_gpt.errors import quote


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every model is given.

    Attributes:
        token_ids: `[batch time]`, int64.
        positions: `[batch time]` or `[1 time]`, int64; None for 0, 1, 2, ...
        attention_mask: `[batch time]`, bool, False at padding; None without padding.
    """

    token_ids: Tensor
    positions: Tensor | None = None
    attention_mask: Tensor | None = None

    def digests(self) -> dict[str, str]:
        """Return a digest of the ids, and one of whatever else was given."""
        given = {
            "ids": self.token_ids,
            "positions": self.positions,
            "attention_mask": self.attention_mask,
        }
        return {name: digest([tensor]) for name, tensor in given.items() if tensor is not None}


def digest(tensors: Iterable[Tensor]) -> str:
    """Return `sha256 ` and 16 hexadecimal digits of tensors of whole numbers or bools, in order.

    Each is hashed as its shape and its entries: int64, little-endian, in C order. A seed does not
    identify ids: another version of NumPy may draw others from it.
    """
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{list(tensor.shape)}\n".encode())
        sha.update(tensor.cpu().numpy().astype("<i8").tobytes())
    return f"sha256 {sha.hexdigest()[:DIGITS]}"


def seeded(*, batch: int, time: int, vocab_size: int, seed: int) -> Inputs:
    """Return ids drawn from `seed`, with the first id, the last id and a repeat if these fit."""
    ids = np.random.Generator(np.random.Philox(seed)).integers(0, vocab_size, size=batch * time)
    fixed = [0, vocab_size - 1, vocab_size - 1]
    count = min(len(fixed), len(ids))
    # Spread out, so that their positions differ too.
    ids[[(index * len(ids)) // count for index in range(count)]] = fixed[:count]
    return Inputs(token_ids=torch.from_numpy(ids.reshape(batch, time)).long())


_MOST = 10_000_000


def parse(text: str) -> Inputs:
    """Return the ids of `text`: numbers separated by commas, rows by semicolons.

    `481,4735,544;12,7` is two rows. Shorter rows are padded on the right, and masked.

    Raises:
        UsageError: Something in it is not a whole number, a row is empty, or there are too many.
    """
    try:
        rows = [[int(number) for number in row.split(",")] for row in text.split(";")]
        longest = max(map(len, rows))
        if len(rows) * longest <= _MOST:
            return from_rows(rows)
        raise UsageError(
            f"{len(rows):,} rows, padded to {longest:,} ids; the limit is {_MOST:,} ids",
            where="--token-ids",
            fix="give fewer rows, or rows of similar length",
        )
    except (ValueError, RuntimeError) as error:  # the latter: no int64 holds it
        raise UsageError(
            f"--token-ids holds something that is not a whole number: {error}",
            where=f"--token-ids {quote(text)}",
            fix="separate ids by commas and rows by semicolons: 481,4735,544;12,7",
        ) from error


def from_rows(rows: Sequence[Sequence[int]]) -> Inputs:
    """Return rows of ids, the shorter ones padded with id 0 on the right, and masked."""
    time = max(len(row) for row in rows)
    token_ids = torch.tensor([[*row, *[0] * (time - len(row))] for row in rows])
    if all(len(row) == time for row in rows):
        return Inputs(token_ids=token_ids)
    lengths = torch.tensor([len(row) for row in rows])
    return Inputs(token_ids=token_ids, attention_mask=torch.arange(time) < lengths[:, None])
