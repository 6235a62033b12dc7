"""Medians, spreads, ratios and exponents, of numbers whose answer is known."""

import math

import pytest

from bench.results import NOISY, Spread, exponent, paired_ratios, spread


def test_a_spread_is_the_middle_half() -> None:
    """Of five values, in any order: the middle one, and the ones half way to the ends."""
    expected = Spread(3.0, 2.0, 4.0, 5)
    assert expected == spread([5.0, 1.0, 3.0, 2.0, 4.0])


def test_one_bad_round_moves_no_median() -> None:
    """A neighbour that took the machine once shows in neither median nor quartiles."""
    expected = Spread(1.0, 1.0, 1.0, 5)
    assert expected == spread([1.0, 1.0, 100.0, 1.0, 1.0])


def test_nothing_has_no_median() -> None:
    """No measurements are an error and not a number."""
    with pytest.raises(ValueError, match="no measurements"):
        spread([])


def test_a_drift_of_the_machine_cancels() -> None:
    """Rounds that take twice and thrice as long for both leave the ratio as it is."""
    expected = [0.5, 0.5, 0.5]
    assert expected == paired_ratios([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])


def test_rounds_that_do_not_pair_are_refused() -> None:
    """A round that one side lacks is nothing to skip."""
    with pytest.raises(ValueError, match="2 rounds of ours against 1 of theirs"):
        paired_ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "noisy"),
    [
        (1.0, 1.0, False),
        (1.0 - NOISY / 4, 1.0 + NOISY / 4, False),
        (1.0 - NOISY, 1.0 + NOISY, True),
        (1.0, math.nan, True),
        (1.0, math.inf, True),
    ],
)
def test_a_wide_spread_is_noisy(low: float, high: float, noisy: bool) -> None:  # noqa: FBT001
    """Beyond the bound, or where it is no number at all."""
    assert noisy == Spread(1.0, low, high, 5).noisy


def test_a_median_of_zero_is_noisy() -> None:
    """No spread can be judged against it."""
    assert Spread(0.0, 0.0, 0.0, 5).noisy


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_an_exponent_is_the_power(power: float) -> None:
    """Whatever the factor before it."""
    sizes = [1024.0, 2048.0, 4096.0]
    assert power == pytest.approx(exponent(sizes, [7.0 * size**power for size in sizes]))


@pytest.mark.parametrize("amounts", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_what_has_no_exponent_is_refused(amounts: list[float]) -> None:
    """One point is no line, and nothing grows from nothing."""
    with pytest.raises(ValueError, match="no exponent"):
        exponent([1.0, 2.0][: len(amounts)], amounts)
