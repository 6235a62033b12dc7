"""Tensors with aligned rows."""

import pytest
import torch

from scratch_gpt.numerics import empty_aligned_rows


@pytest.mark.parametrize(
    ("dtype", "columns"),
    [(torch.float64, 8), (torch.float32, 16), (torch.bfloat16, 32)],
    ids=["float64", "float32", "bfloat16"],
)
def test_rows_are_aligned_and_contiguous(dtype: torch.dtype, columns: int) -> None:
    like = torch.empty(0, dtype=dtype)
    rows = empty_aligned_rows((2, 5, columns + 1), like)
    assert rows.shape == (2, 5, columns + 1)
    assert rows.stride() == (5 * 2 * columns, 2 * columns, 1)
    assert empty_aligned_rows((5, columns), like).is_contiguous()
