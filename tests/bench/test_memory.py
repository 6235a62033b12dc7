"""Peak memory of fresh processes, and of torch's allocator."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import memory
from bench.memory import highest, peak_bytes
from parity.checkpoints.load import load_weights
from parity.core.runners import build_ours

CPU = torch.device("cpu")
MEGABYTE = 1 << 20

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not run: no /proc")


def test_the_peak_is_the_largest_running_sum() -> None:
    assert highest([5, -5, 3, 4, -7, 2]) == 7
    assert highest([-5, 3]) == 0
    assert highest([]) == 0


def test_the_allocator_peak_counts_live_tensors() -> None:
    def megabyte() -> torch.Tensor:
        return torch.ones(MEGABYTE, dtype=torch.uint8)

    def one_by_one() -> None:
        for _ in range(3):
            megabyte()

    def together() -> list[torch.Tensor]:
        return [megabyte() for _ in range(3)]

    found = [peak_bytes(run, CPU) // MEGABYTE for run in (one_by_one, together)]
    assert found == [1, 3]


GONE_AGAIN = """
from bench import memory

before = bytearray(b"x") * (256 << 20)

def job():
    held = bytearray(b"x") * (64 << 20)
    del held

print(memory.peak_growth(lambda: None, job))
"""


@linux
def test_a_temporary_peak_is_measured(home_of: Callable[[str], Path]) -> None:
    """64 MiB are held briefly; memory from before the job does not count.

    The process is a new one: from an old one the system may reclaim memory meanwhile.
    """
    done = subprocess.run(
        [sys.executable, "-c", GONE_AGAIN],
        env=os.environ | {"PYTHONPATH": str(home_of("bench").parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 60 * MEGABYTE < int(done.stdout) < 128 * MEGABYTE


@linux
@pytest.mark.slow
def test_plain_attention_takes_quadratic_memory() -> None:
    square = 12 * 1024 * 1024 * 4
    assert memory.in_fresh_process("core", "plain", "1024") > 2 * square
    assert memory.in_fresh_process("core", "tiled", "1024") < square


@linux
@pytest.mark.parametrize(("job", "times"), [("step", 1), ("train", 3)])
@pytest.mark.parametrize("side", ["plain", "huggingface"])
@pytest.mark.slow
def test_a_step_takes_at_least_its_gradients(
    side: str, job: str, times: int, tmp_path: Path
) -> None:
    """Gradients are as large as the weights, and so is each moment."""
    model = build_ours(load_weights("tiny"))
    model.save_pretrained(tmp_path)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert memory.in_fresh_process(job, side, str(tmp_path), "2", "300") > times * weights


def test_a_failed_job_reports_its_error() -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        memory.in_fresh_process("core", "none", "8")


@linux
def test_main_prints_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["core", "tiled", "64"])
    assert capsys.readouterr().out.strip().lstrip("-").isdecimal()
