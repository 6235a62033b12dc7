"""Products with few rows, cut among threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from scratch_gpt.generation.decoder import split_product, split_weight


@pytest.fixture(params=[1, 2, 3, 4, 64])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let torch have so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def weight() -> Tensor:
    """Return a weight `[24, 7]` of whole numbers, whose products nothing rounds."""
    generator = torch.Generator().manual_seed(20180611)
    return torch.randint(-3, 4, (24, 7), generator=generator).double()


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
def test_is_the_product(rows: int, threads: int, weight: Tensor) -> None:
    """With any number of rows and threads."""
    x = torch.arange(rows * 24).reshape(rows, 24).double() % 5
    actual = split_product(x, split_weight(weight, rows=rows))
    assert (True, threads) == (torch.equal(x @ weight, actual), torch.get_num_threads())


def test_a_part_is_a_threads(threads: int, weight: Tensor) -> None:
    """As many parts as threads, but a power of two that divides the inner axis, at most eight."""
    expected = {1: 1, 2: 2, 3: 2, 4: 4, 64: 8}[threads]
    assert expected == len(split_weight(weight, rows=1))


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_is_cut_only_where_that_helps(weight: Tensor) -> None:
    """Not with many rows, not in half precision, and not where the axis cannot be halved."""
    cut = [(weight, 16), (weight, 17), (weight.bfloat16(), 1), (weight[:23], 1)]
    expected = [2, 1, 1, 1]
    assert expected == [len(split_weight(each, rows=rows)) for each, rows in cut]


def test_copies_nothing(threads: int, weight: Tensor) -> None:
    """The parts are where the weight is."""
    parts = split_weight(weight, rows=1)
    assert weight.data_ptr() == parts.data_ptr()
    assert torch.equal(weight, parts.flatten(0, 1))
    assert threads == torch.get_num_threads()


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_a_wrong_cut_shows(weight: Tensor) -> None:
    """Parts in another order are another product."""
    x = torch.arange(24).reshape(1, 24).double()
    wrong = split_weight(weight, rows=1).flip(0).flip(1)
    assert not torch.equal(x @ weight, split_product(x, wrong))
