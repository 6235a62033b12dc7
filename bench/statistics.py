"""Medians, spreads, ratios round by round, and the exponent of growth. Pure: nothing is timed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

NOISY = 0.10
"""Quartile range over median above which a row is marked as noisy: a neighbour that comes and goes
makes it 0.2 and more on two cores."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle half of some measurements.

    Attributes:
        median: The middle one.
        low: Lower quartile.
        high: Upper quartile.
        count: How many there are.
    """

    median: float
    low: float
    high: float
    count: int

    @property
    def noise(self) -> float:
        """The quartile range over the median; infinite where the median is 0 or not finite."""
        if not (math.isfinite(self.high - self.low) and self.median != 0.0):
            return math.inf
        return (self.high - self.low) / abs(self.median)

    @property
    def noisy(self) -> bool:
        """Whether the median means little. Written so that NaN counts as noisy."""
        return not self.noise <= NOISY


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no measurements, so no median")
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours over theirs, round by round: what slows a whole round cancels.

    Raises:
        ValueError: The rounds are not the same ones.
    """
    if len(ours) != len(theirs):
        message = f"{len(ours)} rounds of ours against {len(theirs)} of theirs"
        raise ValueError(message)
    return [mine / its for mine, its in zip(ours, theirs, strict=True)]


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float:
    """Return the slope of `log(amount)` over `log(size)`, by least squares.

    Raises:
        ValueError: Fewer than two sizes, or something that has no logarithm.
    """
    if len(set(sizes)) < 2 or min(*sizes, *amounts) <= 0.0:  # noqa: PLR2004 - a line needs two
        message = f"no exponent can be fitted through {list(zip(sizes, amounts, strict=True))}"
        raise ValueError(message)
    slope, _ = np.polyfit(np.log(sizes), np.log(amounts), 1)
    return float(slope)
