"""`--explain`: the distribution of errors at one tap, and its worst elements."""

from typing import Any

import torch
from torch import Tensor

_WORST = 5
_DECADES = range(-18, 5)


class Explainer:
    """Records the errors of one tap in every run."""

    def __init__(self, tap: str | None) -> None:
        self.tap = tap
        self._runs: dict[str, dict[str, Any]] = {}

    def look(self, subject: str, tap: str, tensor: Tensor, truth: Tensor, *, per_op: bool) -> None:
        """Record how `tensor` differs from `truth`, if this is the tap."""
        if tap != self.tap or tensor.shape != truth.shape:
            return
        gap = (tensor.double() - truth).abs()
        name = f"{subject}, per-op" if per_op else subject
        self._runs[name] = {"histogram": histogram(gap), "worst": _worst(gap, tensor, truth)}

    def explanation(self) -> dict[str, Any] | None:
        """Return the records by run; None without `--explain`."""
        return None if self.tap is None else {"tap": self.tap, "runs": self._runs}


def histogram(gap: Tensor) -> dict[str, int]:
    """Return how many absolute differences fall into each decade, the empty ends left out.

    `1e-07` counts differences from 1e-7 up to, but not including, 1e-6.
    """
    decades = torch.floor(torch.log10(gap[(gap > 0) & torch.isfinite(gap)]))
    selected = {
        **{f"1e{decade:+03d}": decades == decade for decade in _DECADES},
        "below": decades < _DECADES[0],
        "above": decades > _DECADES[-1],
        "not finite": ~torch.isfinite(gap),
    }
    counts = {label: int(chosen.sum()) for label, chosen in selected.items()}
    return {"0": int((gap == 0).sum())} | {label: n for label, n in counts.items() if n}


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
