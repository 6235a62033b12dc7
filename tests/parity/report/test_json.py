"""Reports for programs: strict, versioned, with every documented key."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise
from parity.core.results import Report, Verdict, error_report
from parity.errors import ExitCode, InputRejectedError
from parity.report.json import render
from scratch_gpt import GPT

pytestmark = pytest.mark.once

Check = Callable[..., Any]
Strictly = Callable[[str], Any]

DOCUMENT = {
    "schema_version",
    "verdict",
    "exit_code",
    "identity",
    "environment",
    "plan",
    "first_divergence",
    "results",
}
ROW = {
    "tap",
    "backend",
    "dtype",
    "mode",
    "against",
    "shape",
    "status",
    "error_ours",
    "error_reference",
    "ratio",
    "bound",
    "amplification",
    "worst_index",
    "required_tolerance",
}
"""The documented keys; there may be more."""


@pytest.fixture(scope="module")
def full(check: Check, strictly: Strictly) -> dict[str, Any]:
    """The JSON of both backends in every mode, as a program reads it."""
    document: dict[str, Any] = strictly(
        check("layerwise", "--weights", "tiny", "--seq-len", "9", "--format", "json").stdout
    )
    return document


def test_every_documented_key_is_there(full: dict[str, Any]) -> None:
    assert not DOCUMENT - set(full)
    assert not ROW - set.intersection(*(set(row) for row in full["results"]))
    assert type(full["exit_code"]) is int
    assert full["schema_version"] == 2
    assert full["exit_code"] == {"pass": 0, "fail": 1}[full["verdict"]]


def test_rows_have_different_keys(full: dict[str, Any]) -> None:
    key = ("tap", "backend", "dtype", "mode", "against")
    keys = [tuple(row[name] for name in key) for row in full["results"]]
    assert len(keys) == len(set(keys))


def test_the_plan_counts_taps_per_backend(full: dict[str, Any], tap_counts: dict[str, int]) -> None:
    """Each tap has two rows in float64, one for each reference, and one in each other mode."""
    counts = {backend: tap_counts[backend] for backend in ("plain", "fused")}
    plan, rows = full["plan"], [row["backend"] for row in full["results"]]
    assert plan["planned"] == plan["compared"] == sum(counts.values())
    assert plan["per_backend"] == {backend: [n, n] for backend, n in counts.items()}
    assert {backend: rows.count(backend) for backend in counts} == {
        backend: 4 * n for backend, n in counts.items()
    }


def test_what_is_exempt_has_its_reason(full: dict[str, Any]) -> None:
    exempt = full["plan"]["exempt"]
    never = ("attn.scores", "attn.weights", "attn", "mlp")
    wanted = {("fused", f"h.{i}.{name}") for i in range(12) for name in never}
    assert {(entry["backend"], entry["tap"]) for entry in exempt} == wanted
    assert all("tile" in entry["reason"] or "residual" in entry["reason"] for entry in exempt)


def test_the_weights_are_identified(full: dict[str, Any]) -> None:
    about = full["identity"]["weights"]
    digest = about["sha256"]
    assert "surrogate" in about["source"]
    assert about["revision"]
    assert len(digest) == 64
    assert full["identity"]["config"]["n_layer"] == 12
    assert set(digest) <= set("0123456789abcdef")


def test_the_environment_names_no_host_or_user(full: dict[str, Any]) -> None:
    found = set(full["environment"])
    assert {"python", "torch", "transformers", "numpy", "threads", "platform"} <= found
    assert not [key for key in found if "host" in key or "user" in key]


@pytest.mark.parametrize("verb", ["weights", "doctor"])
def test_every_verb_has_the_documented_keys(verb: str, check: Check, strictly: Strictly) -> None:
    time = ["--seq-len", "5"] if verb == "doctor" else []
    document = strictly(check(verb, "--weights", "tiny", *time, "--format", "json").stdout)
    assert not DOCUMENT - set(document)
    assert document["check"] == verb
    assert document["verdict"] == "pass"


def test_an_error_has_the_documented_keys(strictly: Strictly) -> None:
    error = InputRejectedError("what", where="where\x1b[31m", fix="fix")
    document = strictly(render(error_report(error, "layerwise")))
    assert not DOCUMENT - set(document)
    assert document["verdict"] == "error"
    assert document["exit_code"] == 4
    assert document["results"] == []
    assert document["plan"]["compared"] == 0


def nan_at(model: nn.Module, name: str) -> nn.Module:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.get_parameter(name)[0] = math.nan
    return copied


@pytest.mark.parametrize("both", [False, True], ids=["one side", "both sides"])
def test_nan_stays_strict(
    both: bool,  # noqa: FBT001 - a case
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    strictly: Strictly,
) -> None:
    bias = "h.3.mlp.c_fc.bias"
    reference = nan_at(theirs, f"transformer.{bias}") if both else theirs
    report = layerwise(
        nan_at(ours, bias),
        reference,
        token_ids,
        dtype="float32",
        explain="h.3.mlp.c_fc",  # type: ignore[arg-type]
    )
    document = strictly(render(report))
    first = document["first_divergence"]
    assert document["verdict"] == "fail"
    assert first["tap"] == "h.3.mlp.c_fc"
    assert first["row"]["status"] == "nonfinite"
    assert first["row"]["error_ours"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_value_that_is_not_finite_is_a_string(
    value: float, report: Report, strictly: Strictly
) -> None:
    other = dataclasses.replace(report, consequences={"plain": {"loss_ours": value}})
    assert str(value) == strictly(render(other))["consequences"]["plain"]["loss_ours"]


def test_others_words_come_back_as_they_were(report: Report, strictly: Strictly) -> None:
    evil = '\x1b[31m"\\\n\u2028\u202e☃\x00</script>'
    row = dataclasses.replace(report.results[0], tap=evil, detail=evil)
    text = render(dataclasses.replace(report, results=[row], identity={evil: evil}))
    document = strictly(text)
    assert document["results"][0]["tap"] == evil
    assert document["identity"][evil] == evil
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_a_first_divergence_holds_its_row(report: Report, strictly: Strictly) -> None:
    text = render(report)
    document = strictly(text)
    first = document["first_divergence"]
    assert first["tap"] == "h.3.mlp.gelu"
    assert "float64" in first["why"]
    assert "tanh" in first["suspects"]
    assert first["row"] in document["results"]
    assert (text[0], text[-2:]) == ("{", "}\n")


def test_the_explanation_is_in_the_json(report: Report, strictly: Strictly) -> None:
    explanation = strictly(render(report))["explanation"]
    run = explanation["runs"]["ours/plain/float64"]
    expected = ("h.3.mlp.gelu", 5 * 84, {"index", "ours", "oracle", "difference"})
    counted = sum(run["histogram"].values())
    assert expected == (explanation["tap"], counted, set(run["worst"][0]))


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_every_code_has_a_word(code: ExitCode, strictly: Strictly, report: Report) -> None:
    other = dataclasses.replace(report, exit_code=code, verdict=Verdict.ERROR)
    assert code.value == strictly(render(other))["exit_code"]
