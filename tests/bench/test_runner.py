"""From targets to outcomes, mostly with given times instead of measured ones."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from bench import models
from bench import runner as module
from bench.contest import Contender, InterleavedTiming, NotTimedError, smallest_ratio_note
from bench.kernels import ATTENTION_KERNELS, AttentionKernel
from bench.models import Measurement
from bench.results import Outcome, Spread, Status, exit_code
from bench.runner import WORKLOADS, measure
from bench.shapes import Shape
from bench.targets import TARGETS, Target, Task
from bench.workloads import attention
from bench.workloads.attention import record_series

CPU = torch.device("cpu")
TASK = Task(workload="core", shape=Shape(batch=1, time=8))
ROW = Target(task=TASK, ours="tiled", against="huggingface", bound=0.5)
GROWTH = next(row for row in TARGETS if row.figure == "exponent")


@pytest.fixture
def run() -> Measurement:
    return Measurement(3, lambda *_: None, rates={"cpu-float32": 1.0})


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[float]]], None]:
    def stage(taken: dict[str, list[float]], **out: NotTimedError) -> None:
        def make(name: str, *_context: object) -> Contender:
            if name in out:
                raise out[name]
            return Contender(lambda: None, 1e-7, remark=f"of {name}")

        def time_rounds(timing: InterleavedTiming, *_context: object) -> None:
            timing.seconds = {name: list(values) for name, values in taken.items()}

        monkeypatch.setitem(WORKLOADS, "core", dataclasses.replace(WORKLOADS["core"], make=make))
        monkeypatch.setattr(module, "time_rounds", time_rounds)

    return stage


SLOW = 1e6
"""Seconds so long that no kernel exceeds one operation a second."""


@pytest.mark.parametrize(
    ("ours", "status"), [(0.4 * SLOW, Status.MET), (0.6 * SLOW, Status.MISSED)]
)
def test_a_row_is_judged_by_its_ratio(
    ours: float, status: Status, staged: Callable[..., None], run: Measurement
) -> None:
    staged({"tiled": [ours] * 3, "huggingface": [SLOW] * 3})
    (outcome,) = measure([ROW], run)
    assert (status, ROW.name) == (outcome.status, outcome.name)
    assert outcome.ratio is not None
    assert ours / SLOW == outcome.ratio.median
    assert outcome.why == "of tiled; of huggingface"
    assert [point.subject for point in run.series] == ["tiled", "huggingface"]


def test_a_row_without_memory_leaves_the_others(
    staged: Callable[..., None], run: Measurement
) -> None:
    rows = [ROW, dataclasses.replace(ROW, against="sdpa")]
    staged({"tiled": [SLOW], "sdpa": [SLOW]}, huggingface=NotTimedError(Status.OOM, "3 GB"))
    outcomes = measure(rows, run)
    assert [outcome.status for outcome in outcomes] == [Status.OOM, Status.MISSED]
    assert outcomes[0].why == "huggingface: 3 GB"


def test_a_kernel_above_the_matrix_rate_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch, staged: Callable[..., None], run: Measurement
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(models, "matrix_rate", lambda dtype, _device: asked.append(dtype) or 1.0)
    staged({"tiled": [1e-9], "huggingface": [SLOW]})
    (outcome,) = measure([ROW], run)
    assert outcome.status is Status.INCONCLUSIVE
    assert "of the matrix rate" in outcome.why
    assert asked == ["float32"]  # measured again before the kernel is excluded
    assert [point.subject for point in run.series] == ["huggingface"]


def test_a_rate_that_was_too_low_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, run: Measurement
) -> None:
    """A busy machine at the first measurement does not exclude a kernel."""
    monkeypatch.setattr(models, "matrix_rate", lambda _dtype, _device: 1e15)
    timing = InterleavedTiming({"tiled": Contender(lambda: None)}, {"tiled": [1e-9]})
    record_series(timing, TASK, CPU, run)
    assert set(timing.seconds) == {"tiled"}


def test_without_a_gpu_its_rows_are_not_run(
    monkeypatch: pytest.MonkeyPatch, run: Measurement
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = [row for row in TARGETS if row.task.device == "cuda"]
    assert rows
    assert {(Status.NOT_RUN, "no CUDA")} == {(o.status, o.why) for o in measure(rows, run)}


@pytest.mark.usefixtures("one_thread")
def test_kernels_are_verified_contenders(run: Measurement) -> None:
    ready = attention.make("tiled", TASK, CPU, run)
    assert ready.check is not None
    assert ready.error == ready.check() > 0.0
    assert attention.make("huggingface", TASK, CPU, run).error > 0.0
    with pytest.raises(NotTimedError) as refusal:
        attention.make("triton", TASK, CPU, run)
    assert refusal.value.status is Status.NOT_RUN


@pytest.mark.usefixtures("one_thread")
def test_a_wrong_kernel_has_a_row_and_no_time(
    monkeypatch: pytest.MonkeyPatch, run: Measurement
) -> None:
    wrong = AttentionKernel(make=lambda *_: lambda query, _key, _value: query, ours=True)
    monkeypatch.setitem(ATTENTION_KERNELS, "tiled", wrong)
    (outcome,) = measure([ROW], run)
    assert (outcome.status, outcome.ratio) == (Status.WRONG, None)
    assert outcome.why.startswith("tiled: context: RMS error")
    assert [point.subject for point in run.series] == ["huggingface"]
    assert exit_code([outcome]) == 1


def test_growth_of_memory_is_fitted(run: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def in_fresh_process(*arguments: str) -> int:
        asked.append(arguments)
        return 100 * int(arguments[-1]) ** 2

    monkeypatch.setattr(attention.memory, "in_fresh_process", in_fresh_process)
    (outcome,) = measure([GROWTH], run)
    assert len(asked) == 3 * len(attention.TIMES)
    assert outcome.status is Status.MISSED
    assert outcome.ratio is not None
    assert outcome.ratio.median == pytest.approx(2.0)


def test_a_failed_process_is_a_reason(run: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_fresh_process(*_arguments: str) -> int:
        raise RuntimeError("killed")

    monkeypatch.setattr(attention.memory, "in_fresh_process", in_fresh_process)
    (outcome,) = measure([GROWTH], run)
    assert (outcome.status, outcome.why) == (Status.NOT_RUN, "RuntimeError: killed")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [([1.2, 0.9], "met, 0.90 at 1"), ([1.2, 1.1], "MISSED, 1.10 at 1"), ([], "")],
)
def test_one_row_below_is_enough(ratios: list[float], expected: str) -> None:
    """Rows without a ratio or a bound, and other peers, do not count."""

    def row(name: str, ratio: float, against: str = "sdpa", bound: float | None = 1.1) -> Outcome:
        found = Spread(ratio, ratio, ratio, 3)
        return Outcome(name=name, work="w", against=against, status=Status.MET,
                       bound=bound, ratio=found)  # fmt: skip

    others = [
        dataclasses.replace(row("x", 0.1), ratio=None),
        row("y", 0.1, against="plain"),
        row("z", 0.1, bound=None),
    ]
    outcomes = [row(str(index), ratio) for index, ratio in enumerate(ratios)]
    found = smallest_ratio_note([*outcomes, *others], "sdpa", 1.0)
    assert found.endswith(expected)
    assert bool(expected) == bool(found)
