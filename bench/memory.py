"""Peak memory, of a fresh process each: the highest resident size less that of a warm start.

The process loads what it needs, works once on something small, and then resets the system's
record of its highest size; what it holds then is what the peak is measured from. Memory freed
goes back to the system at once, for both sides alike.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from bench.shapes import HEAD_WIDTH, HEADS

if TYPE_CHECKING:
    from transformers import OpenAIGPTLMHeadModel

    from scratch_gpt.model import GPT


REPEATS = 3
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": "0"}
_SMALL = 8


def in_fresh_process(*arguments: str) -> int:
    """Return the bytes that one job takes in a process of its own.

    Raises:
        RuntimeError: It failed; the message is the last line it wrote.
    """
    home = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join([home, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "bench.memory", *arguments],
        env=os.environ | _SETTINGS | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    return int(json.loads(done.stdout.strip().splitlines()[-1]))


def measured(warm: Callable[[], object], job: Callable[[], object]) -> int:
    """Return how many bytes the resident size rises by, at its highest, during a job."""
    warm()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status("VmRSS")
    job()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def loaded(side: str, folder: str) -> "GPT | OpenAIGPTLMHeadModel":
    """Return the model of a folder: ours by a path, or theirs."""
    from transformers import OpenAIGPTLMHeadModel

    from scratch_gpt.model import GPT

    if side == "huggingface":
        theirs: OpenAIGPTLMHeadModel = OpenAIGPTLMHeadModel.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()
        return theirs
    return GPT.from_pretrained(folder, backend=side)


def step(side: str, folder: str, batch: int, time: int) -> int:
    """Return what one forward with backward takes above the weights; side is a path, or theirs."""
    import torch

    from bench.models import stepped

    model = loaded(side, folder)
    ids = torch.arange(batch * time).reshape(batch, time) * 7 % model.config.vocab_size

    def warm() -> None:
        stepped(model, ids[:1, :_SMALL])
        model.zero_grad(set_to_none=True)  # gradients are no weights, and count

    return measured(warm, lambda: stepped(model, ids))


def train(side: str, folder: str, batch: int, time: int) -> int:
    """Return what training takes above the weights: gradients, moments, and all on the way.

    The first step, which makes the moments, is a small one; the next is the one to be weighed.
    """
    import torch

    from bench.models import stepped
    from bench.training_steps import Training

    model = loaded(side, folder)
    ids = torch.arange(batch * time).reshape(batch, time) * 7 % model.config.vocab_size

    def warm() -> None:
        stepped(model, ids[:1, :_SMALL])
        model.zero_grad(set_to_none=True)

    def job() -> None:
        training = Training(model)
        training.step(ids[:1, :_SMALL])
        training.step(ids)

    return measured(warm, job)


def core(name: str, time: int) -> int:
    """Return what one call of a core of ours takes beside its inputs and its answer."""
    import torch

    from scratch_gpt.kernels.backends import KERNELS

    query, key, value = (torch.randn(1, HEADS, time, HEAD_WIDTH) for _ in range(3))

    def run(tokens: int) -> object:
        some = slice(tokens)
        return KERNELS[name](query[:, :, some], key[:, :, some], value[:, :, some])

    with torch.no_grad():
        return measured(lambda: run(_SMALL), lambda: run(time))


JOBS: dict[str, Callable[..., int]] = {"core": core, "step": step, "train": train}


def main(arguments: list[str]) -> None:
    """Do one job and print its bytes; sizes are numbers, all else is words."""
    job, *rest = arguments
    found = JOBS[job](*(int(word) if word.isdecimal() else word for word in rest))
    sys.stdout.write(f"{found}\n")


# The most memory that a call holds at once, as torch's own allocator counts it.


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes allocated at once beyond what there was before.

    Buffers that a matrix library makes for itself are not torch's and do not count; the peak
    memory rows of `bench.ratios` are measured on whole processes instead.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # There is one cycle; torch 2.10 warns whoever does not say that its events are to be kept.
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    return highest([event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())])


def highest(changes: list[int]) -> int:
    """Return the highest of the running sums of some changes; 0 where none rises."""
    level = top = 0
    for change in changes:
        level += change
        top = max(top, level)
    return top


if __name__ == "__main__":
    main(sys.argv[1:])
