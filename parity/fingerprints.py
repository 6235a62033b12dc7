"""Fingerprints of tensors and ids: what two runs on two machines can be compared by.

A digest says whether anything moved, to the bit. A sketch says by how much, without the tensors;
see `parity.sketch`. A report holds them where they were asked for, since they cost time.
"""

import dataclasses
import fnmatch
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
            `huggingface/tiled`. So has the oracle's, whose numbers are there what operations are
            given: rounded to the dtype judged.
        dtype: Dtype of the run; `ids` where nothing was computed.
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

    A key is taken once. A witness that runs again beside another of our paths makes the same.

    Args:
        wanted: Whether they are.
        select: Pattern of the taps that are wanted, as of a shell.

    Attributes:
        wanted: Whether they are.
    """

    def __init__(self, *, wanted: bool = False, select: str = "*") -> None:
        self.wanted, self._select = wanted, select
        self._draws = Draws()
        self._taken: dict[tuple[str, str, str], Fingerprint | None] = {}

    @property
    def taken(self) -> list[Fingerprint]:
        """Every fingerprint, in the order in which their places were kept, else taken."""
        return [found for found in self._taken.values() if found is not None]

    def keep_places(self, run: str, taps: Iterable[str]) -> None:
        """Keep places for taps that will come, in whatever order they do.

        Args:
            run: Subject and dtype: `ours/plain/float32`, on its own numbers.
            taps: Their names.
        """
        for tap in taps:
            self._taken.setdefault((run, _own(run), tap))

    def take(
        self, run: str, tap: str, tensor: Tensor, *, beside: str = "", visible: Tensor | None = None
    ) -> None:
        """Take a tensor's.

        Args:
            run: Subject and dtype: `ours/plain/float32`.
            tap: Its name.
            tensor: Of any float dtype and layout, on any device. It is not written to.
            beside: In an isolated pass, the path that is walked; a witness gets its name. Where
                empty, the run goes on with its own numbers.
            visible: Bool, broadcastable to the shape: False at entries that do not count.
        """
        mode = _own(run)
        if beside:
            side, _, dtype = run.partition("/")
            mode, run = "isolated", run if side == "ours" else f"{side}/{beside}/{dtype}"
        subject, _, dtype = run.rpartition("/")
        if self._passes_by(run, mode, tap):
            return
        digest, sketch = self._measured(tensor.detach(), visible)
        finite = math.isfinite(sketch.norm)
        self._taken[run, mode, tap] = Fingerprint(
            subject=subject,
            dtype=dtype,
            mode=mode,
            tap=tap,
            shape=tuple(tensor.shape),
            digest=digest,
            norm=sketch.norm if finite else None,
            sketch=encoded(sketch.sums) if finite else "",
        )

    def take_ids(self, run: str, tap: str, texts: Iterable[Sequence[int]]) -> None:
        """Take that of all ids of some texts, in order, each text's behind its length.

        Args:
            run: Subject and dtype: `ours/fused/float32`; `ids` where nothing was computed.
            tap: What they are.
            texts: Their ids.
        """
        subject, _, dtype = run.rpartition("/")
        if self._passes_by(run, "exact", tap):
            return
        sha, count = hashlib.sha256(b"ids"), 0
        for ids in texts:
            sha.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
            count += len(ids)
        self._taken[run, "exact", tap] = Fingerprint(
            subject=subject,
            dtype=dtype,
            mode="exact",
            tap=tap,
            shape=(count,),
            digest=sha.hexdigest()[:DIGITS],
        )

    def _passes_by(self, run: str, mode: str, tap: str) -> bool:
        """Return whether nothing is to be taken under this key."""
        wanted = self.wanted and fnmatch.fnmatchcase(tap, self._select)
        return not wanted or self._taken.get((run, mode, tap)) is not None

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


def _own(run: str) -> str:
    """Return the mode of a run that goes on with its own numbers."""
    return "identity" if run.endswith("/float64") else "propagated"


def _chunks(tensor: Tensor, visible: Tensor | None) -> Iterator[Tensor]:
    """Yield a tensor's elements in C order, some at a time; 0 where an entry does not count."""
    flat = tensor.reshape(-1)  # a view wherever one will do, so its elements may lie apart
    hidden = None if visible is None else (~visible.cpu()).expand(tensor.shape).reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        chunk = flat[part].contiguous()
        yield chunk if hidden is None else chunk.masked_fill(hidden[part], 0.0)
