"""Statistics, outcomes, exit codes, and JSON written and read."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import results
from bench.results import (
    NOISY,
    BenchRun,
    Outcome,
    Series,
    Spread,
    Status,
    exit_code,
    exponent,
    judge,
    paired_ratios,
    spread,
)
from parity.errors import InputRejectedError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 1.0, 3.0, 2.0, 4.0], Spread(3.0, 2.0, 4.0, 5)),
        ([1.0, 1.0, 100.0, 1.0, 1.0], Spread(1.0, 1.0, 1.0, 5)),
    ],
)
def test_a_spread_has_median_and_quartiles(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


def test_a_drift_of_the_machine_cancels() -> None:
    assert paired_ratios([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: spread([]), "no measurements"),
        (lambda: paired_ratios([1.0, 2.0], [1.0]), "2 rounds of ours, 1 of theirs"),
        (lambda: exponent([1.0], [1.0]), "no exponent"),
        (lambda: exponent([1.0, 2.0], [1.0, 0.0]), "no exponent"),
        (lambda: exponent([1.0, 2.0], [1.0, -1.0]), "no exponent"),
    ],
)
def test_too_few_or_wrong_numbers_are_rejected(compute: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute()


@pytest.mark.parametrize(
    ("median", "low", "high", "noisy"),
    [
        (1.0, 1.0, 1.0, False),
        (1.0, 1.0 - NOISY / 4, 1.0 + NOISY / 4, False),
        (1.0, 1.0 - NOISY, 1.0 + NOISY, True),
        (1.0, 1.0, math.nan, True),
        (1.0, 1.0, math.inf, True),
        (0.0, 0.0, 0.0, True),
    ],
)
def test_a_row_with_a_wide_spread_is_noisy(
    median: float, low: float, high: float, *, noisy: bool
) -> None:
    assert outcome(Status.MET, Spread(median, low, high, 5)).noisy == noisy
    assert not outcome(Status.OOM).noisy


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_an_exponent_is_the_power(power: float) -> None:
    sizes = [1024.0, 2048.0, 4096.0]
    assert power == pytest.approx(exponent(sizes, [7.0 * size**power for size in sizes]))


def outcome(status: Status, ratio: Spread | None = None) -> Outcome:
    return Outcome(name="a", work="b", against="c", status=status, ratio=ratio)


@pytest.mark.parametrize(
    ("median", "bound", "expected"),
    [
        (0.9, 1.0, Status.MET),
        (1.0, 1.0, Status.MET),
        (1.1, 1.0, Status.MISSED),
        (math.nan, 1.0, Status.MISSED),
        (9.0, None, Status.REPORTED),
    ],
)
def test_a_ratio_is_judged_by_its_bound(
    median: float, bound: float | None, expected: Status
) -> None:
    assert expected is judge(Spread(median, median, median, 3), bound)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.MET, Status.REPORTED, Status.NOT_RUN, Status.NOT_PLANNED], 0),
        ([Status.MET, Status.MISSED, Status.OOM], 1),
        ([Status.MET, Status.WRONG], 1),
        ([Status.MET, Status.INCONCLUSIVE], 3),
        ([Status.MET, Status.OOM], 3),
        ([Status.NOT_RUN], 3),
        ([], 3),
    ],
)
def test_the_worst_status_decides(statuses: list[Status], code: int) -> None:
    assert code == exit_code([outcome(status) for status in statuses])


QUIET = Spread(0.5, 0.49, 0.51, 5)
RUN = BenchRun(
    machine={"processor": "A CPU"},
    limits={"copy": math.inf},
    outcomes=[
        Outcome(
            name="core", work="a core", against="another", status=Status.MET, bound=1.0,
            ratio=QUIET, ours=QUIET, theirs=Spread(1.0, 0.5, 1.5, 5),
        ),
        Outcome(name="large", work="a core", against="b", status=Status.OOM, why="OOM: 3 GB"),
    ],
    series=[
        Series(work="forward", subject="tiled", time=7, seconds=QUIET, flops=1, bytes=1,
               ceiling=math.nan, error=1e-7),
    ],
)  # fmt: skip


def test_written_json_is_strict() -> None:
    found = json.loads(results.to_json(RUN), parse_constant=pytest.fail)
    assert found["limits"] == {"copy": None}
    assert found["series"][0]["ceiling"] is None
    assert [row["noisy"] for row in found["outcomes"]] == [False, False]
    assert found["outcomes"][1]["status"] == "OOM"
    fields = {field.name for field in dataclasses.fields(Outcome)}
    assert fields | {"noisy"} == set(found["outcomes"][0])


def test_a_written_run_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(results.to_json(RUN), encoding="utf-8")
    found = results.read(path)
    assert (RUN.machine, RUN.outcomes) == (found.machine, found.outcomes)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('"schema_version": 1', '"schema_version": 2', "schema version 2, not 1"),
        ('"median": 0.5', '"median": NaN', "NaN is not JSON"),
        ('"median": 0.5', '"median": "fast"', "TypeError"),
        ('"status": "met"', '"status": "won"', "ValueError"),
        ('"bound": 1.0', '"limit": 1.0', "TypeError"),
        ('"outcomes"', '"rows"', "KeyError"),
        ("{", "[", "ValueError|JSONDecodeError"),
        ("{", "", "ValueError|JSONDecodeError"),
    ],
)
def test_malformed_documents_are_rejected(old: str, new: str, cause: str, tmp_path: Path) -> None:
    text = results.to_json(RUN)
    assert old in text
    path = tmp_path / "run.json"
    with pytest.raises(InputRejectedError, match="there is no such file"):
        results.read(path)
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputRejectedError, match=f"not a run of bench.*({cause})") as refusal:
        results.read(path)
    assert str(path) in refusal.value.where
