"""The fixtures reject wrong results."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_socket import SocketBlockedError
from torch import Tensor, nn

from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.linear import Linear

ONES = torch.ones(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        pytest.param(ONES, ONES + 1e-9, id="another number"),
        pytest.param(ONES, ONES * float("nan"), id="not a number"),
        pytest.param(ONES * float("nan"), ONES * float("nan"), id="no number on either side"),
        pytest.param(ONES * float("inf"), ONES * float("inf"), id="infinity on either side"),
        pytest.param(ONES, ONES[:1], id="a shape that would broadcast"),
        pytest.param(ONES, ONES.float(), id="another dtype"),
        pytest.param(ONES.float(), ONES.float(), id="float32"),
    ],
)
def test_different_tensors_are_rejected(
    expected: Tensor, actual: Tensor, assert_same: Callable[..., None]
) -> None:
    with pytest.raises(AssertionError):
        assert_same(expected, actual)


def test_rounding_is_the_same(assert_same: Callable[..., None]) -> None:
    """A difference in the last bits passes, relative to the largest number."""
    assert_same(ONES * 1e6, ONES * 1e6 + 1e-9)
    assert_same(ONES.numpy(), ONES + 1e-15)


def test_a_missing_package_has_no_home(home_of: Callable[[str], Path | None]) -> None:
    assert home_of("there_is_no_such_package") is None


def test_a_tap_called_twice_is_rejected(watch: Callable[..., Tensor]) -> None:
    watch("name", ONES)
    with pytest.raises(AssertionError, match="name was called twice"):
        watch("name", ONES)


def test_loud_parameters_are_neither_0_nor_1(loud: Callable[[nn.Module], nn.Module]) -> None:
    for module in (Linear(7, 13), LayerNorm(7, epsilon=0.1)):
        for parameter in loud(module).parameters():
            assert torch.float64 is parameter.dtype
            assert not bool(((parameter == 0) | (parameter == 1)).any())


@pytest.mark.filterwarnings("ignore:A test tried:UserWarning")
def test_no_test_reaches_the_network() -> None:
    with pytest.raises(SocketBlockedError):
        socket.socket(socket.AF_INET)
