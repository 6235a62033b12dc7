"""Split long tensors into runs, short enough to stay in the cache between operations.

An elementwise formula of ten operations reads and writes whole tensors ten times. Run by run it
reads and writes main memory once. The end of a run depends on the number of threads, but only in
multiples of a length at which every element is computed alike, so the results do not depend on it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SERIAL = 2**15
"""Torch's grain size: operations on up to this many elements use one thread."""

_EACH_THREAD = 2**16
"""Elements of a run for each CPU thread."""

_OTHER_DEVICE = 2**22
"""Elements of a run on other devices, where launching an operation dominates the cost."""


def longest_run(device: torch.device) -> int:
    """Return the maximum number of elements in a run on this device."""
    return _EACH_THREAD * torch.get_num_threads() if device.type == "cpu" else _OTHER_DEVICE


def runs(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield flat views of the tensors, cut at the same places, run by run.

    The tensors are contiguous, of equal length and on one device.
    """
    flat = [tensor.view(-1) for tensor in tensors]
    for begin, end in _cuts(flat[0].numel(), longest_run(flat[0].device)):
        yield tuple(tensor[begin:end] for tensor in flat)


def _cuts(length: int, full: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run.

    Torch divides an operation evenly among threads. In a full run each thread's share is a multiple
    of the vector length. The rest is cut into runs short enough for one thread, because even shares
    of it could end anywhere.
    """
    whole = length - length % full
    yield from ((at, at + full) for at in range(0, whole, full))
    yield from ((at, min(at + SERIAL, length)) for at in range(whole, length, SERIAL))
