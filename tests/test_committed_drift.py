"""The table of the last full run as it is committed: every row, passed, and what README shows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).parents[1]
IDENTITY = 1e-9
SECTION = "## On every torch"


def committed(name: str) -> str:
    """Return a file of the checkout, if the tests stand in one."""
    path = HOME / name
    if not path.is_file():
        pytest.skip(f"not run: there is no {name} beside the tests")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drift() -> dict[str, Any]:
    """Return the report."""
    document: dict[str, Any] = json.loads(committed("docs/drift.json"))
    return document


def test_every_row_of_tox_is_in_it(drift: dict[str, Any]) -> None:
    """In the order of `drift`'s expectations, which another test holds against the rows."""
    expected = re.findall(r"--expect\s+(\S+)", committed("tox.ini"))
    assert expected == [row["label"] for row in drift["drift"]["rows"]]


def test_it_passed(drift: dict[str, Any]) -> None:
    """Every report of every row, and none was missing."""
    assert (drift["check"], drift["verdict"], drift["exit_code"]) == ("drift", "pass", 0)
    assert {row["status"] for row in drift["results"]} == {"pass"}
    rows = len(drift["drift"]["rows"])
    checks = {row["tap"] for row in drift["results"]}
    assert {"layerwise", "gradients", "training", "tokens", "generation"} <= checks
    assert len(drift["results"]) == rows * len(checks)


def test_identity_holds_in_every_row(drift: dict[str, Any]) -> None:
    """In float64 both sides are the same function on every version."""
    errors = [row["error_ours"] for row in drift["results"] if row["tap"] != "tokens"]
    assert max(errors) <= IDENTITY
    assert min(errors) > 0.0


def test_one_code_made_all_of_it(drift: dict[str, Any]) -> None:
    """Else what moved might be the code's doing."""
    assert "code" not in drift["drift"]["differences"]


def test_readme_shows_it() -> None:
    """Every line of the table there is a line of the whole one, in its order."""
    section = committed("README.md").partition(SECTION)[2]
    shown = section.split("```")[1].strip("\n").splitlines()
    whole = [line.rstrip() for line in committed("docs/drift.txt").splitlines()]
    rest = iter(whole)
    missing = [line for line in shown if line not in ("", "…") and line.rstrip() not in rest]
    assert missing == []
    rows = json.loads(committed("docs/drift.json"))["drift"]["rows"]
    assert {row["label"] for row in rows} <= set(" ".join(shown).split())
