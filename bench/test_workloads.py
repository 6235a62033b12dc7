"""Models, decoding, training steps, optimizers and tokenizers: verified, timed, verified again.

Run it with `make bench`. The weights are the full-size surrogate's; verifying a training step of
2 x 512 tokens takes minutes and about 10 GB. Attention kernels are in `test_attention.py`.
"""

import dataclasses
import functools
from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import NotTimedError, mapped_errors
from bench.limits import READS, product_flops
from bench.models import Measurement
from bench.results import Status
from bench.runner import WORKLOADS
from bench.shapes import MOST_TOKENS
from bench.targets import OPTIMIZER, Task, decode, model, tokens, train
from bench.workloads import tokenizer

FORWARD = {
    "smoke": ((1, 37),),
    "default": ((1, 1), (1, 64), (1, 512)),
    "whole": tuple(
        (batch, time)
        for batch in (1, 4, 64)
        for time in (1, 37, 64, 128, 256, 512)
        if batch * time <= MOST_TOKENS // 8
    ),
}
"""Batch and time. Logits of more than 4,096 tokens are 660 MB a copy."""

BACKWARD = {
    "smoke": ((1, 37),),
    "default": ((1, 128),),
    "whole": tuple((batch, time) for batch, time in FORWARD["whole"] if time > 1),
}

DECODE = {
    "smoke": ((1, 2), (2, 2)),
    "default": ((1, 64), (1, 448), (8, 64)),
    "whole": tuple(
        (batch, time) for batch in (1, 2, 4, 8, 16) for time in (2, 37, 64, 128, 256, 448, 512)
    ),
}

TRAIN = {
    "smoke": ((1, 37),),
    "default": ((1, 64), (2, 512)),
    "whole": tuple((batch, time) for batch in (1, 2, 4, 8) for time in (64, 128, 256, 512)),
}

WORD_LENGTHS = {"smoke": (1_000,), "default": (10_000, 100_000), "whole": tokenizer.LENGTHS}

ROUNDS = {"decode": 9, "train": 3, "optimizer": 3, "tokens": 5}
MODEL_ROUNDS = {"smoke": 1, "default": 3, "whole": 5}


def tasks(grid: str) -> Iterator[Task]:
    """Yield every task of a grid."""
    yield from (model(*shape) for shape in FORWARD[grid])
    yield from (model(*shape, backward=True) for shape in BACKWARD[grid])
    yield from (decode(*shape) for shape in DECODE[grid])
    for shape in TRAIN[grid]:
        yield from (train(*shape, dropout=dropout) for dropout in (False, True))
    yield OPTIMIZER
    yield from (tokens(cache) for cache in ("warm", "cold"))


def timed(name: str, task: Task, grid: str) -> bool:
    """Return whether a contender takes part; compiling a model takes minutes."""
    if task.workload == "decode" and name in READS:
        return task.shape.batch == 1
    return "compile" not in name or grid == "whole"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the cases of the chosen grid."""
    grid = metafunc.config.getoption("--grid")
    if "length" in metafunc.fixturenames:
        metafunc.parametrize("length", WORD_LENGTHS[grid])
        return
    cases = [
        pytest.param(task, name, id=f"{task}-{name.replace(' ', '_')}")
        for task in tasks(grid)
        for name in WORKLOADS[task.workload].names
        if timed(name, task, grid)
    ]
    metafunc.parametrize(("task", "name"), cases)


@functools.cache
def measurement() -> Measurement:
    """Return the measurement with both models, built once."""
    return Measurement(None, lambda *_: None)


def facts(task: Task) -> dict[str, object]:
    """Return the facts of a task for the JSON."""
    if task.workload == "tokens":
        return {"characters": sum(map(len, tokenizer.corpus()))}
    shape = dataclasses.asdict(task.shape)
    if task.workload != "model":
        return shape
    passes = 3 if task.shape.backward else 1
    flops = product_flops(measurement().models.ours, task.shape.batch, task.shape.time)
    return {**shape, "flops": passes * flops}


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_workload(
    benchmark: BenchmarkFixture, task: Task, name: str, pytestconfig: pytest.Config
) -> None:
    """The results are right before and after timing."""
    workload = WORKLOADS[task.workload]
    benchmark.group = str(task)
    try:
        with mapped_errors(ours=workload.ours(name)):
            contender = workload.make(name, task, torch.device("cpu"), measurement())
    except NotTimedError as reason:
        (pytest.fail if reason.status is Status.WRONG else pytest.skip)(str(reason))
    rounds = ROUNDS.get(task.workload) or MODEL_ROUNDS[pytestconfig.getoption("--grid")]
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        contender.run, setup=contender.setup, rounds=rounds, warmup_rounds=1
    )
    error = contender.check() if contender.check is not None else contender.error
    benchmark.extra_info.update(error=error, remark=contender.remark, **facts(task))


@pytest.mark.parametrize("word", tokenizer.WORDS)
def test_long_word(benchmark: BenchmarkFixture, word: str, length: int) -> None:
    """Decoding the tokens of one long word gives the word."""
    text = tokenizer.WORDS[word](length)
    ours, _ = tokenizer.tokenizer()
    benchmark.group = f"encoding a {word} of {length}"
    ids = benchmark.pedantic(ours.encode, args=(text,), rounds=5)  # type: ignore[no-untyped-call]
    assert ours.decode(ids) == text
    benchmark.extra_info.update(characters=length)
