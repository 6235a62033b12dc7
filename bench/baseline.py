"""The regression gate: ratios of this run against those of an earlier one, never seconds.

A ratio is worse where its lower quartile lies above the earlier upper quartile by more than
`MARGIN` of it: what either run's own spread explains is no regression.
"""

import dataclasses
import os
import platform
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from bench.results import BenchRun, Outcome, Spread
from parity.errors import ExitCode, InputRejectedError

# Which machine measured: enough to tell it from another, and no name of host or user.


SAME = ("processor", "architecture", "cores", "threads", "cpu_capability", "gpu")
"""What must agree before ratios of two runs are compared."""


def describe_machine() -> dict[str, str]:
    """Return what tells one machine, and one installation, from another."""
    from importlib.metadata import version

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, and what else tells two of the same marketing name apart."""
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
    """Return what tells the machine of an earlier run from this one; empty where it is the same."""
    return [
        f"{key}: {then.get(key, 'not said')!r} there, {now.get(key, 'not said')!r} here"
        for key in SAME
        if then.get(key) != now.get(key)
    ]


MARGIN = 0.05
"""What may be lost beyond both spreads before a row counts as worse."""


class Change(StrEnum):
    """What became of a row since the baseline."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    GONE = "gone"  # it has a figure there and none here


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of the gate.

    Attributes:
        name: The row's name.
        change: What became of it.
        then: Its ratio in the baseline.
        now: Its ratio in this run; None where it is gone.
    """

    name: str
    change: Change
    then: Spread
    now: Spread | None


def check_machine(now: Mapping[str, str], then: Mapping[str, str], *, force: bool) -> None:
    """Require both runs to be of one machine: ratios, too, depend on it.

    Raises:
        InputRejectedError: They are not, and nobody insisted.
    """
    apart = differences(now, then)
    if apart and not force:
        raise InputRejectedError(
            "the baseline is of another machine: " + "; ".join(apart),
            where="--baseline",
            fix="measure a baseline here with --json, or insist with --force",
        )


def compare(
    now: Sequence[Outcome], then: Sequence[Outcome], *, asked: set[str]
) -> list[Comparison]:
    """Return what became of each row that the baseline has a ratio for.

    Args:
        now: This run's rows.
        then: The baseline's.
        asked: Names of the rows that this run was asked for; others are no concern of it.
    """
    here = {outcome.name: outcome.ratio for outcome in now}
    return [
        Comparison(old.name, changed(here.get(old.name), old.ratio), old.ratio, here.get(old.name))
        for old in then
        if old.ratio is not None and old.name in asked
    ]


def changed(now: Spread | None, then: Spread) -> Change:
    """Return what became of one ratio. Written so that NaN counts as worse."""
    if now is None:
        return Change.GONE
    if not now.low <= then.high * (1.0 + MARGIN):
        return Change.WORSE
    return Change.BETTER if now.high < then.low * (1.0 - MARGIN) else Change.SAME


def exit_code(comparisons: Sequence[Comparison]) -> ExitCode:
    """Return 1 where a ratio got worse, 3 where one is gone or nothing was compared, else 0."""
    changes = {comparison.change for comparison in comparisons}
    if Change.WORSE in changes:
        return ExitCode.FAIL
    whole = comparisons and Change.GONE not in changes
    return ExitCode.PASS if whole else ExitCode.INCONCLUSIVE


def gate(run: BenchRun, baseline: BenchRun, *, asked: set[str], force: bool) -> list[Comparison]:
    """Return the comparison of two runs; refuse one of another machine."""
    check_machine(run.machine, baseline.machine, force=force)
    return compare(run.outcomes, baseline.outcomes, asked=asked)
