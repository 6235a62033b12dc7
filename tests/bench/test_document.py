"""A run as strict JSON, and back."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from bench import results
from bench.results import BenchRun, Outcome, Series, Spread, Status
from parity.errors import InputRejectedError

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


def refuse(name: str) -> float:
    """Fail where a document holds a constant that JSON does not have."""
    pytest.fail(f"{name} in a JSON document")


def test_what_is_written_is_strict() -> None:
    """No NaN, no Infinity: null stands there."""
    found = json.loads(results.to_json(RUN), parse_constant=refuse)
    assert found["limits"] == {"copy": None}
    assert found["series"][0]["ceiling"] is None
    assert [row["noisy"] for row in found["outcomes"]] == [False, False]
    assert found["outcomes"][1]["status"] == "OOM"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Machine and rows are the same to the last bit."""
    path = tmp_path / "run.json"
    path.write_text(results.to_json(RUN), encoding="utf-8")
    found = results.read(path)
    assert (RUN.machine, RUN.outcomes) == (found.machine, found.outcomes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema_version": 1', '"schema_version": 2'),
        ('"median": 0.5', '"median": NaN'),
        ('"median": 0.5', '"median": "fast"'),
        ('"status": "met"', '"status": "won"'),
        ('"bound": 1.0', '"limit": 1.0'),
        ('"outcomes"', '"rows"'),
        ("{", "["),
    ],
)
def test_a_document_of_another_form_is_refused(old: str, new: str, tmp_path: Path) -> None:
    """Whatever is wrong with it, the file is named and nothing is compared."""
    text = results.to_json(RUN)
    assert old in text
    path = tmp_path / "run.json"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputRejectedError, match="no earlier run") as refusal:
        results.read(path)
    assert str(path) in refusal.value.where


def test_no_file_is_refused(tmp_path: Path) -> None:
    """As one that holds something else is."""
    with pytest.raises(InputRejectedError, match="FileNotFoundError"):
        results.read(tmp_path / "none.json")


def test_every_field_of_a_row_is_written() -> None:
    """Nothing that a row says is lost on the way."""
    row = json.loads(results.to_json(RUN))["outcomes"][0]
    assert {field.name for field in dataclasses.fields(Outcome)} | {"noisy"} == set(row)
