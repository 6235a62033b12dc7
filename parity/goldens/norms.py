"""Norms of a model's matrices, in float64: what tells known weights from others without a run.

Source: weightwatcher 0.2.7 divides each matrix W by the root of 2 before it takes its norms;
`rms` is taken before that.
"""

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter with two axes: both embeddings, and four a block."""
    return {name: p.detach() for name, p in model.named_parameters() if p.ndim == 2}  # noqa: PLR2004


def quantities(matrix: Tensor) -> dict[str, float]:
    """Return the norms of `matrix`, keys of `reference.golden_schema.QUANTITIES`.

    With s the largest singular value and |W| the Frobenius norm: |W| / sqrt(numel), |W| / sqrt(2),
    s² / 2 and |W|² / s².
    """
    wide = matrix.double()
    gram = wide.T @ wide if len(wide) >= wide.shape[1] else wide @ wide.T
    squared = float(gram.trace())
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    return {
        "rms": math.sqrt(squared / matrix.numel()),
        "frobenius_over_sqrt2": math.sqrt(squared / 2.0),
        "half_sigma_max_squared": largest / 2.0,
        "stable_rank": squared / largest if largest else math.nan,
    }


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "least": min,
    "largest": max,
    "mean": statistics.fmean,
}
"""How one number is made of all matrices'."""
