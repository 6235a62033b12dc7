"""How a check uses the machine: none of it may change a number."""

import gc
import os
import threading
import weakref

import pytest
import torch

from parity.threads import copy_parallel, gc_paused, release_memory, split_threads


def test_copies_come_in_the_order_of_the_items() -> None:
    """Here the first item waits for the second."""
    second_done = threading.Event()

    def copy(item: int) -> int:
        if item == 0:
            assert second_done.wait(timeout=60)
        else:
            second_done.set()
        return item + 100

    if os.cpu_count() == 1:
        pytest.skip("one core copies one after the other")
    assert copy_parallel(copy, [0, 1, 2]) == [100, 101, 102]


def test_an_error_in_a_copy_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        copy_parallel(lambda item: 1 // item, [1, 0, 2])


def test_threads_are_shared_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with split_threads(2):
            assert torch.get_num_threads() == 2
        with split_threads(9):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_meanwhile(*, enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_what_refers_to_itself_is_released() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    node = Node()
    seen = weakref.ref(node)
    with gc_paused():
        del node
        assert seen() is not None
        release_memory()
    assert seen() is None
