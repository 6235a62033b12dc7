"""Long tensors gone through in runs: short enough to stay in a core's cache between operations.

An elementwise formula of ten operations reads and writes whole tensors ten times; done run by run
it reads and writes main memory once. Where a run ends depends on the number of threads, but only
at multiples of a length at which every element is computed alike, so the results do not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SERIAL = 2**15
"""Elements up to which torch leaves an operation to one thread; its grain size."""

_EACH_THREAD = 2**16
"""Elements of a run that each thread of a processor goes through."""

_OTHER_DEVICE = 2**22
"""Elements of a run on any other device, where starting an operation is what costs."""


def longest_run(device: torch.device) -> int:
    """Return the number of elements of the longest run of a tensor on this device."""
    return _EACH_THREAD * torch.get_num_threads() if device.type == "cpu" else _OTHER_DEVICE


def runs(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give the tensors flattened and cut at the same places, run by run; views, not copies.

    Args:
        tensors: Contiguous, of one number of elements and one device.
    """
    flat = [tensor.view(-1) for tensor in tensors]
    for begin, end in _cuts(flat[0].numel(), longest_run(flat[0].device)):
        yield tuple(tensor[begin:end] for tensor in flat)


def _cuts(length: int, full: int) -> Iterator[tuple[int, int]]:
    """Give where each run begins and ends.

    Torch shares an operation out evenly among threads. A full run gives each of them as many
    elements as its vectors hold without remainder; what is left after the last full run is cut so
    short that one thread does it, because its even shares would end anywhere.
    """
    whole = length - length % full
    yield from ((at, at + full) for at in range(0, whole, full))
    yield from ((at, min(at + SERIAL, length)) for at in range(whole, length, SERIAL))
