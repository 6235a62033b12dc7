"""The same numbers from the same inputs, on every run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Allow torch nothing whose result hangs on the order in which threads finish.

    The backward of indexing is such an operation: it sums rows of the embedding's gradient.

    Args:
        threads: How many threads torch may use; 0 for as many as it has.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    settings = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory)  # type: ignore[attr-defined]
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    had = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    # It would write NaN into every new tensor before the numbers come.
    settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads or had)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warned)
        settings.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]
        torch.set_num_threads(had)


@contextmanager
def any_order() -> Iterator[None]:
    """Allow for a while what is not deterministic everywhere: running sums on a GPU are not."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
