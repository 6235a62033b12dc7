"""Errors of contenders, interleaved rounds, and excluded contenders."""

from collections.abc import Callable

import pytest
import torch

from bench import contest as module
from bench.contest import (
    Contender,
    InterleavedTiming,
    NotTimedError,
    check_planned,
    first_line,
    mapped_errors,
    memory_for,
    time_rounds,
    verify_after,
)
from bench.kernels import ATTENTION_KERNELS
from bench.results import Status
from bench.shapes import Shape
from bench.verify import WrongKernelError

CPU = torch.device("cpu")
Run = Callable[[], object]

ALLOCATOR = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WrongKernelError("off"), Status.WRONG),
        (MemoryError(), Status.OOM),
        (torch.OutOfMemoryError("CUDA out of memory"), Status.OOM),
        (RuntimeError(ALLOCATOR), Status.OOM),
        (NotTimedError(Status.NOT_PLANNED, "large"), Status.NOT_PLANNED),
        (NotImplementedError("no backward"), Status.NOT_RUN),
        (RuntimeError("no kernel"), Status.NOT_RUN),
    ],
)
def test_exceptions_become_statuses(error: Exception, status: Status) -> None:
    with pytest.raises(NotTimedError) as refusal, mapped_errors(ours=False):
        raise error
    assert status is refusal.value.status
    assert refusal.value.why


def test_failures_of_our_kernels_are_raised() -> None:
    with pytest.raises(NotImplementedError), mapped_errors(ours=True):
        raise NotImplementedError


def test_a_reason_is_one_line() -> None:
    assert first_line(ValueError("\n what \n where")) == "ValueError: what"
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("name", "shape", "status"),
    [
        ("triton", Shape(batch=1, time=8), Status.NOT_RUN),
        ("tiled", Shape(batch=64, time=1024), Status.NOT_PLANNED),
        ("huggingface", Shape(batch=4, time=8192), Status.NOT_PLANNED),
    ],
)
def test_unplanned_shapes_are_not_timed(name: str, shape: Shape, status: Status) -> None:
    with pytest.raises(NotTimedError) as refusal:
        check_planned(ATTENTION_KERNELS[name], shape, CPU, 1 << 30)
    assert status is refusal.value.status


def test_tiled_attention_is_planned_for_longer_texts() -> None:
    """It forms no score matrix, so it fits where Hugging Face's attention does not."""
    check_planned(ATTENTION_KERNELS["tiled"], Shape(batch=4, time=8192), CPU, 1 << 30)
    check_planned(ATTENTION_KERNELS["huggingface"], Shape(batch=4, time=512), CPU, 1 << 30)


def test_available_memory_is_plausible() -> None:
    assert 1 << 26 < memory_for(CPU) < 1 << 50


def with_contenders(**runs: Run) -> InterleavedTiming:
    timing = InterleavedTiming()
    for name, run in runs.items():
        timing.add(name, lambda run=run: Contender(run), ours=True)
    return timing


def failing_after(count: int, error: Exception) -> Run:
    calls = iter(range(count))

    def run() -> None:
        if next(calls, None) is None:
            raise error

    return run


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ran: list[str] = []

    def seconds(run: Run, _device: object, *, calls: int = 1, flush: Run | None = None) -> float:
        ran.extend(str(each()) for each in (flush, run) if each is not None)
        return 1.0 / calls

    monkeypatch.setattr(module, "seconds", seconds)
    return ran


def test_every_contender_runs_in_every_round(order: list[str]) -> None:
    """After one uncounted call each, rounds begin with a different contender."""
    timing = time_rounds(with_contenders(a=lambda: "a", b=lambda: "b", c=lambda: "c"), CPU, 4)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(taken) for name, taken in timing.seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert time_rounds(InterleavedTiming(), CPU, 2).seconds == {}


def test_setup_runs_before_each_call(order: list[str]) -> None:
    timing = InterleavedTiming()
    timing.add("a", lambda: Contender(lambda: "a", setup=lambda: "-"), ours=True)
    time_rounds(timing, CPU, 2)
    assert "".join(order) == "-a-a-a"


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_out_of_memory_excludes_a_contender(survived: int) -> None:
    small = failing_after(survived, MemoryError("too large"))
    timing = time_rounds(with_contenders(large=small, other=lambda: None), CPU, 4)
    assert (set(timing.seconds), len(timing.seconds["other"])) == ({"other"}, 4)
    error = timing.excluded["large"]
    assert (error.status, error.why) == (Status.OOM, "MemoryError: too large")
    assert "large" not in timing.contenders


def test_other_failures_while_timing_are_raised() -> None:
    """A verified contender may only run out of memory."""
    with pytest.raises(RuntimeError, match="broken"):
        time_rounds(with_contenders(a=failing_after(1, RuntimeError("broken"))), CPU, 4)


def test_a_wrong_contender_is_excluded() -> None:
    def make() -> Contender:
        raise WrongKernelError("off")

    timing = InterleavedTiming()
    timing.add("a", make, ours=True)
    assert not timing.contenders
    assert timing.excluded["a"].status is Status.WRONG


def test_a_contender_that_is_wrong_afterwards_is_excluded() -> None:
    def check() -> float:
        raise WrongKernelError("off")

    timing = with_contenders(c=lambda: None)
    for name, its in (("a", check), ("b", lambda: 0.0)):
        timing.add(name, lambda its=its: Contender(lambda: None, check=its), ours=True)
    verify_after(time_rounds(timing, CPU, 2))
    assert set(timing.seconds) == {"b", "c"}
    assert (set(timing.excluded), timing.excluded["a"].status) == ({"a"}, Status.WRONG)
