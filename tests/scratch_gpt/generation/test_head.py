"""The head for few rows."""

import pytest
import torch
from torch import Tensor

from scratch_gpt.generation.decoder import Head


@pytest.fixture
def table() -> Tensor:
    """Return a table `[37, 21]` of whole numbers, whose products no dtype rounds."""
    generator = torch.Generator().manual_seed(20180611)
    return torch.randint(-3, 4, (37, 21), generator=generator).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_is_the_product_with_the_table(rows: int, dtype: torch.dtype, table: Tensor) -> None:
    """In every layout and dtype, of one row and of several."""
    x = table[5 : 5 + rows]
    expected = torch.einsum("rw,vw->rv", x, table)
    assert torch.equal(expected.to(dtype), Head(table.to(dtype), rows=rows)(x.to(dtype)))


def test_copies_in_float32_alone(table: Tensor) -> None:
    """There one layout is read twice as fast; elsewhere the table is a view."""
    copied = Head(table.float(), rows=1)
    assert copied.weight.flatten(0, 1).is_contiguous()
    assert table.numel() * 4 == copied.copied_bytes
    view = Head(table, rows=1)
    assert view.weight.data_ptr() == table.data_ptr()
    assert view.copied_bytes == 0
