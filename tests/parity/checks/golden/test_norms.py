"""Norms of matrices whose singular values are known."""

import math

import pytest
import torch
from torch import Tensor

from parity.checks.golden.measure import STATISTICS, matrices, quantities
from reference.published import QUANTITIES
from reference.published import STATISTICS as NAMES
from scratch_gpt import GPT


def of_singular_values(values: list[float], rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    middle = torch.zeros(rows, columns, dtype=torch.float64)
    middle.diagonal()[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return left @ middle @ right


@pytest.mark.parametrize(("rows", "columns"), [(7, 3), (3, 7), (4, 4)], ids=["tall", "wide", "4"])
def test_norms_are_those_of_the_singular_values(rows: int, columns: int) -> None:
    """With singular values 3, 2 and 0.5 every quantity follows by hand."""
    found = quantities(of_singular_values([0.5, 3.0, 2.0], rows, columns))
    squared = 9.0 + 4.0 + 0.25
    expected = {
        "rms": math.sqrt(squared / (rows * columns)),
        "frobenius_over_sqrt2": math.sqrt(squared / 2.0),
        "half_sigma_max_squared": 4.5,
        "stable_rank": squared / 9.0,
    }
    assert set(QUANTITIES) == set(expected)
    assert found == pytest.approx(expected, rel=1e-12)


def test_float32_is_widened_first() -> None:
    """A sum of a million squares would lose digits in float32."""
    matrix = torch.full((1000, 1000), 1.1, dtype=torch.float32)
    value = float(torch.tensor(1.1))
    assert quantities(matrix)["rms"] == pytest.approx(value, rel=1e-12)


def test_a_matrix_of_zeros_has_no_rank() -> None:
    assert math.isnan(quantities(torch.zeros(3, 2))["stable_rank"])


def test_the_matrices_are_the_published_fifty(ours: GPT) -> None:
    held = matrices(ours)
    a_block = [name.removeprefix("h.7.") for name in held if name.startswith("h.7.")]
    assert (len(held), a_block[:2]) == (50, ["attn.c_attn.weight", "attn.c_proj.weight"])
    assert {"tokens_embed.weight", "positions_embed.weight"} < set(held)


def test_one_number_is_made_of_many() -> None:
    found = {name: STATISTICS[name]([4.0, 1.0, 2.5]) for name in NAMES}
    assert found == {"least": 1.0, "largest": 4.0, "mean": 2.5}
