"""One more token, ours with its cache and Hugging Face's without, and the bare read.

Run it with `make bench`. The weights are the full-size surrogate's.
"""

import dataclasses
import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import NoTimeError, attempted
from bench.models import Measurement
from bench.results import Status
from bench.targets import decode
from bench.workloads.decoding import READS, make

ROUNDS = 9
NAMES = ("fused", "fused in bfloat16", "huggingface", *READS)

CASES = {
    "smoke": ((1, 2), (2, 2)),
    "default": ((1, 64), (1, 448), (8, 64)),
    "whole": tuple(
        (batch, time) for batch in (1, 2, 4, 8, 16) for time in (2, 37, 64, 128, 256, 448, 512)
    ),
}
"""Rows of text, and the tokens behind which there are logits."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test every way to decode at every context of the grid asked for."""
    cases = [
        pytest.param(name, *case, id=f"{name.replace(' ', '_')}-{case[0]}x{case[1]}")
        for case in CASES[metafunc.config.getoption("--grid")]
        for name in NAMES
        if name not in READS or case[0] == 1
    ]
    metafunc.parametrize(("name", "batch", "time"), cases)


@functools.cache
def measurement() -> Measurement:
    """Return what holds both models; built once."""
    return Measurement(None, lambda *_: None)


@pytest.mark.timeout(1800)
def test_step(benchmark: BenchmarkFixture, name: str, batch: int, time: int) -> None:
    """The logits are right, the step's time is taken, and they are right afterwards."""
    task = decode(batch, time)
    benchmark.group = f"decode {batch}x{time}"
    try:
        with attempted(ours=name != "huggingface"):
            ready = make(name, task, torch.device("cpu"), measurement())
    except NoTimeError as refusal:
        (pytest.fail if refusal.status is Status.WRONG else pytest.skip)(str(refusal))
    benchmark.pedantic(ready.run, rounds=ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    error = ready.check() if ready.check is not None else 0.0
    benchmark.extra_info.update(error=error, **dataclasses.asdict(task.shape))
