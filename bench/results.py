"""Results of a run: statistics, outcomes, exit code, and strict JSON written and read."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import ExitCode, InputRejectedError
from scratch_gpt.checkpoint.strict_io import load_strict_json, open_regular
from scratch_gpt.errors import CheckpointError

NOISY = 0.10
"""Quartile range over median above which a row is marked as noisy. Another process on the same two
cores makes it 0.2 and more."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, lower and upper quartile, and number of some measurements."""

    median: float
    low: float
    high: float
    count: int

    @property
    def noisy(self) -> bool:
        """Whether the quartile range exceeds `NOISY`. Written so that NaN and 0 count as noisy."""
        return self.median == 0.0 or not (self.high - self.low) / abs(self.median) <= NOISY


def spread(values: Sequence[float]) -> Spread:
    """Return median, quartiles and count.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no measurements")
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(values))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours over theirs for each round; a slow machine affects both sides of a round.

    Raises:
        ValueError: The numbers of rounds differ.
    """
    if len(ours) != len(theirs):
        message = f"{len(ours)} rounds of ours, {len(theirs)} of theirs"
        raise ValueError(message)
    return [mine / its for mine, its in zip(ours, theirs, strict=True)]


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float:
    """Return the least-squares slope of `log(amount)` over `log(size)`.

    Raises:
        ValueError: There are fewer than two sizes, or a value is not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *amounts) <= 0.0:  # noqa: PLR2004 - a line needs two
        message = f"no exponent can be fitted through {list(zip(sizes, amounts, strict=True))}"
        raise ValueError(message)
    slope, _ = np.polyfit(np.log(sizes), np.log(amounts), 1)
    return float(slope)


class Status(StrEnum):
    """The outcome of one row."""

    MET = "met"
    MISSED = "missed"
    REPORTED = "reported"  # the row has no bound
    WRONG = "wrong"  # wrong results are not timed
    INCONCLUSIVE = "inconclusive"  # for example above the machine's matrix rate
    OOM = "OOM"
    NOT_PLANNED = "not planned"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row of the report: our figure compared with another."""

    name: str
    work: str
    against: str
    status: Status
    bound: float | None = None  # the largest ratio that meets the target
    ratio: Spread | None = None  # ours over theirs; None if it was not measured
    ours: Spread | None = None
    theirs: Spread | None = None
    unit: str = "s"  # or "byte"
    why: str = ""  # the reason why nothing was measured, or a remark

    @property
    def noisy(self) -> bool:
        """Whether the ratio is noisy."""
        return self.ratio is not None and self.ratio.noisy


def judge(ratio: Spread, bound: float | None) -> Status:
    """Return whether a ratio is within its bound. Written so that NaN misses it."""
    if bound is None:
        return Status.REPORTED
    return Status.MET if ratio.median <= bound else Status.MISSED


_CODES = {
    Status.WRONG: ExitCode.FAIL,
    Status.MISSED: ExitCode.FAIL,
    Status.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Status.OOM: ExitCode.INCONCLUSIVE,
}


def exit_code(outcomes: Sequence[Outcome]) -> ExitCode:
    """Return 1 if a bound was missed or results were wrong, 3 if too little was measured, else 0.

    A row that this machine cannot run (no GPU, no bfloat16) does not fail the run. A run in which
    nothing was measured does not pass.
    """
    codes = {_CODES[outcome.status] for outcome in outcomes if outcome.status in _CODES}
    if ExitCode.FAIL in codes:
        return ExitCode.FAIL
    measured = any(outcome.status in {Status.MET, Status.REPORTED} for outcome in outcomes)
    return ExitCode.INCONCLUSIVE if codes or not measured else ExitCode.PASS


SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """The time of one kernel at one shape: a point of the picture."""

    work: str  # points of the same work are comparable
    subject: str  # the kernel's name
    time: int  # tokens per text
    seconds: Spread
    flops: int  # see `Shape.flops`
    bytes: int  # see `Shape.bytes`
    ceiling: float  # `flops` per second over the matrix rate of the same run
    error: float  # relative to the float64 oracle


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRun:
    """The results of one run of `bench.ratios`."""

    machine: Mapping[str, str]
    limits: Mapping[str, float]
    outcomes: Sequence[Outcome]
    series: Sequence[Series] = ()


def to_json(run: BenchRun) -> str:
    """Return the run as one JSON document; values that are not finite become null."""
    parts = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(run)}
    for part, outcome in zip(parts["outcomes"], run.outcomes, strict=True):
        part["noisy"] = outcome.noisy
    return json.dumps(_plain(parts), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - the shapes of a JSON document
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


_LARGEST = 1 << 24
"""Bytes of a run that are read; one of every row has 100 thousand."""


def read(path: Path) -> BenchRun:
    """Return an earlier run: its machine and outcomes, without limits and series.

    Raises:
        InputRejectedError: The file is not written by this version.
        CheckpointError: There is no such file, or it cannot be read.
    """
    try:
        with open_regular(path) as file:
            parts = load_strict_json(file.read(_LARGEST))
        if parts["schema_version"] != SCHEMA_VERSION:
            message = f"schema version {parts['schema_version']!r}, not {SCHEMA_VERSION}"
            raise ValueError(message)  # noqa: TRY301 - one error for every fault of the file
        outcomes = [_outcome(row) for row in parts["outcomes"]]
        machine = {str(key): str(value) for key, value in parts["machine"].items()}
    except CheckpointError:  # no regular file
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRejectedError(
            f"not a run of bench.ratios: {type(error).__name__}: {error}",
            where=f"--baseline {path}",
            fix="pass a file written by this version's `python -m bench.ratios --json`",
        ) from error
    return BenchRun(machine=machine, limits={}, outcomes=outcomes)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    found = {key: value for key, value in row.items() if key != "noisy"}
    spreads = {key: _spread(found.get(key)) for key in ("ratio", "ours", "theirs")}
    return Outcome(**{**found, **spreads, "status": Status(row["status"])})


def _spread(value: Mapping[str, Any] | None) -> Spread | None:
    if value is None:
        return None
    if not all(math.isfinite(value[key]) for key in ("median", "low", "high", "count")):
        raise ValueError("a spread is not finite")
    return Spread(**value)
