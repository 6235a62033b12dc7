"""Causal and padding masks, and the checks of a kernel's inputs."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.causal_mask import check_kernel_inputs, hidden_keys

Draw = Callable[..., Tensor]

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("time_q", "time_k"),
    [
        pytest.param(1, 1, id="one token"),
        pytest.param(5, 5, id="square"),
        pytest.param(3, 5, id="two keys in the past"),
        pytest.param(1, 5, id="last query alone"),
    ],
)
def test_later_keys_are_hidden(time_q: int, time_k: int) -> None:
    expected = [[[[k > q + time_k - time_q for k in range(time_k)] for q in range(time_q)]]]
    actual = hidden_keys(time_q, time_k, None, CPU).tolist()
    assert expected == actual


@pytest.mark.parametrize("time_q", [5, 3])
def test_padding_is_hidden_but_from_itself(time_q: int) -> None:
    mask = [[False, False, True, True, True], [True, False, True, True, False]]
    past = 5 - time_q
    expected = [
        [
            [
                [k > q + past or (not row[k] and k != q + past) for k in range(5)]
                for q in range(time_q)
            ]
        ]
        for row in mask
    ]
    actual = hidden_keys(time_q, 5, torch.tensor(mask), CPU).tolist()
    assert expected == actual


def test_every_query_attends_to_a_key() -> None:
    nothing_real = torch.zeros(2, 5, dtype=torch.bool)
    visible = (~hidden_keys(5, 5, nothing_real, CPU)).sum(-1)
    assert torch.equal(torch.ones(2, 1, 5, dtype=torch.int64), visible)


def test_is_on_the_requested_device(meta: torch.device) -> None:
    assert meta == hidden_keys(5, 5, None, meta).device


@pytest.mark.parametrize(
    ("query", "key", "value", "message"),
    [
        pytest.param(
            [2, 3, 5, 7],
            [2, 1, 5, 7],
            [2, 1, 5, 7],
            "like query, got [2, 3, 5, 7], [2, 1, 5, 7], [2, 1, 5, 7]",
            id="a head that would broadcast",
        ),
        pytest.param(
            [2, 3, 5, 7],
            [1, 3, 5, 7],
            [1, 3, 5, 7],
            "like query, got [2, 3, 5, 7], [1, 3, 5, 7], [1, 3, 5, 7]",
            id="a batch that would broadcast",
        ),
        pytest.param(
            [2, 3, 5, 7],
            [2, 3, 5, 7],
            [2, 3, 6, 7],
            "like query, got [2, 3, 5, 7], [2, 3, 5, 7], [2, 3, 6, 7]",
            id="a value too many",
        ),
        pytest.param(
            [2, 3, 5, 7],
            [2, 3, 5, 8],
            [2, 3, 5, 8],
            "like query, got [2, 3, 5, 7], [2, 3, 5, 8], [2, 3, 5, 8]",
            id="another head width",
        ),
        pytest.param(
            [2, 3, 6, 7],
            [2, 3, 5, 7],
            [2, 3, 5, 7],
            "attention needs 1 <= time_q <= time_k, got 6 and 5",
            id="more queries than keys",
        ),
        pytest.param(
            [2, 3, 0, 7],
            [2, 3, 5, 7],
            [2, 3, 5, 7],
            "attention needs 1 <= time_q <= time_k, got 0 and 5",
            id="no query",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_rejected(
    query: list[int], key: list[int], value: list[int], message: str, draw: Draw
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_kernel_inputs(draw(*query), draw(*key), draw(*value), None)


@pytest.mark.parametrize(
    "shape",
    [pytest.param([2, 3], id="over the queries"), pytest.param([1, 5], id="would broadcast")],
)
def test_a_mask_that_does_not_fit_is_rejected(shape: list[int], draw: Draw) -> None:
    mask = torch.ones(shape, dtype=torch.bool)
    message = f"mask must be [batch time_k] = [2, 5], got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_kernel_inputs(draw(2, 3, 3, 7), draw(2, 3, 5, 7), draw(2, 3, 5, 7), mask)


def test_fewer_queries_than_keys_are_accepted(draw: Draw) -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    check_kernel_inputs(draw(2, 3, 1, 7), draw(2, 3, 5, 7), draw(2, 3, 5, 7), mask)
