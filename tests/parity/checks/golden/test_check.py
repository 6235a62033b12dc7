"""The check of goldens: right code passes on what was recorded, and each fault fails its rows."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from parity.checkpoints.weights import Provenance
from parity.checks.golden import measure
from parity.checks.golden.check import golden
from parity.core.results import Report, Row
from parity.errors import UsageError
from parity.faults.forward import inject
from reference.published import Goldens, Kind, published
from scratch_gpt import GPT

Ask = Callable[..., Report]
Altered = Callable[..., Goldens]


def rows_of(report: Report) -> dict[str, Row]:
    return {row.tap: row for row in report.results}


def failing(report: Report) -> set[str]:
    return {row.tap for row in report.results if row.status.value != "pass"}


def kinds_failing(report: Report) -> set[str]:
    return {row.details["kind"] for row in rows_of(report).values() if row.status.value != "pass"}


@pytest.fixture(scope="module")
def passed(ask: Ask) -> Report:
    return ask()


def test_right_code_passes(passed: Report, recorded: Goldens) -> None:
    asked = len(recorded.rows) - 1
    assert passed.exit_code == 0
    assert passed.verdict.value == "pass"
    assert failing(passed) == set()
    assert passed.plan.planned == asked
    assert passed.plan.compared == asked
    assert passed.plan.per_backend == {"goldens": (asked, asked)}
    assert list(passed.reasons) == []
    assert passed.first_divergence is None


def test_every_kind_is_asked(passed: Report) -> None:
    asked = {row.details["kind"] for row in rows_of(passed).values()}
    assert asked == {row.kind.value for row in published().rows} - {"beam_texts"}
    assert set(Kind) == set(measure.KINDS) | set(measure.NOT_COMPARED)


def test_beams_are_exempt_in_writing(passed: Report) -> None:
    why = (
        "the search that made it may finish texts by other rules than ours: they were never "
        "compared"
    )
    assert [(entry["tap"], entry["reason"]) for entry in passed.plan.exempt] == [
        ("generate/beam", why)
    ]


def test_rows_say_what_they_compare(passed: Report, recorded: Goldens) -> None:
    golden_row = next(row for row in recorded.rows if row.key == "last/logit")
    row = rows_of(passed)["last/logit"]
    assert row.details["expected"] == golden_row.expected
    assert row.details["tolerance"] == golden_row.tolerance
    assert row.details["source"] == golden_row.source
    assert row.details["grade"] == "H"
    assert row.details["kind"] == "logit"
    assert row.details["got"] == pytest.approx(golden_row.expected, abs=golden_row.tolerance.bound)
    assert row.details["difference"] == abs(row.details["got"] - row.details["expected"])


@pytest.mark.parametrize(
    ("fault", "must_fail"),
    [
        ("unbiased-variance", {"exp_loss", "word_probabilities", "median_difference"}),
        ("norms-swapped", {"greedy_ids", "logit", "exp_loss", "word_probabilities"}),
        ("no-mlp-residual", {"greedy_ids", "argmax", "logit", "exp_loss", "word_probabilities"}),
        ("untied-head", {"matrix_norms", "first_parameters", "parameter_count", "argmax"}),
    ],
)
def test_a_planted_fault_is_found(fault: str, must_fail: set[str], ours: GPT, ask: Ask) -> None:
    report = ask(model=inject(ours, fault, 5))
    expected = (1, "fail", set(), set())
    untouched = {"file_digest", "logits_shape"}
    missed, wronged = must_fail - kinds_failing(report), untouched & kinds_failing(report)
    assert expected == (report.exit_code, report.verdict.value, missed, wronged)


@pytest.mark.parametrize("name", ["tokens_embed.weight", "h.3.mlp.c_fc.bias"])
def test_nan_is_its_own_failure(name: str, ours: GPT, ask: Ask) -> None:
    model = copy.deepcopy(ours)
    with torch.no_grad():
        model.get_parameter(name)[0] = math.nan
    report = ask(model=model)
    found: dict[str, set[str]] = {}
    for row in rows_of(report).values():
        found.setdefault(row.details["kind"], set()).add(row.status.value)
    computed = {"greedy_ids", "logits_shape", "argmax", "logit", "word_probabilities", "exp_loss"}
    assert report.exit_code == 1
    assert set().union(*(found[kind] for kind in computed)) == {"nonfinite"}


def test_no_goldens_are_no_pass(ask: Ask, recorded: Goldens) -> None:
    report = ask(goldens=dataclasses.replace(recorded, rows=()))
    assert (report.exit_code, report.verdict.value) == (3, "inconclusive")


@pytest.mark.parametrize(
    ("key", "inputs", "why"),
    [
        ("last/argmax", {"token_ids": [5, 211]}, "id 211 is not in this model's vocabulary of 211"),
        ("last/logit", {"token_ids": [5], "id": 300}, "id 300 is not in"),
        ("loss/1", {"token_ids": [3] * 390}, "390 tokens are more than this model's 389"),
        ("first/tokens_embed.weight", {"tensor": "wte"}, "this model has no tensor wte"),
        (
            "norms/rms-mean",
            {"matrices": 148, "quantity": "rms", "statistic": "mean"},
            "this model has 50 matrices, not 148",
        ),
    ],
)
def test_what_cannot_be_asked_is_inconclusive(
    key: str, inputs: dict[str, Any], why: str, ask: Ask, altered: Altered
) -> None:
    report = ask(key.partition("/")[0], goldens=altered(key, inputs=inputs))
    row = rows_of(report)[key]
    assert report.exit_code == 3
    assert row.status.value == "not_run"
    assert row.details["got"] is None
    assert failing(report) == {key}
    assert report.plan.compared == report.plan.planned - 1
    assert row.detail.startswith(why)
    assert key in report.reasons[0].where


def test_the_attention_core_is_the_models(ours: GPT, ask: Ask) -> None:
    report = ask(model=ours.with_backend("tiled"))
    assert (report.exit_code, {row.backend for row in report.results}) == (0, {"tiled"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.train(), "is in training mode"),
        (lambda model: model.half(), "holds torch.float16"),
        (lambda model: model.bfloat16(), "holds torch.bfloat16"),
    ],
    ids=["training", "float16", "bfloat16"],
)
def test_a_model_that_cannot_give_them_is_refused(
    change: Callable[[GPT], GPT],
    message: str,
    ours: GPT,
    recorded: Goldens,
    provenance: Callable[..., Provenance],
) -> None:
    with pytest.raises(UsageError, match=message):
        golden(change(copy.deepcopy(ours)), provenance(), recorded)


def test_progress_is_told(ours: GPT, recorded: Goldens, provenance: Callable[..., Any]) -> None:
    told: list[tuple[str, int, int]] = []
    golden(ours, provenance(), recorded, progress=lambda *step: told.append(step))
    for what in ("running the prompts", "norms of the matrices"):
        steps = [(done, total) for said, done, total in told if said == what]
        assert steps
        assert steps[-1][0] == steps[-1][1]
        assert steps == sorted(steps)
