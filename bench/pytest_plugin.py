"""What `pytest bench` adds to pytest: which grid is run, and what its JSON must not say."""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

import pytest

HIDDEN = ("node",)
"""What pytest-benchmark would write about the machine that nobody needs to know: its host name."""


def add_options(parser: pytest.Parser) -> None:
    """Add `--grid` and `--bench-device`."""
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
        help="Where kernels are timed; on cuda by events.",
    )


def refuse_xdist(distribution: str | None, environment: Mapping[str, str] = os.environ) -> None:
    """Require that tests are not spread over processes, which would share the cores.

    pytest-benchmark would switch itself off then, and every benchmark would seem to pass.

    Raises:
        UsageError: They are.
    """
    if distribution not in {None, "no"} or "PYTEST_XDIST_WORKER" in environment:
        message = "benchmarks are timed one at a time: run them without -n (-p no:xdist)"
        raise pytest.UsageError(message)


def without_names(machine: MutableMapping[str, Any]) -> None:
    """Take out of pytest-benchmark's machine information what names host or user."""
    for key in HIDDEN:
        machine.pop(key, None)
