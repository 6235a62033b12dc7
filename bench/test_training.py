"""Whole training steps, ours and Hugging Face's, and optimizers alone.

Run it with `make bench`. The weights are the full-size surrogate's; at 2 x 512 a proof takes
minutes, and some 10 GB.
"""

import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import Contender, NoTimeError, attempted
from bench.models import Measurement
from bench.results import Status
from bench.runner import Make
from bench.targets import Work, train
from bench.workloads import optimizer, training

ROUNDS = 3
STEPS = {
    "smoke": ((1, 37),),
    "default": ((1, 64), (2, 512)),
    "whole": tuple((batch, time) for batch in (1, 2, 4, 8) for time in (64, 128, 256, 512)),
}
"""Rows of text, and tokens of each."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the steps every shape of the grid asked for."""
    if "shape" in metafunc.fixturenames:
        shapes = STEPS[metafunc.config.getoption("--grid")]
        metafunc.parametrize("shape", shapes, ids=lambda shape: f"{shape[0]}x{shape[1]}")


@functools.cache
def measurement() -> Measurement:
    """Return what holds both models; built once."""
    return Measurement(None, lambda *_: None)


def ready(make: Make, name: str, task: Work, *, ours: bool) -> Contender:
    """Return a contestant that was proved right; skip or fail where it gets no time."""
    try:
        with attempted(ours=ours):
            return make(name, task, torch.device("cpu"), measurement())
    except NoTimeError as refusal:
        (pytest.fail if refusal.status is Status.WRONG else pytest.skip)(str(refusal))


def timed(benchmark: BenchmarkFixture, its: Contender) -> None:
    """Take the time of something, and prove it once more."""
    benchmark.pedantic(its.run, rounds=ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert its.check is not None
    benchmark.extra_info.update(error=its.check())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("name", ["fused", "huggingface"])
def test_step(
    benchmark: BenchmarkFixture, name: str, shape: tuple[int, int], *, dropout: bool
) -> None:
    """Every change and gradient is right, and is right again afterwards."""
    task = train(*shape, dropout=dropout)
    benchmark.group = str(task)
    timed(benchmark, ready(training.make, name, task, ours=name != "huggingface"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["adamw", "openai", "torch foreach", "torch fused"])
def test_optimizer(benchmark: BenchmarkFixture, name: str) -> None:
    """Every change is right, and is right again afterwards."""
    task = Work(room="optimizer", label="whole")
    benchmark.group = str(task)
    timed(benchmark, ready(optimizer.make, name, task, ours=optimizer.ours(name)))
