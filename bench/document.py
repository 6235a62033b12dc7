"""A run as strict JSON, and an earlier run read back."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.outcome import Outcome, Status
from bench.statistics import Spread
from parity.errors import InputRefusedError

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
class Run:
    """Everything that one run of `bench.ratios` found."""

    machine: Mapping[str, str]
    limits: Mapping[str, float]
    outcomes: Sequence[Outcome]
    series: Sequence[Series] = ()


def rendered(run: Run) -> str:
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


def read(path: Path) -> Run:
    """Return an earlier run: its machine and its rows; limits and series are left behind.

    Raises:
        InputRefusedError: No file, no JSON, or JSON that this version did not write.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        _check_version(parts["schema_version"])
        outcomes = [_outcome(row) for row in parts["outcomes"]]
        machine = {str(key): str(value) for key, value in parts["machine"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefusedError(
            f"this is no earlier run of bench.ratios: {type(error).__name__}: {error}",
            where=f"--baseline {path}",
            fix="give a file that this version of `python -m bench.ratios --json` wrote",
        ) from error
    return Run(machine=machine, limits={}, outcomes=outcomes)


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
