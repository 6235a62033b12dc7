"""Threads shared among the runs of a check, and freed memory that is kept.

None of it changes a verdict. Measured on 2 cores at full size: one thread for each of the
concurrent runs takes 57 s of processor time, two threads for each take 81 s, most of the difference
spent waiting; keeping freed memory saves half of the page faults; importing transformers without
collecting garbage takes 3.6 s instead of 4.9 s.
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
    """Have NumPy's matrix library use one thread; call it before NumPy is imported.

    The oracle runs at the same time as the others, which have the other cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, because the next tensor is as large; see mallopt(3)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)  # or each thread would keep memory of its own
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 << 20)


def release_memory() -> None:
    """Give freed memory back to the system."""
    gc.collect()  # optimizers hold gigabytes in reference cycles
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def split_threads(runs: int) -> Iterator[None]:
    """Give each of some concurrent runs its share of torch's threads, at least one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // runs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copy_parallel(copy: Callable[[From], To], items: Iterable[From]) -> list[To]:
    """Return `copy(item)` of each item, in order, made by one thread per core.

    Copying half a gigabyte is mostly the system's clearing of new memory: one core of a virtual
    machine clears as little as 0.4 GB/s, where it reads and writes 9 GB/s.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(copy, items))


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Collect no garbage: imported objects stay, and searching them takes seconds."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:  # no gc.freeze(): some libraries report frozen objects as a leak at exit
        if before:
            gc.enable()
