"""Fingerprints of tensors and ids: what two runs on two machines can be compared by.

A digest says whether anything moved, to the bit. A sketch says by how much, without the tensors;
see `parity.sketch`. A report holds them where they were asked for, since they cost time.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.sketch import CHUNK, Draws, Sketch, encoded

DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is kept of one tensor, or of the ids of one run; the first four fields are its key.

    Attributes:
        subject: Whose it is: `ours/` and the attention path, a witness's name, or `oracle`. In an
            isolated pass Hugging Face's run is walked beside one path, and has its name too:
            `huggingface/tiled`.
        dtype: Dtype of the run; `ids` for what is no tensor.
        mode: How it was met, a `parity.results.Mode`.
        tap: Its name.
        shape: The tensor's shape; for ids their number.
        digest: The first 16 hexadecimal digits of SHA-256, over dtype, shape and bytes in C order;
            entries that do not count are 0. Zeros of either sign differ.
        norm: The root of the sum of squares; None for ids, and for what is not finite.
        sketch: The sketch in base64; empty where there is no norm.
    """

    subject: str
    dtype: str
    mode: str
    tap: str
    shape: tuple[int, ...]
    digest: str
    norm: float | None = None
    sketch: str = ""


class Fingerprints:
    """Takes fingerprints of whatever it is shown, if they are wanted; it changes nothing.

    Args:
        wanted: Whether they are.
    """

    def __init__(self, *, wanted: bool = False) -> None:
        self.wanted = wanted
        self._draws = Draws()
        self._taken: list[Fingerprint] = []

    @property
    def taken(self) -> Sequence[Fingerprint]:
        """Every fingerprint, in the order in which they were taken."""
        return self._taken

    def take(  # noqa: PLR0913 - a key, and what it is of
        self,
        subject: str,
        dtype: str,
        mode: str,
        tap: str,
        tensor: Tensor,
        visible: Tensor | None = None,
    ) -> None:
        """Take a tensor's.

        Args:
            subject: Whose it is.
            dtype: Dtype of the run.
            mode: How it was met.
            tap: Its name.
            tensor: Of any float dtype and layout, on any device. It is not written to.
            visible: Bool, broadcastable to the shape: False at entries that do not count.
        """
        if not self.wanted:
            return
        digest, sketch = self._measured(tensor.detach(), visible)
        finite = math.isfinite(sketch.norm)
        self._taken.append(
            Fingerprint(
                subject=subject,
                dtype=dtype,
                mode=mode,
                tap=tap,
                shape=tuple(tensor.shape),
                digest=digest,
                norm=sketch.norm if finite else None,
                sketch=encoded(sketch.sums) if finite else "",
            )
        )

    def take_ids(self, subject: str, tap: str, texts: Iterable[Sequence[int]]) -> None:
        """Take that of all ids of some texts, in order, each text's behind its length."""
        if not self.wanted:
            return
        sha, count = hashlib.sha256(b"ids"), 0
        for ids in texts:
            sha.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
            count += len(ids)
        self._taken.append(
            Fingerprint(
                subject=subject,
                dtype="ids",
                mode="exact",
                tap=tap,
                shape=(count,),
                digest=sha.hexdigest()[:DIGITS],
            )
        )

    def _measured(self, tensor: Tensor, visible: Tensor | None) -> tuple[str, Sketch]:
        """Return a tensor's digest, and its sketch."""
        name = str(tensor.dtype).removeprefix("torch.")
        sha = hashlib.sha256(f"{name} {list(tensor.shape)}".encode())
        sketch = Sketch(self._draws)
        with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite
            for chunk in _chunks(tensor.cpu(), visible):
                sha.update(chunk.view(torch.uint8).numpy().data)
                sketch.add(chunk.double().numpy())
        return sha.hexdigest()[:DIGITS], sketch


def _chunks(tensor: Tensor, visible: Tensor | None) -> Iterator[Tensor]:
    """Yield a tensor's elements in C order, some at a time; 0 where an entry does not count."""
    flat = tensor.reshape(-1)
    hidden = None if visible is None else (~visible.cpu()).expand(tensor.shape).reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        yield flat[part] if hidden is None else flat[part].masked_fill(hidden[part], 0.0)
