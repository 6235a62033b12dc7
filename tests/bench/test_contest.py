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
    out_of_memory,
    rotated,
    time_rounds,
    verify_after,
)
from bench.kernels import ATTENTION_KERNELS
from bench.results import Status
from bench.shapes import Shape
from bench.verify import WrongKernelError

CPU = torch.device("cpu")


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
    ],
)
def test_an_error_is_a_reason(error: Exception, status: Status) -> None:
    """Each kind of its own; the words are kept."""
    with pytest.raises(NotTimedError) as refusal, mapped_errors(ours=False):
        raise error
    assert status is refusal.value.status
    assert refusal.value.why


def test_our_own_failure_is_no_excuse() -> None:
    """A kernel of ours that cannot run is an error, and not a row without a time."""
    with pytest.raises(NotImplementedError), mapped_errors(ours=True):
        raise NotImplementedError


def test_another_failure_is_not_memory() -> None:
    """Words that do not say so are not taken for it."""
    assert not out_of_memory(RuntimeError("no kernel"))


def test_a_reason_is_one_line() -> None:
    """The first that says something, with the kind of error."""
    expected = "ValueError: what"
    assert expected == first_line(ValueError("\n what \n where"))
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("name", "shape", "status"),
    [
        ("triton", Shape(batch=1, time=8), Status.NOT_RUN),
        ("tiled", Shape(batch=64, time=1024), Status.NOT_PLANNED),
        ("huggingface", Shape(batch=4, time=8192), Status.NOT_PLANNED),
    ],
)
def test_what_is_not_planned_is_not_begun(name: str, shape: Shape, status: Status) -> None:
    """No GPU, too many tokens, or matrices of scores that no memory holds."""
    with pytest.raises(NotTimedError) as refusal:
        check_planned(ATTENTION_KERNELS[name], shape, CPU, 1 << 30)
    assert status is refusal.value.status


def test_what_forms_no_matrix_is_planned_longer() -> None:
    """The tiled core fits where Hugging Face's does not; and what fits is planned."""
    check_planned(ATTENTION_KERNELS["tiled"], Shape(batch=4, time=8192), CPU, 1 << 30)
    check_planned(ATTENTION_KERNELS["huggingface"], Shape(batch=4, time=512), CPU, 1 << 30)


def test_memory_to_plan_with_is_some() -> None:
    """More than nothing, and less than no machine has."""
    assert 1 << 26 < memory_for(CPU) < 1 << 50


Run = Callable[[], object]


def entered(**runs: Run) -> InterleavedTiming:
    """Return a timing of some runs."""
    timing = InterleavedTiming()
    for name, run in runs.items():
        timing.add(name, lambda run=run: Contender(run), ours=True)
    return timing


def failing_after(count: int, error: Exception) -> Run:
    """Return what runs so many times and then raises."""
    calls = iter(range(count))

    def run() -> None:
        if next(calls, None) is None:
            raise error

    return run


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of who runs; nothing is timed."""
    ran: list[str] = []

    def seconds(run: Run, _device: object, *, calls: int = 1, flush: Run | None = None) -> float:
        ran.extend(str(each()) for each in (flush, run) if each is not None)
        return 1.0 / calls

    monkeypatch.setattr(module, "seconds", seconds)
    return ran


def test_everyone_runs_in_every_round_in_turn(order: list[str]) -> None:
    """After one call each that does not count, rounds begin with another name each time."""
    timing = time_rounds(entered(a=lambda: "a", b=lambda: "b", c=lambda: "c"), CPU, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(taken) for name, taken in timing.seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_what_comes_before_is_not_timed(order: list[str]) -> None:
    """It is handed to the clock as what stands before each call, and runs there."""
    timing = InterleavedTiming()
    timing.add("a", lambda: Contender(lambda: "a", setup=lambda: "-"), ours=True)
    time_rounds(timing, CPU, 2)
    assert "".join(order) == "-a-a-a"


def test_the_turn_comes_round() -> None:
    """As many rounds as names later it is the first one's again; no names are no trouble."""
    assert rotated(["a", "b"], 0) == rotated(["a", "b"], 2) == ["a", "b"]
    assert rotated([], 1) == []


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_who_runs_out_of_memory_drops_out(survived: int) -> None:
    """Whenever it happens; the others go on, and no half series is left behind."""
    small = failing_after(survived, MemoryError("too large"))
    timing = time_rounds(entered(large=small, other=lambda: None), CPU, 4)
    assert (set(timing.seconds), len(timing.seconds["other"])) == ({"other"}, 4)
    assert timing.excluded["large"].status is Status.OOM


def test_who_fails_while_timed_is_an_error() -> None:
    """It was proved right a moment ago: that is no row without a time, but a fault."""
    with pytest.raises(RuntimeError, match="broken"):
        time_rounds(entered(a=failing_after(1, RuntimeError("broken"))), CPU, 4)


def test_who_is_wrong_never_takes_part() -> None:
    """A kernel that its proof refuses has no run to be timed."""

    def make() -> Contender:
        raise WrongKernelError("off")

    timing = InterleavedTiming()
    timing.add("a", make, ours=True)
    assert not timing.contenders
    assert timing.excluded["a"].status is Status.WRONG


def test_who_is_wrong_afterwards_loses_its_time() -> None:
    """A last answer that is not right takes every time before it away."""

    def check() -> float:
        raise WrongKernelError("off")

    timing = entered(c=lambda: None)
    for name, its in (("a", check), ("b", lambda: 0.0)):
        timing.add(name, lambda its=its: Contender(lambda: None, check=its), ours=True)
    verify_after(time_rounds(timing, CPU, 2))
    assert set(timing.seconds) == {"b", "c"}
    assert (set(timing.excluded), timing.excluded["a"].status) == ({"a"}, Status.WRONG)


def test_what_drops_out_says_why() -> None:
    """The reason is kept for the report."""
    timing = entered(a=lambda: None)
    timing.exclude("a", NotTimedError(Status.OOM, "too large"))
    assert (timing.contenders, timing.excluded["a"].why) == ({}, "too large")
