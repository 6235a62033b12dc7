"""How a check uses the machine: threads shared among the runs, and memory kept once it is had.

None of it changes a verdict. Measured on 2 cores at full size: one thread for each of the runs
that go on at once takes 57 s of processor time where two threads each take 81 s, most of the
difference spent waiting for each other; keeping freed memory saves half of the page faults;
importing transformers without collecting garbage meanwhile takes 3.6 s instead of 4.9 s.
"""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

From = TypeVar("From")
To = TypeVar("To")


def limit_arenas_before_numpy() -> None:
    """Have NumPy's matrix library use one thread; only before NumPy is imported.

    The oracle runs beside the other runs, which have the other cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Have the C library keep what is freed: the next tensor is as large as the last one.

    Elsewhere than on glibc this does nothing.

    Source: mallopt(3).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)  # or each thread would keep memory of its own
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


@contextlib.contextmanager
def split_threads(runs: int) -> Iterator[None]:
    """Give each of some runs that compute at once its share of torch's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // runs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copy_parallel(copy: Callable[[From], To], items: Iterable[From]) -> list[To]:
    """Return `copy(item)` of each, in order, made by as many threads as the process has cores.

    Copying half a gigabyte is mostly the system's clearing of memory never used before: one core
    clears as little as 0.4 GB/s of it on a virtual machine, where it reads and writes 9 GB/s.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(copy, items))


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Collect no garbage meanwhile: what is imported stays, and searching it costs seconds."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:  # not frozen as well: what is never collected some libraries call a leak at exit
        if before:
            gc.enable()
