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
from parity.core.results import Mode, Report, Verdict
from parity.errors import ExitCode, InputRejectedError
from parity.report.json import render, render_error
from scratch_gpt import GPT

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
"""Keys that design.md documents; there may be more."""


@pytest.fixture(scope="module")
def full(check: Check, strictly: Strictly) -> dict[str, Any]:
    """Return the JSON of both paths in every mode, as a program reads it."""
    document: dict[str, Any] = strictly(
        check("layerwise", "--weights", "tiny", "--seq-len", "9", "--format", "json").stdout
    )
    return document


def test_every_documented_key_is_there(full: dict[str, Any]) -> None:
    """The document has every key of the published schema."""
    assert set() == DOCUMENT - set(full)


def test_every_row_has_every_documented_key(full: dict[str, Any]) -> None:
    """A row has every key of the published schema, whatever its mode."""
    assert set() == ROW - set.intersection(*(set(row) for row in full["results"]))


def test_the_exit_code_is_a_number(full: dict[str, Any]) -> None:
    """The exit code is a whole number and the verdict its word."""
    expected = (int, 2, {"pass": 0, "fail": 1}[full["verdict"]])
    assert expected == (type(full["exit_code"]), full["schema_version"], full["exit_code"])


def test_rows_are_told_apart_by_their_key(full: dict[str, Any]) -> None:
    """No two rows have the same tap, attention, dtype, mode and witness."""
    keys = [
        (row["tap"], row["backend"], row["dtype"], row["mode"], row["against"])
        for row in full["results"]
    ]
    assert len(keys) == len(set(keys))


def test_every_planned_tap_has_every_row(full: dict[str, Any]) -> None:
    """A tap has two rows of identity, one per witness, and one of each quality mode."""
    counted = {
        backend: 4 * planned for backend, (planned, _) in full["plan"]["per_backend"].items()
    }
    rows = [row["backend"] for row in full["results"]]
    assert counted == {backend: rows.count(backend) for backend in counted}


def test_the_plan_counts_taps_per_path(full: dict[str, Any]) -> None:
    """The plan has 173 taps with plain and 125 with fused, all compared."""
    plan = full["plan"]
    expected = (298, 298, {"plain": [173, 173], "fused": [125, 125]})
    assert expected == (plan["planned"], plan["compared"], plan["per_backend"])


def test_what_is_exempt_has_its_reason(full: dict[str, Any]) -> None:
    """Each tap that fused never forms is listed with the written reason."""
    exempt = full["plan"]["exempt"]
    never = ("attn.scores", "attn.weights", "attn", "mlp")
    wanted = {f"h.{i}.{name}" for i in range(12) for name in never}
    expected = ({("fused", tap) for tap in wanted}, True)
    assert expected == (
        {(entry["backend"], entry["tap"]) for entry in exempt},
        all("tile" in entry["reason"] or "residual" in entry["reason"] for entry in exempt),
    )


def test_the_weights_are_identified(full: dict[str, Any]) -> None:
    """The verdict is about weights of a source, a revision and a SHA-256, with their config."""
    about = full["identity"]["weights"]
    digest = about["sha256"]
    expected = (True, True, 64, 12)
    assert expected == (
        "surrogate" in about["source"],
        bool(about["revision"]),
        len(digest.strip().lower()),
        full["identity"]["config"]["n_layer"],
    )
    assert set(digest) <= set("0123456789abcdef")


def test_the_environment_names_no_one(full: dict[str, Any]) -> None:
    """Versions and settings are recorded, the machine's name and its user's are not."""
    wanted = {"python", "torch", "transformers", "numpy", "threads", "platform"}
    expected = (set(), set())
    personal = {key for key in full["environment"] if "host" in key or "user" in key}
    assert expected == (wanted - set(full["environment"]), personal)


@pytest.mark.parametrize("verb", ["weights", "doctor"])
def test_every_verb_has_the_documented_keys(verb: str, check: Check, strictly: Strictly) -> None:
    """Reports of the other verbs are strict JSON with the same keys."""
    time = ["--seq-len", "5"] if verb == "doctor" else []
    document = strictly(check(verb, "--weights", "tiny", *time, "--format", "json").stdout)
    expected = (set(), verb, "pass")
    assert expected == (DOCUMENT - set(document), document["check"], document["verdict"])


def test_an_error_has_the_documented_keys(strictly: Strictly) -> None:
    """A run that ended before there was a report has every key too, and nothing compared."""
    error = InputRejectedError("what", where="where\x1b[31m", fix="fix")
    document = strictly(render_error(error, check="layerwise"))
    expected = (set(), "error", 4, [], 0)
    assert expected == (
        DOCUMENT - set(document),
        document["verdict"],
        document["exit_code"],
        document["results"],
        document["plan"]["compared"],
    )


def nan_at(model: nn.Module, name: str) -> nn.Module:
    """Return a copy of the model in which the first element of a parameter is NaN."""
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
    """NaN ends as the status nonfinite, and as null or a string in the JSON."""
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
    expected = ("fail", "h.3.mlp.c_fc", "nonfinite", None)
    assert expected == (
        document["verdict"],
        first["tap"],
        first["row"]["status"],
        first["row"]["error_ours"],
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_value_that_is_not_finite_is_a_string(
    value: float, report: Report, strictly: Strictly
) -> None:
    """A number that JSON does not have is written as the string that Python has for it."""
    other = dataclasses.replace(report, consequences={"plain": {"loss_ours": value}})
    assert str(value) == strictly(render(other))["consequences"]["plain"]["loss_ours"]


def test_others_words_come_back_as_they_were(report: Report, strictly: Strictly) -> None:
    """Control characters, quotes and characters beyond ASCII survive, in printable ASCII."""
    evil = '\x1b[31m"\\\n\u2028\u202e☃\x00</script>'
    row = dataclasses.replace(report.results[0], tap=evil, detail=evil)
    text = render(dataclasses.replace(report, results=[row], identity={evil: evil}))
    document = strictly(text)
    expected = (evil, evil, True)
    assert expected == (
        document["results"][0]["tap"],
        document["identity"][evil],
        text.isascii() and text.replace("\n", "").isprintable(),
    )


def test_a_first_divergence_holds_its_row(report: Report, strictly: Strictly) -> None:
    """Where the sides part is told with reason, suspects, and the very row that failed."""
    document = strictly(render(report))
    first = document["first_divergence"]
    expected = ("h.3.mlp.gelu", True, True, True)
    assert expected == (
        first["tap"],
        "float64" in first["why"],
        "erf" in first["suspects"],
        first["row"] in document["results"],
    )


def test_the_explanation_is_in_the_json(report: Report, strictly: Strictly) -> None:
    """What --explain asked for comes with a histogram and the worst elements of each run."""
    explanation = strictly(render(report))["explanation"]
    run = explanation["runs"]["ours/plain/float64"]
    expected = ("h.3.mlp.gelu", 5 * 84, {"index", "ours", "oracle", "difference"})
    counted = sum(run["histogram"].values())
    assert expected == (explanation["tap"], counted, set(run["worst"][0]))


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_every_code_has_a_word(code: ExitCode, strictly: Strictly, report: Report) -> None:
    """Whatever the exit code is, the document is strict and says it as a number."""
    other = dataclasses.replace(report, exit_code=code, verdict=Verdict.ERROR)
    assert code.value == strictly(render(other))["exit_code"]


def test_the_document_ends_in_a_newline(report: Report) -> None:
    """One document, one newline at its end, as a text file wants it."""
    text = render(report)
    expected = ("{", "}\n")
    assert expected == (text[0], text[-2:])
    assert Mode.FLOAT64.value in text
