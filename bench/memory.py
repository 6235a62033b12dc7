"""Peak memory: of a job in a fresh process, and of torch's allocator.

A process loads the model, runs a small warm-up and resets the system's record of its peak resident
size. The result is the peak during the job minus the size before. Settings of malloc return freed
memory to the system at once, for all contenders alike.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.shapes import HEAD_WIDTH, HEADS

if TYPE_CHECKING:
    from transformers import OpenAIGPTLMHeadModel

    from scratch_gpt.model import GPT

    Model = GPT | OpenAIGPTLMHeadModel

Run = Callable[[], object]

REPEATS = 3
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "MALLOC_TRIM_THRESHOLD_": "0"}
_SMALL = 8


def in_fresh_process(*arguments: str) -> int:
    """Return the bytes that one job takes in a fresh process.

    Raises:
        RuntimeError: The process failed; the message is the last line of its stderr.
    """
    home = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join([home, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(  # noqa: S603 - this module
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


def peak_growth(warm: Run, job: Run) -> int:
    """Return the peak resident size during a job minus the size before, in bytes."""
    warm()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status("VmRSS")
    job()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def load_model(side: str, folder: str) -> "Model":
    """Return the model of a folder: Hugging Face's, or ours with the backend `side`."""
    from transformers import OpenAIGPTLMHeadModel

    from scratch_gpt.model import GPT

    if side == "huggingface":
        theirs: OpenAIGPTLMHeadModel = OpenAIGPTLMHeadModel.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()
        return theirs
    return GPT.from_pretrained(folder, backend=side)


def step(side: str, folder: str, batch: int, time: int) -> int:
    """Return the bytes that one forward with backward takes above the weights."""
    from bench.models import forward_backward

    model, ids, warm = _prepared(side, folder, batch, time)
    return peak_growth(warm, lambda: forward_backward(model, ids))


def train(side: str, folder: str, batch: int, time: int) -> int:
    """Return the bytes that training takes above the weights, with gradients and moments.

    The first step, which allocates the moments, is a small one. The second is full size.
    """
    from bench.training_steps import Training

    model, ids, warm = _prepared(side, folder, batch, time)

    def job() -> None:
        training = Training(model)
        training.step(ids[:1, :_SMALL])
        training.step(ids)

    return peak_growth(warm, job)


def _prepared(side: str, folder: str, batch: int, time: int) -> "tuple[Model, Tensor, Run]":
    """Return a model, token ids `[batch time]`, and a small step as a warm-up."""
    from bench.models import forward_backward

    model = load_model(side, folder)
    ids = torch.arange(batch * time).reshape(batch, time) * 7 % model.config.vocab_size

    def warm() -> None:
        forward_backward(model, ids[:1, :_SMALL])
        model.zero_grad(set_to_none=True)  # gradients count: they are not weights

    return model, ids, warm


def core(name: str, time: int) -> int:
    """Return the bytes that one call of our attention kernel takes, without its inputs."""
    from scratch_gpt.kernels.backends import KERNELS

    query, key, value = (torch.randn(1, HEADS, time, HEAD_WIDTH) for _ in range(3))

    def run(tokens: int) -> object:
        some = slice(tokens)
        return KERNELS[name](query[:, :, some], key[:, :, some], value[:, :, some])

    with torch.no_grad():
        return peak_growth(lambda: run(_SMALL), lambda: run(time))


JOBS: dict[str, Callable[..., int]] = {"core": core, "step": step, "train": train}


def main(arguments: list[str]) -> None:
    """Run one job and print its bytes; numeric arguments are sizes."""
    job, *rest = arguments
    found = JOBS[job](*(int(word) if word.isdecimal() else word for word in rest))
    sys.stdout.write(f"{found}\n")


def peak_bytes(run: Run, device: torch.device) -> int:
    """Return the most bytes that torch allocates at once during a call.

    Buffers of the matrix library do not count. The memory rows of `bench.ratios` are measured in
    fresh processes instead.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # torch 2.10 warns without acc_events.
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    return highest([event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())])


def highest(changes: list[int]) -> int:
    """Return the largest running sum of some changes; 0 if none is positive."""
    level = top = 0
    for change in changes:
        level += change
        top = max(top, level)
    return top


if __name__ == "__main__":
    main(sys.argv[1:])
