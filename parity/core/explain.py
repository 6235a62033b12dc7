"""`--explain`: the distribution of errors at one tap, and its worst elements."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_WORST = 5
_DECADES = range(-18, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    histogram: Mapping[str, int]
    worst: list[dict[str, Any]]


class Explainer:
    """Records the errors of one tap in every run."""

    def __init__(self, tap: str | None) -> None:
        self.tap = tap
        self._seen: dict[str, _Seen] = {}

    def look(self, subject: str, tap: str, tensor: Tensor, truth: Tensor, *, per_op: bool) -> None:
        """Record how `tensor` differs from `truth`, if this is the tap."""
        if tap != self.tap or tensor.shape != truth.shape:
            return
        gap = (tensor.double() - truth).abs()
        name = f"{subject}, per-op" if per_op else subject
        self._seen[name] = _Seen(histogram=histogram(gap), worst=_worst(gap, tensor, truth))

    def explanation(self) -> dict[str, Any] | None:
        """Return the records by run; None without `--explain`."""
        if self.tap is None:
            return None
        runs = {name: dataclasses.asdict(seen) for name, seen in self._seen.items()}
        return {"tap": self.tap, "runs": runs}


def histogram(gap: Tensor) -> dict[str, int]:
    """Return how many absolute differences fall into each decade, the empty ends left out.

    `1e-07` counts differences from 1e-7 up to, but not including, 1e-6.
    """
    counts = {"0": int((gap == 0).sum())}
    decades = torch.floor(torch.log10(gap[(gap > 0) & torch.isfinite(gap)]))
    for decade in _DECADES:
        if number := int((decades == decade).sum()):
            counts[f"1e{decade:+03d}"] = number
    for label, beyond in (("below", decades < _DECADES[0]), ("above", decades > _DECADES[-1])):
        if number := int(beyond.sum()):
            counts[label] = number
    if number := int((~torch.isfinite(gap)).sum()):
        counts["not finite"] = number
    return counts


def _worst(gap: Tensor, tensor: Tensor, truth: Tensor) -> list[dict[str, Any]]:
    """Return the worst elements: index, our value, the oracle's, and the difference."""
    top = gap.flatten().topk(min(_WORST, gap.numel()))
    places = [tuple(int(i) for i in torch.unravel_index(place, gap.shape)) for place in top.indices]
    return [
        {
            "index": list(place),
            "ours": float(tensor[place]),
            "oracle": float(truth[place]),
            "difference": float(gap[place]),
        }
        for place in places
    ]
