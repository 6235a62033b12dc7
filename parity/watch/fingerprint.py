"""What identifies a tensor's numbers in any order: the same for every reshape and permutation."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Fingerprint(NamedTuple):
    """Sums over a tensor's elements, and over its causal entries if its last axes are square.

    Moments only preselect: attention weights have a fixed mean, least and largest element, and a
    wrong block may agree to 4e-8. Sorted values decide.

    Attributes:
        size: Number of elements.
        finite: Number of finite ones; the other numbers are of these.
        largest: Largest magnitude, by which the elements are divided before the other numbers.
        moments: Mean, mean square and mean cube, least and greatest element.
        causal: The same of the entries on and below the diagonal of the last two axes, after its
            own largest magnitude; empty where these axes are not square. A mask's value is not in
            it.
        ahead: Number of entries above that diagonal that no mask hides: above -1,000.
    """

    size: int
    finite: int
    largest: float
    moments: tuple[float, ...]
    causal: tuple[float, ...] = ()
    ahead: int = 0

    def is_like(self, other: "Fingerprint", tolerance: float = 1e-6) -> bool:
        """Return whether both may be of the same numbers.

        A tensor that has causal entries on both sides is compared by these alone.
        """
        if self.size != other.size:
            return False
        if self.finite != other.finite and not (self.causal and other.causal):
            return False
        mine, its = (self.largest, *self.moments), (other.largest, *other.moments)
        if self.causal and other.causal:
            mine, its = self.causal, other.causal
        return _close(mine, its, tolerance)


def _close(mine: tuple[float, ...], its: tuple[float, ...], tolerance: float) -> bool:
    scale = max(mine[0], its[0])
    if not abs(mine[0] - its[0]) <= tolerance * scale:  # NaN is like nothing
        return False
    return all(abs(a - b) <= tolerance for a, b in zip(mine[1:], its[1:], strict=True))


def fingerprint_of(tensor: Tensor) -> Fingerprint:
    """Return the fingerprint of a floating-point tensor with at least one element."""
    values = tensor.detach().to(torch.float64)
    finite, largest, moments = _moments(values.reshape(-1))
    causal: tuple[float, ...] = ()
    ahead = 0
    if values.ndim > 1 and values.shape[-1] == values.shape[-2] > 1:
        kept = _triangle(values.shape[-1]).to(values.device)
        causal_finite, causal_largest, causal_moments = _moments(values.flatten(-2)[..., kept])
        causal = (causal_largest, *causal_moments, float(causal_finite))
        shown = values > _HIDDEN
        ahead = int(shown.sum()) - int(shown.flatten(-2)[..., kept].sum())
    return Fingerprint(values.numel(), finite, largest, moments, causal, ahead)


_HIDDEN = -1e3
"""What a mask makes of scores, or less."""


@functools.lru_cache(maxsize=8)
def _triangle(side: int) -> Tensor:
    """Return the places on and below the diagonal of a square matrix, row by row."""
    rows, columns = torch.tril_indices(side, side)
    places: Tensor = rows * side + columns
    return places


def _moments(values: Tensor) -> tuple[int, float, tuple[float, ...]]:
    """Return the number of finite values, the largest magnitude, and the moments."""
    values = values.reshape(-1)
    least, greatest = (float(x) for x in torch.aminmax(values))
    if not math.isfinite(least) or not math.isfinite(greatest):
        values = values[values.isfinite()]
        if not values.numel():
            return 0, 0.0, (0.0,) * 5
        least, greatest = (float(x) for x in torch.aminmax(values))
    largest = max(abs(least), abs(greatest))
    if largest == 0.0:
        return values.numel(), 0.0, (0.0,) * 5
    sums = _sums(values, largest)
    return values.numel(), largest, (*sums, least / largest, greatest / largest)


_CUBED = 1e90
"""Larger numbers are divided before they are cubed."""


def _sums(values: Tensor, largest: float) -> tuple[float, float, float]:
    """Return the mean, mean square and mean cube of values over the largest magnitude."""
    if not 1.0 / _CUBED < largest < _CUBED:
        values, largest = values / largest, 1.0
    count = values.numel()
    square = values * values
    return (
        float(values.sum()) / largest / count,
        float(square.sum()) / largest**2 / count,
        float(torch.dot(square, values)) / largest**3 / count,
    )
