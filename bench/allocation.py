"""The most memory that a call holds at once, as torch's own allocator counts it."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


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
