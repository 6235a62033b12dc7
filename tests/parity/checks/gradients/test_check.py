"""Every gradient of the right model against Hugging Face's, and what is no verdict."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checks.gradients.check import gradients
from parity.checks.gradients.taps import gradient_names, kind_of, parameter_names
from parity.core import inputs
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import never_formed
from parity.core.tolerances import FEWEST_PREDICTIONS, SLOPE_BOUND, Bounds
from parity.errors import ExitCode
from parity.faults.backward import grafted
from parity.faults.backward import inject as planted_behind
from scratch_gpt import GPT

LAYERS = 12
SLOPES = 15
"""One direction in all parameters, and one in each of their 14 kinds."""
PLANNED = {"plain": 318 + SLOPES, "tiled": 294 + SLOPES, "fused": 270 + SLOPES}
LONG = 1_200
"""Seconds after which a full-size test hangs: a busy machine takes minutes for some."""

Check = Callable[..., Report]


def checker(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Check:
    def check(batch: int = 1, time: int = 5, given: Inputs | None = None, **more: object) -> Report:
        vocab_size = ours.config.vocab_size
        chosen = given or inputs.seeded(batch=batch, time=time, vocab_size=vocab_size, seed=0)
        return gradients(
            {path: ours.with_backend(path) for path in PLANNED},
            theirs,
            chosen.token_ids,
            positions=chosen.positions,
            attention_mask=chosen.attention_mask,
            **more,  # type: ignore[arg-type]
        )

    return check


@pytest.fixture(scope="module")
def tiny(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Check:
    return checker(ours, theirs)


@pytest.fixture(scope="module")
def report(tiny: Check) -> Report:
    return tiny(batch=2, time=37)


def assert_passes(report: Report, *, left_out: int = 0) -> None:
    assert list(report.reasons) == []
    assert [row for row in report.results if row.status is not Status.PASS] == []
    assert (report.verdict, report.exit_code) == (Verdict.PASS, ExitCode.PASS)
    assert report.plan.per_backend == {
        path: (n - left_out, n - left_out) for path, n in PLANNED.items()
    }


def test_every_gradient_agrees(report: Report) -> None:
    assert_passes(report)


def test_every_planned_gradient_has_its_rows(report: Report) -> None:
    found = [(row.backend, row.tap, row.mode, row.against) for row in report.results]
    expected = [
        (path, place.name, mode, "huggingface")
        for path in PLANNED
        for place in gradient_names(LAYERS)
        if place.name not in never_formed(path, LAYERS)
        for mode in (Mode.FLOAT64, Mode.END_TO_END)
    ]
    slopes = ["direction", *{f"direction.{kind_of(name)}" for name in parameter_names(LAYERS)}]
    expected += [(path, name, Mode.FLOAT64, "oracle") for path in PLANNED for name in slopes]
    assert len(found) == len(set(found))
    assert set(expected) == set(found)


def test_identity_is_not_agreement_to_the_bit(report: Report) -> None:
    """The two sides compute in different orders, so most errors are not 0."""
    errors = [row.error_ours or 0.0 for row in report.results if row.against == "huggingface"]
    assert sum(error > 0.0 for error in errors) > len(errors) // 2


def test_slopes_are_measured(report: Report) -> None:
    rows = [row for row in report.results if row.against == "oracle"]
    assert {SLOPE_BOUND} == {row.bound for row in rows}
    assert all(row.value_ours != row.value_against for row in rows)
    assert all(0.0 < (row.error_ours or 0.0) <= row.bound for row in rows)


def test_what_is_not_compared_says_why(report: Report) -> None:
    left_out = [(entry["backend"], entry["tap"]) for entry in report.plan.exempt]
    assert {("plain", "loss"), ("tiled", "loss"), ("fused", "h.3.mlp")} <= set(left_out)
    assert len(left_out) == 3 + 24 + 48
    assert all(entry["reason"] for entry in report.plan.exempt)


SHAPES = {
    "batch 2, time 5": inputs.seeded(batch=2, time=5, vocab_size=211, seed=0),
    "time 3": inputs.seeded(batch=1, time=3, vocab_size=211, seed=0),
    "padding on the right": inputs.from_rows([[5, 0, 210, 7, 7], [3, 9], [8]]),
    "padding on the left": Inputs(
        token_ids=torch.tensor([[0, 0, 5, 9, 5], [3, 8, 1, 2, 210]]),
        positions=torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]),
        attention_mask=torch.tensor([[False, False, True, True, True], [True] * 5]),
    ),
    "positions given": Inputs(
        token_ids=torch.tensor([[5, 9, 5, 210]]), positions=torch.tensor([[7, 3, 3, 0]])
    ),
}


@pytest.mark.parametrize("given", SHAPES.values(), ids=SHAPES)
def test_every_shape_passes(tiny: Check, given: Inputs) -> None:
    assert_passes(tiny(given=given, dtype="float64"))


def test_two_tokens_leave_nothing_to_attend_to(tiny: Check) -> None:
    """A gradient that is 0 by construction is exempt."""
    report = tiny(batch=2, time=2, dtype="float64")
    nought = [entry["tap"] for entry in report.plan.exempt if "itself" in entry["reason"]]
    assert {"attn.query", "attn.key", "attn.scores"} == {kind_of(tap) for tap in nought}
    assert report.exit_code == ExitCode.PASS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_in_half_precision_is_judged(tiny: Check, dtype: str) -> None:
    """Whether right code passes is tested at the released size; this model is too small for it."""
    report = tiny(batch=2, time=64, dtype=dtype, select="[!d]*")
    rows = [row for row in report.results if row.mode is Mode.END_TO_END]
    assert {dtype} == {row.dtype for row in rows}
    assert {Status.PASS, Status.FAIL} >= {row.status for row in rows}
    assert all(row.ratio is not None for row in rows)
    assert all((row.error_ours or 0.0) > Bounds().float64 for row in rows)


def test_few_tokens_are_no_measure_of_rounding(tiny: Check) -> None:
    few, enough = (tiny(time=FEWEST_PREDICTIONS + more, select="logits") for more in (0, 1))
    assert {Mode.FLOAT64} == {row.mode for row in few.results}
    assert str(FEWEST_PREDICTIONS) in few.inputs["rounding"]
    assert {Mode.FLOAT64, Mode.END_TO_END} == {row.mode for row in enough.results}
    assert "rounding" not in enough.inputs


class Coarse(nn.Module):
    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def named_parameters(self, *given: object, **named: object) -> object:  # type: ignore[override]
        return self.model.named_parameters(*given, **named)  # type: ignore[arg-type]

    def forward(self, *given: Tensor, tap: Callable[[str, Tensor], Tensor]) -> Tensor:
        def rounding(name: str, value: Tensor) -> Tensor:
            if name == "h.6.ln_1" and value.dtype != torch.float64 and value.requires_grad:
                value.register_hook(lambda gradient: gradient.bfloat16().to(gradient.dtype))
            return tap(name, value)

        return self.model(*given, tap=rounding)  # type: ignore[no-any-return]


def test_coarse_rounding_is_told_from_float32s(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    ids = inputs.seeded(batch=2, time=37, vocab_size=211, seed=0).token_ids
    report = gradients(Coarse(copy.deepcopy(ours)), theirs, ids, select="[!d]*")
    failed = [row for row in report.results if row.status is not Status.PASS]
    assert {Mode.END_TO_END} == {row.mode for row in failed}
    assert report.first_divergence is not None
    assert report.first_divergence.tap.startswith("h.6.ln_1")
    assert "times Hugging Face's own" in report.first_divergence.why


def test_only_the_oracle_sees_what_both_sides_get_wrong(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """With one fault on both sides all gradients agree, and the slope of the loss differs."""
    shared = copy.deepcopy(theirs)
    projection = shared.transformer.h[4].mlp.c_proj
    projection.register_forward_hook(lambda _self, _given, out: grafted(out, 2.0 * out))
    ids = inputs.seeded(batch=2, time=5, vocab_size=211, seed=0).token_ids
    report = gradients(planted_behind(ours, "doubled", 4), shared, ids, dtype="float64")
    wrong = [row for row in report.results if row.status is not Status.PASS]
    assert report.first_divergence is not None
    assert {"oracle"} == {row.against for row in wrong}
    assert report.first_divergence.tap.startswith("direction")
    assert "slope" in report.first_divergence.why
    assert report.exit_code == ExitCode.FAIL


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_size_gradients_agree(dtype: str) -> None:
    weights = load_weights("surrogate")
    report = checker(build_ours(weights), build_huggingface(weights))(time=37, dtype=dtype)
    assert_passes(report, left_out=SLOPES - 1)
