"""How far two tensors are apart: exact counts and float64 sums, never a verdict.

Shape and dtype are compared before any value is looked at; nothing broadcasts. A value that is
not finite, on either side, is a finding of its own even where both sides agree.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from parity.core.taps import Axes


class Status(StrEnum):
    """The result of one planned comparison."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    NONFINITE = "nonfinite"
    MISSING = "missing"
    EXTRA = "extra"
    SHAPE = "shape"
    DTYPE = "dtype"
    NOT_RUN = "not_run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of a tensor from its reference.

    Attributes:
        status: PASS where values were compared; else why they were not.
        detail: For any other status, one phrase.
        count: Elements compared.
        rms: Root of the mean square of the differences.
        largest: Largest absolute difference.
        worst_index: Where that is.
        scale: Root mean square of the reference.
        scale_largest: Largest absolute value of the reference.
        ours: The tensor's value at the worst index.
        reference: The reference's value there.
    """

    status: Status
    detail: str = ""
    shape: tuple[int, ...] = ()
    count: int = 0
    rms: float = math.nan
    largest: float = math.nan
    worst_index: tuple[int, ...] = ()
    scale: float = math.nan
    scale_largest: float = math.nan
    ours: float = math.nan
    reference: float = math.nan

    @property
    def relative_rms(self) -> float:
        """Root mean square of the differences over that of the reference; NaN where it is 0."""
        return _quotient(self.rms, self.scale)

    @property
    def relative_largest(self) -> float:
        """Largest difference over the reference's root mean square; NaN where that is 0."""
        return _quotient(self.largest, self.scale)

    @property
    def peak_ratio(self) -> float:
        """Largest difference over the reference's largest value; NaN where that is 0."""
        return _quotient(self.largest, self.scale_largest)


def _quotient(numerator: float, denominator: float) -> float:
    """Return the quotient; NaN over 0, so that no comparison with it can pass."""
    return numerator / denominator if denominator > 0.0 else math.nan


class Reference:
    """A reference tensor, whose own size is measured once for many comparisons.

    Args:
        tensor: The reference, of any float dtype, of at least two axes.
        visible: Bool, broadcastable to the shape: False at entries that do not count.
    """

    def __init__(self, tensor: Tensor, visible: Tensor | None = None) -> None:
        self.tensor, self.visible = tensor, visible
        # In float64, so that a difference of two narrow tensors is not rounded to their dtype.
        self._rows = _in_rows(tensor).double()
        self._hidden = None if visible is None else _hidden_rows(visible, tensor)
        self.count = tensor.numel() if visible is None else _count(visible, tensor.shape)
        squares, self.largest, _ = _tally(self._chunks(), places=False)
        self.scale = math.sqrt(squares / max(1, self.count))

    def difference(self, tensor: Tensor, *, dtype: torch.dtype) -> Difference:
        """Measure `tensor`, which must have that dtype, against this one; both as float64."""
        shape = tuple(tensor.shape)
        if tensor.shape != self.tensor.shape:
            detail = f"shape {list(shape)}, the reference has {list(self.tensor.shape)}"
            return Difference(status=Status.SHAPE, detail=detail, shape=shape)
        if tensor.dtype != dtype:
            detail = f"dtype {tensor.dtype}, expected {dtype}"
            return Difference(status=Status.DTYPE, detail=detail, shape=shape)
        if self.count == 0:
            return Difference(status=Status.NOT_RUN, detail="no entry counts", shape=shape)
        return self._measured(tensor)

    def _measured(self, tensor: Tensor) -> Difference:
        squares, largest, place = _tally(self._chunks(_in_rows(tensor)))
        index = tuple(int(i) for i in np.unravel_index(place, tensor.shape))
        finite = math.isfinite(largest) and math.isfinite(self.largest)
        return Difference(
            status=Status.PASS if finite else Status.NONFINITE,
            detail="" if finite else f"not finite, first at {list(index)}",
            shape=tuple(tensor.shape),
            count=self.count,
            rms=math.sqrt(squares / self.count) if finite else math.nan,
            largest=largest,
            worst_index=index,
            scale=self.scale if finite else math.nan,
            scale_largest=self.largest,
            ours=float(tensor[index]),
            reference=float(self.tensor[index]),
        )

    def _chunks(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the difference of some rows from the reference's; without rows, the reference.

        Entries that do not count are 0.
        """
        step = max(1, _CHUNK // max(1, self._rows.shape[1]))
        for start in range(0, len(self._rows), step):
            part = slice(start, start + step)
            chunk = self._rows[part] if rows is None else rows[part] - self._rows[part]
            if self._hidden is not None:
                hidden = self._hidden if len(self._hidden) == 1 else self._hidden[part]
                chunk = chunk.masked_fill(hidden, 0.0)
            yield chunk.reshape(-1)


def difference(
    tensor: Tensor, reference: Tensor, *, dtype: torch.dtype, visible: Tensor | None = None
) -> Difference:
    """Measure one tensor against one reference."""
    return Reference(reference, visible).difference(tensor, dtype=dtype)


_CHUNK = 1 << 17
"""Elements per step: so few that every step of one chunk finds it in the cache."""


def _in_rows(tensor: Tensor) -> Tensor:
    """Return a two-axis view on the CPU: the last axes, after the first one or two, as rows."""
    lead = math.prod(tensor.shape[:2]) if tensor.ndim > 2 else tensor.shape[0]  # noqa: PLR2004
    return tensor.detach().cpu().reshape(lead, math.prod(tensor.shape) // max(1, lead))


def _hidden_rows(visible: Tensor, tensor: Tensor) -> Tensor:
    """Return the entries that do not count, as rows; a single row if all are alike."""
    alike = visible.shape == (1, 1, *tensor.shape[2:])
    full = visible if alike else visible.expand(tensor.shape)
    return _in_rows(~full)


def _count(visible: Tensor, shape: torch.Size) -> int:
    repeats = math.prod(
        size // max(1, seen) for size, seen in zip(shape, visible.shape, strict=True)
    )
    return int(visible.sum()) * repeats


def _tally(chunks: Iterable[Tensor], *, places: bool = True) -> tuple[float, float, int]:
    """Return the sum of squares, the largest absolute value and, if `places`, where it is.

    Of values that are not finite, the first is reported.
    """
    squares, largest, before = 0.0, 0.0, 0
    worst: tuple[Tensor, int] | None = None  # the chunk, and where it begins
    for chunk in chunks:
        if chunk.numel() > 0:
            squares += float(torch.dot(chunk, chunk))
            extreme = _extreme(chunk)
            # Written so that NaN counts as larger.
            if not extreme <= largest and math.isfinite(largest):
                largest, worst = extreme, (chunk, before)
            before += len(chunk)
    if worst is None or not places:
        return squares, largest, 0
    return squares, largest, worst[1] + _first_extreme(worst[0], largest)


def _extreme(x: Tensor) -> float:
    """Return the largest absolute value; NaN where there is one."""
    low, high = torch.aminmax(x)  # both are NaN where one element is
    return max(abs(float(low)), abs(float(high)))


def _first_extreme(flat: Tensor, extreme: float) -> int:
    """Return the index of the first value that is not finite, else of the largest."""
    if math.isfinite(extreme):
        return int(flat.abs().argmax())
    return int((~torch.isfinite(flat)).nonzero()[0])


def visible_entries(axes: Axes, mask: Tensor | None, time: int) -> Tensor | None:
    """Return which entries of a tap count, broadcastable to its shape; None where all do.

    Rows of padding are exempt: in Hugging Face's model they attend to the future. Scores count
    where the key is neither in the future nor padding: a masked entry is a constant of the
    implementation. `mask` is `[batch time]`, bool, False at padding; None without padding.
    """
    if axes is Axes.SCORES:
        causal = torch.ones(time, time, dtype=torch.bool).tril()[None, None]
        return causal if mask is None else causal & mask[:, None, :, None] & mask[:, None, None, :]
    if mask is None:
        return None
    rows = {
        Axes.ROWS: mask[:, :, None],
        Axes.HEADS: mask[:, None, :, None],
        Axes.WEIGHTS: mask[:, None, :, None],
        Axes.LOSS: mask[:, :-1] & mask[:, 1:],
        Axes.POSITIONS: None,
    }
    return rows[axes]


# The effect of a difference on loss, probabilities and rankings. It is reported and never decides:
# on these numbers most faults pass.

_ROWS = 64
"""Rows per step, so that no copy of the vocabulary's width grows with time."""
_TOP = 5


def consequences(
    logits: Tensor, truth: Tensor, token_ids: Tensor, mask: Tensor | None
) -> dict[str, float]:
    """Compare two sets of logits by loss, probabilities and rankings.

    Args:
        logits: `[batch time vocab]`, ours.
        truth: `[batch time vocab]`, the oracle's, float64.
        token_ids: `[batch time]`.
        mask: `[batch time]`, bool, False at padding; None without padding.

    Returns:
        `loss_ours` and `loss_oracle` (mean, nats per predicted token; NaN at time 1),
        `log_softmax_largest`, `kl_mean` and `kl_largest` (nats per position), `top1_agreement`,
        `top5_agreement` (fractions), `rank_change_largest` (of the oracle's top five), and
        `flip_gap_largest` (the oracle's lead of its first choice over ours, where they differ).
    """
    real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
    targets = torch.full_like(token_ids, -1)
    targets[:, :-1] = torch.where(real[:, 1:], token_ids[:, 1:], -1)
    ours, oracle = logits.flatten(0, 1), truth.flatten(0, 1)
    # Rows are taken a few at a time: a copy of all logits is as large as everything else.
    parts = [
        _part(ours[rows].double(), oracle[rows], targets.flatten()[rows])
        for rows in torch.split(real.flatten().nonzero()[:, 0], _ROWS)
    ]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    mean = {name: float(x.mean()) if len(x) else math.nan for name, x in found.items()}
    largest = {name: float(x.max()) if len(x) else math.nan for name, x in found.items()}
    return {
        "loss_ours": mean["loss_ours"],
        "loss_oracle": mean["loss_oracle"],
        "log_softmax_largest": largest["log_softmax"],
        "kl_mean": mean["kl"],
        "kl_largest": largest["kl"],
        "top1_agreement": mean["top1"],
        "top5_agreement": mean["top5"],
        "rank_change_largest": largest["rank_change"],
        "flip_gap_largest": largest["flip_gap"],
    }


def _part(ours: Tensor, oracle: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return every quantity for some rows, one value a row."""
    ours_log, oracle_log = torch.log_softmax(ours, -1), torch.log_softmax(oracle, -1)
    gap = ours_log - oracle_log
    top = min(_TOP, ours.shape[-1])
    oracle_top = oracle.topk(top, -1)
    ours_top = ours.topk(top, -1)
    places = torch.arange(top, device=ours.device)
    chosen = ours.gather(-1, oracle_top.indices)
    ranks = torch.stack([(ours > chosen[:, [place]]).sum(-1) for place in range(top)], -1)
    shared = (ours_top.indices[:, :, None] == oracle_top.indices[:, None, :]).any(-1)
    ours_choice = ours_top.indices[:, :1]
    predicted = (targets >= 0).nonzero()[:, 0]
    wanted = targets[predicted][:, None]
    return {
        "kl": -(oracle_log.exp() * gap).sum(-1),
        "log_softmax": gap.abs().amax(-1),
        "top1": (ours_choice[:, 0] == oracle_top.indices[:, 0]).double(),
        "top5": shared.double().mean(-1),
        "rank_change": (ranks - places).abs().amax(-1).double(),
        "flip_gap": oracle_top.values[:, 0] - oracle.gather(-1, ours_choice)[:, 0],
        "loss_ours": -ours_log[predicted].gather(-1, wanted)[:, 0],
        "loss_oracle": -oracle_log[predicted].gather(-1, wanted)[:, 0],
    }
