"""The regression gate: compare ratios, never seconds, with an earlier run of the same machine.

A ratio is worse if its lower quartile is above the earlier upper quartile by more than `MARGIN`.
Differences within the spread of either run are not regressions.
"""

import dataclasses
import os
import platform
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from bench.results import Outcome, Spread
from parity.errors import ExitCode, InputRejectedError

SAME = ("processor", "architecture", "cores", "threads", "cpu_capability", "gpu")
"""Fields that must agree before ratios of two runs are compared."""


def describe_machine() -> dict[str, str]:
    """Return a description of machine and installation, without names of host or user."""
    from importlib.metadata import version

    import torch

    from scratch_gpt.kernels import onednn

    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": onednn.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name with family, model and stepping."""
    try:
        text = listing.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    pattern = re.compile(r"^(model name|cpu family|model|stepping)\s*:\s*(.*)$", re.MULTILINE)
    fields = dict(pattern.findall(text))
    if not fields:
        return platform.processor() or "unknown"
    numbers = ".".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{fields.get('model name', 'unknown').strip()} ({numbers})"


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Return the fields in which two machines differ, with both values."""
    return [
        f"{key}: {then.get(key, 'not recorded')!r} there, {now.get(key, 'not recorded')!r} here"
        for key in SAME
        if then.get(key) != now.get(key)
    ]


MARGIN = 0.05
"""Largest loss beyond both spreads that does not count as worse."""


class Change(StrEnum):
    """The change of a row since the baseline."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    GONE = "gone"  # measured there and not here


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of the gate; `now` is None if this run has no ratio."""

    name: str
    change: Change
    then: Spread
    now: Spread | None


def check_machine(now: Mapping[str, str], then: Mapping[str, str], *, force: bool) -> None:
    """Require both runs to be of one machine, because ratios depend on it.

    Raises:
        InputRejectedError: They are not, and `force` is not set.
    """
    apart = differences(now, then)
    if apart and not force:
        raise InputRejectedError(
            "the baseline is from another machine: " + "; ".join(apart),
            where="--baseline",
            fix="measure a baseline here with --json, or pass --force",
        )


def compare(
    now: Sequence[Outcome], then: Sequence[Outcome], *, asked: set[str]
) -> list[Comparison]:
    """Return the change of each row that is selected by name and has a ratio in the baseline."""
    here = {outcome.name: outcome.ratio for outcome in now}
    return [
        Comparison(old.name, changed(here.get(old.name), old.ratio), old.ratio, here.get(old.name))
        for old in then
        if old.ratio is not None and old.name in asked
    ]


def changed(now: Spread | None, then: Spread) -> Change:
    """Return the change of one ratio. Written so that NaN counts as worse."""
    if now is None:
        return Change.GONE
    if not now.low <= then.high * (1.0 + MARGIN):
        return Change.WORSE
    return Change.BETTER if now.high < then.low * (1.0 - MARGIN) else Change.SAME


def exit_code(comparisons: Sequence[Comparison]) -> ExitCode:
    """Return 1 if a ratio is worse, 3 if one is gone or nothing was compared, else 0."""
    changes = {comparison.change for comparison in comparisons}
    if Change.WORSE in changes:
        return ExitCode.FAIL
    whole = comparisons and Change.GONE not in changes
    return ExitCode.PASS if whole else ExitCode.INCONCLUSIVE
