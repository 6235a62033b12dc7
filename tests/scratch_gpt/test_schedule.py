"""The schedule: every rate agrees with the oracle; its ends; invalid input."""

import math
from collections.abc import Callable

import pytest
import torch

from reference import training_oracle
from scratch_gpt.schedule import SHAPES, Schedule


@pytest.mark.parametrize("warmup", [0, 1, 7, 36])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_oracle(shape: str, warmup: int, assert_same: Callable[..., None]) -> None:
    schedule = Schedule(steps=37, peak=0.25, warmup=warmup, shape=shape)
    ours = [schedule.learning_rate(step) for step in range(37)]
    expected = [training_oracle.learning_rate(t, 37, warmup, 0.25, shape) for t in range(37)]
    assert_same(torch.tensor(expected).double(), torch.tensor(ours).double())


def test_the_first_rate_of_the_release_is_0() -> None:
    """The release counts the steps before this one; its PyTorch port is one step ahead."""
    released = Schedule(steps=100, warmup=10)
    port = Schedule(steps=100, warmup=10, counted_from=1)
    assert released.learning_rate(0) == 0.0
    assert [port.learning_rate(n) for n in range(99)] == [
        released.learning_rate(n + 1) for n in range(99)
    ]


def test_the_defaults_are_the_papers() -> None:
    """2,000 steps up to 2.5e-4, and half of it in the middle."""
    schedule = Schedule(steps=8000)
    rates = [schedule.learning_rate(n) for n in (1000, 2000, 4000)]
    assert rates == [1.25e-4, 2.5e-4, pytest.approx(1.25e-4)]


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_rate_stays_at_0_after_the_last_step(shape: str) -> None:
    schedule = Schedule(steps=100, warmup=10, shape=shape)
    assert schedule.learning_rate(100) == schedule.learning_rate(150) == 0.0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"peak": -1.0}, "peak must be finite"),
        ({"peak": math.inf}, "peak must be finite"),
        ({"warmup": 100}, "warmup must be at least 0 and less than steps, 100, got 100"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"shape": "step"}, "shape must be one of"),
        ({"counted_from": 2}, "counted_from must be 0 or 1"),
    ],
    ids=str,
)
def test_an_invalid_field_is_rejected(named: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**{"steps": 100, "warmup": 10} | named)


def test_a_negative_step_is_rejected() -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        Schedule(steps=100, warmup=10).learning_rate(-1)
