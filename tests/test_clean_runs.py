"""Right models pass every check: the record of all runs, and a few of them again."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.checkpoints.weights import Weights
from scratch_gpt import GPT

HOME = Path(__file__).parents[1]
pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(HOME / "tests" / "clean_runs.py"))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HOME / "docs" / "clean-runs.json").read_bytes())
    return found


def test_no_recorded_run_fails(script: dict[str, Any], record: dict[str, Any]) -> None:
    runs = [dict(zip(record["columns"], line, strict=True)) for line in record["runs"]]
    assert [one["number"] for one in runs] == list(range(len(runs)))
    for one in runs:
        drawn = script["drawn_settings"](record["seed"], one["number"])
        assert (drawn["verb"], drawn["dtype"]) == (one["verb"], one["dtype"])
        assert one["verdict"] in ("PASS", "INCONCLUSIVE")
        assert bool(one["why"]) == (one["verdict"] == "INCONCLUSIVE")
        assert 0.0 <= one["fraction"] <= 1.0
    assert {one["verb"] for one in runs} == set(script["VERBS"])


def test_the_tables_are_those_of_the_record(script: dict[str, Any], record: dict[str, Any]) -> None:
    page = (HOME / "docs" / "tolerances.md").read_text(encoding="utf-8")
    for key in ("verb", "dtype"):
        assert "\n".join(script["table"](record, key)) in page


@pytest.mark.parametrize("number", [0, 1])
def test_a_run_of_a_wrong_model_fails(
    number: int, script: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong bias is seen by `layerwise` and by `gradients`."""
    used = script["run"].__globals__
    right = used["build_ours"]

    def wrong(weights: Weights) -> GPT:
        model: GPT = right(weights)
        with torch.no_grad():
            model.state_dict()["h.0.mlp.c_fc.bias"][0] += 0.1
        return model

    used["build_ours"] = wrong
    try:
        assert script["main"](["--runs", "1", "--first", str(number)]) == 1
    finally:
        used["build_ours"] = right
    assert f"{number} {script['VERBS'][number]}" in capsys.readouterr().out


@pytest.mark.slow
def test_other_runs_pass(script: dict[str, Any]) -> None:
    """A run of each verb, drawn from another seed."""
    numbers = {verb: number for number, verb in enumerate(script["VERBS"])}
    results = [script["run"](1, number)[0] for number in numbers.values()]
    assert [one for one in results if one.verdict not in ("PASS", "INCONCLUSIVE")] == []
