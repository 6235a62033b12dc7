"""What the numbers of a wrong tensor show: each pattern on random tensors, and none on others."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.core.patterns import AXES, LEFT_ON, PARAMETER, pattern, size_like
from parity.core.taps import Axes

ROWS, HEADS = AXES[Axes.ROWS], AXES[Axes.HEADS]
Words = Callable[..., tuple[str, str]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


RIGHT = drawn(3, 37, 21)
NOISE = drawn(3, 37, 21, seed=1)


def cause(value: Tensor, right: Tensor = RIGHT, **more: object) -> str:
    """Return the cause, or what else is shown; not both."""
    note, found = pattern(value, right, names=ROWS, **more)  # type: ignore[arg-type]
    assert "" in (note, found)
    return note or found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_narrower_type_is_recognised(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    assert cause(RIGHT.to(dtype).double()) == (
        f"all of its values are numbers of {name}: an operation computes in it"
    )
    matrix = drawn(21, 21, seed=2)
    inside = RIGHT.to(dtype).double() @ matrix
    assert cause(inside, RIGHT @ matrix) == (
        f"the differences are the rounding of {name}: an operation computes in it"
    )


def test_a_sum_in_float32_is_recognised_though_a_row_is_off_alike() -> None:
    sums = 1.0 + 2.0**-25 * NOISE[..., :1]
    assert "the rounding of float32" in cause(RIGHT * sums)
    assert "too few digits" in cause(RIGHT * (1.0 + 2.0**-25 * NOISE[..., :1].abs()))


@pytest.mark.parametrize("off", [1e-6, 1e-9, 1e-11])
def test_a_constant_with_too_few_digits_is_recognised(off: float) -> None:
    digits = "a constant has too few digits"
    found = cause(torch.tanh(RIGHT * (1.0 + off)), torch.tanh(RIGHT))
    assert found == f"small and even differences, as if {digits}"
    factor = pattern(RIGHT * (1.0 + off), RIGHT, names=ROWS)
    assert factor == (f"it is the right one times 1 + {off:.2g}", digits)


def test_a_factor_is_no_constant_of_few_digits() -> None:
    assert cause(RIGHT * 1.5) == "it is the right one times 1.5"
    assert cause(-RIGHT) == "it is the right one times -1"


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_is_recognised_in_a_tensor_and_in_a_summand(probability: float) -> None:
    draws = torch.rand(RIGHT.shape, generator=torch.Generator().manual_seed(3)) >= probability
    dropped = RIGHT * draws / (1.0 - probability)
    assert cause(dropped) == LEFT_ON
    branch = drawn(3, 37, 21, seed=4)
    both = RIGHT + branch
    assert cause(dropped + branch, both, summands=[RIGHT, branch]) == LEFT_ON
    assert cause(dropped + branch, both) == ""
    assert cause(RIGHT * draws) != LEFT_ON  # not scaled up
    assert cause(RIGHT * draws / (1.0 - probability / 2)) != LEFT_ON  # scaled by another factor


def test_other_functions_have_no_words() -> None:
    for other in (torch.sin, torch.relu, torch.exp):
        assert cause(other(RIGHT)) == ""
    assert cause(RIGHT + 1e-3 * RIGHT**2) == ""  # smooth, of the size of float16's rounding
    assert cause(RIGHT) == ""
    assert cause(RIGHT * (1.0 + 1e-12), within=1e-11) == ""
    assert cause(torch.full_like(RIGHT, math.nan)) == ""
    assert cause(torch.zeros_like(RIGHT)) == "it is the right one times 0"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ((slice(None), slice(32, None)), "from the edge of a tile on, or the last, ragged tile"),
        ((slice(1, None),), "the offset or stride of the batch, or a tile that spans its rows"),
        ((slice(None), [15, 16, 31, 32]), "off by one at the edges of tiles"),
        ((slice(None), slice(3, 9)), "only from token 3 to 8, of 37"),
        ((2, 5), "only row of the batch 2 of 3"),
        ((slice(None), slice(None), 4), "only feature 4 of 21"),
        ((slice(None), slice(1, None)), ""),  # as with any mistake in attention
    ],
)
def test_wrong_parts_of_a_tensor_are_named(part: tuple[object, ...], words: str) -> None:
    wrong = RIGHT.clone()
    wrong[part] += NOISE[part]  # type: ignore[index]
    where, _ = pattern(wrong, RIGHT, names=ROWS)
    assert words in where
    assert bool(where) == bool(words)


def test_only_entries_that_count_are_looked_at() -> None:
    right, wrong = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    visible = torch.ones(8, 8, dtype=torch.bool).tril()[None, None]
    beyond = torch.where(visible, right, wrong * math.inf)
    assert pattern(beyond, right, names=HEADS, visible=visible) == ("", "")
    beyond[:, 2] = torch.where(visible[:, 0], wrong[:, 2], math.nan)
    where, _ = pattern(beyond, right, names=HEADS, visible=visible)
    assert where == "only head 2 of 3"


def test_a_parameter_has_rows_and_columns() -> None:
    right = drawn(21, 63)
    wrong = right.clone()
    wrong[:, 21:42] += 1.0
    assert pattern(wrong, right, names=PARAMETER)[0] == "only from column 21 to 41, of 63"
    assert pattern(wrong[0], right[0], names=PARAMETER)[0] == "only from row 21 to 41, of 63"


def test_the_size_of_a_rounding_is_that_of_its_type() -> None:
    assert [size_like(2.0**-power) for power in (10, 13, 26)] == ["bfloat16", "float16", "float32"]
    assert [size_like(size) for size in (0.0, 1e-12, 1e-5, 1.0)] == [""] * 4
