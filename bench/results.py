"""A run as strict JSON, and an earlier run read back."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from parity.errors import ExitCode, InputRejectedError

# Medians, spreads, ratios round by round, and the exponent of growth. Pure: nothing is timed.


NOISY = 0.10
"""Quartile range over median above which a row is marked as noisy: a neighbour that comes and goes
makes it 0.2 and more on two cores."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle half of some measurements.

    Attributes:
        median: The middle one.
        low: Lower quartile.
        high: Upper quartile.
        count: How many there are.
    """

    median: float
    low: float
    high: float
    count: int

    @property
    def noise(self) -> float:
        """The quartile range over the median; infinite where the median is 0 or not finite."""
        if not (math.isfinite(self.high - self.low) and self.median != 0.0):
            return math.inf
        return (self.high - self.low) / abs(self.median)

    @property
    def noisy(self) -> bool:
        """Whether the median means little. Written so that NaN counts as noisy."""
        return not self.noise <= NOISY


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no measurements, so no median")
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(values))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours over theirs, round by round: what slows a whole round cancels.

    Raises:
        ValueError: The rounds are not the same ones.
    """
    if len(ours) != len(theirs):
        message = f"{len(ours)} rounds of ours against {len(theirs)} of theirs"
        raise ValueError(message)
    return [mine / its for mine, its in zip(ours, theirs, strict=True)]


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float:
    """Return the slope of `log(amount)` over `log(size)`, by least squares.

    Raises:
        ValueError: Fewer than two sizes, or something that has no logarithm.
    """
    if len(set(sizes)) < 2 or min(*sizes, *amounts) <= 0.0:  # noqa: PLR2004 - a line needs two
        message = f"no exponent can be fitted through {list(zip(sizes, amounts, strict=True))}"
        raise ValueError(message)
    slope, _ = np.polyfit(np.log(sizes), np.log(amounts), 1)
    return float(slope)


# What became of each row: figures, statuses, and the exit code that follows. Pure.


class Status(StrEnum):
    """What became of one row."""

    MET = "met"
    MISSED = "missed"
    REPORTED = "reported"  # no bound was set
    WRONG = "wrong"  # a kernel that computes something else gets no time
    INCONCLUSIVE = "inconclusive"  # faster than the machine can be
    OOM = "OOM"
    NOT_PLANNED = "not planned"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row of the report.

    Attributes:
        name: The row's name.
        work: What is done.
        against: What it is held against.
        status: What became of it.
        bound: Largest ratio held to; None where none is.
        ratio: Our figure over theirs; None where there is none.
        ours: Our own figure, in `unit`.
        theirs: Theirs.
        unit: `s`, `byte`, or nothing where the ratio alone is measured.
        why: For any status but met, missed and reported, one phrase; for these, what else to know.
    """

    name: str
    work: str
    against: str
    status: Status
    bound: float | None = None
    ratio: Spread | None = None
    ours: Spread | None = None
    theirs: Spread | None = None
    unit: str = "s"
    why: str = ""

    @property
    def noisy(self) -> bool:
        """Whether the ratio's spread is too wide for its median to mean much."""
        return self.ratio is not None and self.ratio.noisy


def judge(ratio: Spread, bound: float | None) -> Status:
    """Return whether a figure keeps its bound. Written so that NaN misses it."""
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
    """Return 1 where a bound was missed or a kernel was wrong, 3 where too little was measured.

    A row that this machine cannot run at all (no GPU, no bfloat16) is no failure; a report in
    which nothing was measured is no pass.
    """
    codes = {_CODES[outcome.status] for outcome in outcomes if outcome.status in _CODES}
    if ExitCode.FAIL in codes:
        return ExitCode.FAIL
    measured = any(outcome.status in {Status.MET, Status.REPORTED} for outcome in outcomes)
    return ExitCode.INCONCLUSIVE if codes or not measured else ExitCode.PASS


SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """How long one kernel took at one shape: a point of the picture.

    Attributes:
        work: What was done: all points of one work are comparable.
        subject: Who did it.
        time: Tokens per row.
        seconds: How long.
        flops: Useful operations: those of the causal half.
        bytes: Bytes that must move at least.
        ceiling: Useful operations a second over the matrix rate measured in the same run.
        error: Distance from the float64 oracle, relative.
    """

    work: str
    subject: str
    time: int
    seconds: Spread
    flops: int
    bytes: int
    ceiling: float
    error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRun:
    """Everything that one run of `bench.ratios` found."""

    machine: Mapping[str, str]
    limits: Mapping[str, float]
    outcomes: Sequence[Outcome]
    series: Sequence[Series] = ()


def to_json(run: BenchRun) -> str:
    """Return the run as one JSON document; what is not finite is null."""
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


def read(path: Path) -> BenchRun:
    """Return an earlier run: its machine and its rows; limits and series are left behind.

    Raises:
        InputRejectedError: No file, no JSON, or JSON that this version did not write.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        _check_version(parts["schema_version"])
        outcomes = [_outcome(row) for row in parts["outcomes"]]
        machine = {str(key): str(value) for key, value in parts["machine"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRejectedError(
            f"this is no earlier run of bench.ratios: {type(error).__name__}: {error}",
            where=f"--baseline {path}",
            fix="give a file that this version of `python -m bench.ratios --json` wrote",
        ) from error
    return BenchRun(machine=machine, limits={}, outcomes=outcomes)


def _check_version(found: object) -> None:
    if found != SCHEMA_VERSION:
        message = f"schema version {found!r}, not {SCHEMA_VERSION}"
        raise ValueError(message)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    found = {key: value for key, value in row.items() if key != "noisy"}
    spreads = {key: _spread(found.get(key)) for key in ("ratio", "ours", "theirs")}
    return Outcome(**{**found, **spreads, "status": Status(row["status"])})


def _spread(value: Mapping[str, Any] | None) -> Spread | None:
    if value is None:
        return None
    if not all(math.isfinite(value[key]) for key in ("median", "low", "high", "count")):
        raise ValueError("a spread that is not finite")
    return Spread(**value)


def _no_constant(name: str) -> float:
    message = f"{name} is no JSON"
    raise ValueError(message)
