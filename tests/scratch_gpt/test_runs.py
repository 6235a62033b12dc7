"""Runs: every element once, in order, as views."""

import pytest
import torch

from scratch_gpt.runs import SERIAL, longest_run, runs


@pytest.mark.parametrize("length", [0, 1, SERIAL, 2 * SERIAL, 7 * SERIAL + 5])
def test_every_element_is_given_once_and_in_order(length: int) -> None:
    one, other = torch.arange(length), torch.arange(length) + 1
    pairs = list(runs(one, other))
    assert torch.equal(torch.cat([a for a, _ in pairs] or [one]), one)
    assert all(torch.equal(a + 1, b) for a, b in pairs)
    for a, _ in pairs:
        a.fill_(7)
    assert bool((one == 7).all())


def test_the_rest_is_cut_for_one_thread() -> None:
    """A run has a full share for every thread, or is short enough for one thread."""
    full = longest_run(torch.device("cpu"))
    assert full == 2 * SERIAL * torch.get_num_threads()
    lengths = [run.numel() for (run,) in runs(torch.empty(2 * full + SERIAL + 3))]
    assert lengths == [full, full, SERIAL, 3]


def test_another_device_has_longer_runs() -> None:
    assert longest_run(torch.device("meta")) > longest_run(torch.device("cpu"))
