"""The clocks, with fake time; no duration is asserted."""

import functools

import pytest
import torch

from bench import timing
from bench.timing import EventTimer, cache_flusher, calls_for, cuda, seconds
from parity.errors import EnvironmentUnfitError

CPU = torch.device("cpu")


@pytest.mark.parametrize("calls", [1, 5])
def test_calls_are_counted_and_caches_flushed_before_each(calls: int) -> None:
    ran: list[str] = []
    assert seconds(lambda: ran.append("run"), CPU, calls=calls) >= 0.0
    assert ["run"] * calls == ran
    seconds(lambda: ran.append("run"), CPU, calls=calls, flush=lambda: ran.append("flush"))
    assert ["flush", "run"] * calls == ran[calls:]


def test_flushing_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def pass_time(amount: float) -> None:
        now[0] += amount

    assert seconds(lambda: pass_time(1.0), CPU, calls=3, flush=lambda: pass_time(9.0)) == 1.0


def test_flushing_writes_the_whole_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns None: pytest-benchmark passes a setup's return value as arguments."""
    monkeypatch.setitem(timing.FLUSH_BYTES, "cpu", 1 << 20)
    buffer = torch.ones(1 << 20, dtype=torch.uint8)
    monkeypatch.setattr(timing.torch, "empty", lambda size, **_: buffer[:size])
    flush = cache_flusher(CPU)
    for _ in range(2):
        buffer.fill_(1)
        assert flush() is None  # type: ignore[func-returns-value]
        assert int(buffer.max()) == 0


@pytest.mark.parametrize(("once", "calls"), [(1.0, 1), (timing.MIN_SECONDS / 4, 4), (0.0, 1000)])
def test_short_calls_are_repeated(once: float, calls: int) -> None:
    assert calls == calls_for(once)


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentUnfitError, match="no CUDA"):
        cuda()


class FakeEvent:
    queue = 0.0
    log: list[str]

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = FakeEvent.queue

    def synchronize(self) -> None:
        FakeEvent.log.append("wait")

    def elapsed_time(self, other: "FakeEvent") -> float:
        return 1e3 * (other.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    FakeEvent.queue, FakeEvent.log = 0.0, []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: FakeEvent.log.append("wait"))
    return FakeEvent.log


def worked(log: list[str], what: str, amount: float) -> None:
    log.append(what)
    FakeEvent.queue += amount


def test_events_time_the_work_and_wait_once(gpu: list[str]) -> None:
    run, flush = (functools.partial(worked, gpu, *work) for work in (("run", 2.0), ("flush", 7.0)))
    found = seconds(run, torch.device("cuda"), calls=3, flush=flush)
    assert found == pytest.approx(2.0)
    assert gpu == ["flush", "run"] * 3 + ["wait"]


def test_a_timer_of_events_reads_the_queue(gpu: list[str]) -> None:
    timer = EventTimer()
    before = timer()
    worked(gpu, "run", 2.0)
    worked(gpu, "run", 3.0)
    assert timer() - before == pytest.approx(5.0)
    assert gpu == ["wait", "run", "run", "wait"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no CUDA")
def test_events_time_asynchronous_work() -> None:
    """A host clock without a wait would exceed 1e16 operations a second, which no GPU reaches."""
    matrix = torch.randn(4096, 4096, device="cuda")
    taken = seconds(lambda: matrix @ matrix, torch.device("cuda"), calls=5)
    assert 2 * 4096**3 / taken < 1e16
