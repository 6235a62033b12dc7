"""Options of `pytest bench`, and the fields that its JSON must not contain."""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

HIDDEN = ("node",)
"""Fields of pytest-benchmark's machine information that name the host."""


def add_options(parser: pytest.Parser) -> None:
    """Add `--grid`, `--bench-device` and `--kernel`."""
    group = parser.getgroup("bench")
    group.addoption(
        "--grid",
        choices=("smoke", "default", "whole"),
        default="default",
        help="Shapes: a few small ones, a selection that takes minutes, or every one.",
    )
    group.addoption(
        "--bench-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="Device of the kernels; cuda is timed with events.",
    )
    group.addoption(
        "--kernel",
        metavar="FILE.py:NAME",
        help="Your own attention kernel, timed beside the others.",
    )


def add_kernel(name: str, device: str) -> None:
    """Add the kernel of `--kernel` to those that are timed.

    Raises:
        UsageError: There is no such kernel; or it raises, or returns another shape or dtype.
    """
    import torch

    from bench.kernels import add_own
    from parity.errors import ParityError

    try:
        add_own(name, torch.device(device))
    except ParityError as error:
        message = f"{error.what}\n  where: {error.where}\n  fix: {error.fix}"
        raise pytest.UsageError(message) from error


def refuse_xdist(distribution: str | None, environment: Mapping[str, str] = os.environ) -> None:
    """Reject parallel test processes, which would share the cores.

    pytest-benchmark would disable itself, and every benchmark would seem to pass.

    Raises:
        UsageError: pytest-xdist distributes the tests.
    """
    if distribution not in {None, "no"} or "PYTEST_XDIST_WORKER" in environment:
        message = "benchmarks are timed one at a time: run them without -n (-p no:xdist)"
        raise pytest.UsageError(message)


def without_names(machine: MutableMapping[str, Any]) -> None:
    """Remove the fields that name the host from pytest-benchmark's machine information."""
    for key in HIDDEN:
        machine.pop(key, None)
