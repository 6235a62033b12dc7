"""Causal and padding masks, and the checks of a kernel's inputs."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.causal_mask import check_kernel_inputs, hidden_keys

Draw = Callable[..., Tensor]

CPU = torch.device("cpu")


@pytest.mark.parametrize(("time_q", "time_k"), [(1, 1), (5, 5), (3, 5), (1, 5)])
def test_later_keys_are_hidden(time_q: int, time_k: int) -> None:
    expected = [[[[k > q + time_k - time_q for k in range(time_k)] for q in range(time_q)]]]
    assert hidden_keys(time_q, time_k, None, CPU).tolist() == expected


@pytest.mark.parametrize("time_q", [5, 3])
def test_padding_is_hidden_but_from_itself(time_q: int) -> None:
    mask = [[False, False, True, True, True], [True, False, True, True, False], [False] * 5]
    queries = range(5 - time_q, 5)
    expected = [
        [[[k > own or (not row[k] and k != own) for k in range(5)] for own in queries]]
        for row in mask
    ]
    assert hidden_keys(time_q, 5, torch.tensor(mask), CPU).tolist() == expected


def test_is_on_the_requested_device(meta: torch.device) -> None:
    assert meta == hidden_keys(5, 5, None, meta).device


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param([2, 1, 5, 7], [2, 1, 5, 7], id="a head that would broadcast"),
        pytest.param([1, 3, 5, 7], [1, 3, 5, 7], id="a batch that would broadcast"),
        pytest.param([2, 3, 5, 7], [2, 3, 6, 7], id="a value too many"),
        pytest.param([2, 3, 5, 8], [2, 3, 5, 8], id="another head width"),
    ],
)
def test_unfit_keys_and_values_are_rejected(key: list[int], value: list[int], draw: Draw) -> None:
    message = f"like query, got [2, 3, 5, 7], {key}, {value}"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_kernel_inputs(draw(2, 3, 5, 7), draw(*key), draw(*value), None)


@pytest.mark.parametrize("time_q", [6, 0], ids=["more queries than keys", "no query"])
def test_a_wrong_number_of_queries_is_rejected(time_q: int, draw: Draw) -> None:
    message = f"attention needs 1 <= time_q <= time_k, got {time_q} and 5"
    with pytest.raises(ValueError, match=message):
        check_kernel_inputs(draw(2, 3, time_q, 7), draw(2, 3, 5, 7), draw(2, 3, 5, 7), None)


@pytest.mark.parametrize("shape", [[2, 3], [1, 5]], ids=["over the queries", "would broadcast"])
def test_a_mask_that_does_not_fit_is_rejected(shape: list[int], draw: Draw) -> None:
    mask = torch.ones(shape, dtype=torch.bool)
    message = f"mask must be [batch time_k] = [2, 5], got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_kernel_inputs(draw(2, 3, 3, 7), draw(2, 3, 5, 7), draw(2, 3, 5, 7), mask)
