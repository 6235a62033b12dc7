"""Each kind of golden, broken: its row fails, with the right numbers and the right words."""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.golden import measure
from parity.checks.golden.rows import MeasuredValue, golden_row
from parity.core.results import Report, Row
from parity.faults.forward import inject
from reference.published import Goldens, Kind, Measure, Symptom, Tolerance, published
from scratch_gpt import GPT

Ask = Callable[..., Report]
Altered = Callable[..., Goldens]


def rows_of(report: Report) -> dict[str, Row]:
    return {row.tap: row for row in report.results}


def failing(report: Report) -> set[str]:
    return {row.tap for row in report.results if row.status.value != "pass"}


def test_a_fault_fails_with_the_models_own_number(ours: GPT, ask: Ask, recorded: Goldens) -> None:
    faulty = inject(ours, "scale-missing", 5)
    asked = next(row for row in recorded.rows if row.key == "last/logit")
    with torch.no_grad():
        given = torch.tensor([asked.inputs["token_ids"]])
        got = float(faulty(given)[0, -1, asked.inputs["id"]])
    row = rows_of(ask("last", model=faulty))["last/logit"]
    assert row.status.value == "fail"
    assert row.details["got"] == pytest.approx(got, rel=1e-5)
    assert row.details["difference"] == abs(row.details["got"] - asked.expected)


@pytest.mark.parametrize("place", [3, 7, 11])
def test_a_wrong_id_is_found_at_its_place(
    place: int, theirs: OpenAIGPTLMHeadModel, ask: Ask, recorded: Goldens, altered: Altered
) -> None:
    right = next(row for row in recorded.rows if row.key == "generate/greedy").expected
    wrong = (right[place] + 1) % 211
    told = [*right[:place], wrong, *right[place + 1 :]]
    report = ask("generate", goldens=altered("generate/greedy", expected=told))
    with torch.no_grad():
        logits: Tensor = theirs(input_ids=torch.tensor([right[:place]])).logits[0, -1]
    row = rows_of(report)["generate/greedy"]
    assert (failing(report), row.details["got"]) == ({"generate/greedy"}, right)
    assert row.details["difference"] == pytest.approx(
        float(logits[right[place]] - logits[wrong]), abs=1e-5
    )
    assert row.detail.startswith(f"first differs at place {place}: {right[place]} for {wrong}")


def test_repetition_is_asked_for(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    row = next(row for row in recorded.rows if row.key == "generate/no-repeat")
    allowed = dict(row.inputs, no_repeat_ngram_size=0)
    report = ask("generate", goldens=altered("generate/no-repeat", inputs=allowed))
    prompt = row.inputs["token_ids"]
    made = row.expected[len(prompt) :]
    assert failing(report) == {"generate/no-repeat"}
    assert len(set(made)) == len(made)
    assert set(made) & set(prompt) == set()


NORMS = [f"norms/{q}-{s}" for q in ("rms", "frobenius_over_sqrt2") for s in ("least", "mean")]


@pytest.mark.parametrize("key", NORMS)
def test_a_norm_off_by_a_ten_thousandth_fails(
    key: str, ask: Ask, recorded: Goldens, altered: Altered
) -> None:
    row = next(row for row in recorded.rows if row.key == key)
    report = ask("norms", goldens=altered(key, expected=row.expected * (1.0 + 1e-4)))
    within = row.expected * (1.0 + row.tolerance.bound / 2)
    near = ask("norms", goldens=altered(key, expected=within))
    assert (report.exit_code, failing(report), failing(near)) == (1, {key}, set())
    assert rows_of(report)[key].details["difference"] == pytest.approx(1e-4, rel=1e-3)


def test_a_larger_matrix_fails_the_norms(ours: GPT, ask: Ask) -> None:
    model = copy.deepcopy(ours)
    with torch.no_grad():
        model.tokens_embed.weight.mul_(1.01)
    assert {"norms/rms-mean", "norms/frobenius_over_sqrt2-mean"} <= failing(
        ask("norms", model=model)
    )


def test_unshifted_targets_are_recognised(
    ask: Ask, recorded: Goldens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unshifted(logits: Tensor, token_ids: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[0], token_ids[0])

    monkeypatch.setattr(measure, "next_token_loss", unshifted)
    report = ask("loss", "last")
    losses = {row.key: row for row in recorded.rows if row.kind is Kind.EXP_LOSS}
    assert set(losses) == failing(report)
    for key, row in losses.items():
        found = rows_of(report)[key]
        assert found.details["got"] == pytest.approx(row.symptoms[0].got, rel=1e-5)
        assert found.detail == "targets that are not shifted"


def test_another_wrong_loss_is_given_no_cause(ask: Ask, altered: Altered) -> None:
    row = rows_of(ask("loss", goldens=altered("loss/1", expected=7.0)))["loss/1"]
    assert (row.status.value, row.detail) == ("fail", "")


def test_a_right_loss_has_no_symptom(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    right = next(row for row in recorded.rows if row.key == "loss/1").expected
    symptom = Symptom(got=right, means="a fault")
    row = rows_of(ask("loss", goldens=altered("loss/1", symptoms=(symptom,))))["loss/1"]
    assert (row.status.value, row.detail) == ("pass", "")


def test_the_median_sees_what_every_row_lets_pass(ask: Ask, recorded: Goldens) -> None:
    """Probabilities that are all 5e-4 off pass alone, and fail together."""
    rows = tuple(
        dataclasses.replace(row, expected=[p * math.exp(5e-4) for p in row.expected])
        if row.kind is Kind.WORD_PROBABILITIES
        else row
        for row in recorded.rows
    )
    report = ask("words", goldens=dataclasses.replace(recorded, rows=rows))
    assert failing(report) == {"words/median"}
    assert rows_of(report)["words/median"].details["got"] == pytest.approx(5e-4, rel=1e-2)


def test_the_worse_of_two_words_decides(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    first, second = next(r for r in recorded.rows if r.key == "words/007").expected
    report = ask("words", goldens=altered("words/007", expected=[first, second * math.exp(0.02)]))
    assert failing(report) == {"words/007"}
    assert rows_of(report)["words/007"].details["difference"] == pytest.approx(0.02, rel=1e-3)


def test_a_difference_without_a_number_fails() -> None:
    nothing = MeasuredValue(got=math.nan, difference=math.nan)
    asked = dataclasses.replace(
        next(r for r in published().rows if r.kind is Kind.LOGIT),
        tolerance=Tolerance(measure=Measure.ABSOLUTE, bound=1e-4),
    )
    row = golden_row(asked, nothing, backend="plain", dtype="float32")
    assert row.status.value == "nonfinite"
