"""Whether every number of a tensor is one."""

import math

import pytest
import torch

from scratch_gpt.checkpoint.safetensors import count_not_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counts_what_is_no_number(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    sound = torch.tensor([[limits.max, limits.min], [0.0, -0.0]], dtype=dtype)
    assert count_not_finite(sound) == 0
    for value in (math.nan, math.inf, -math.inf):
        assert count_not_finite(torch.cat([sound, torch.full((2, 2), value, dtype=dtype)])) == 4
        assert count_not_finite(torch.tensor(value, dtype=dtype)) == 1


def test_only_floats_can_fail_to_be_numbers() -> None:
    for tensor in (torch.ones(3, dtype=torch.int64), torch.ones(2, 2).bool(), torch.ones(0, 3)):
        assert count_not_finite(tensor) == 0
