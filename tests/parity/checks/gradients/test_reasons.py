"""What a candidate may do wrong beside its numbers, and what becomes of the verdict."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.check import gradients
from parity.core import inputs
from parity.core.metrics import Status
from parity.core.results import Report
from parity.errors import ExitCode
from scratch_gpt import GPT

Taps = Callable[[str, Tensor], Tensor]
IDS = inputs.seeded(batch=2, time=5, vocab_size=211, seed=0).token_ids


class Altered(GPT):
    def __init__(self, model: GPT, at_tap: Callable[[Taps, str, Tensor], Tensor]) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.at_tap = at_tap

    def forward(self, *given: Tensor, tap: Taps) -> Tensor:  # type: ignore[override]
        at_tap = self.at_tap
        return super().forward(*given, tap=lambda name, value: at_tap(tap, name, value))


def shown_twice(tap: Taps, name: str, value: Tensor) -> Tensor:
    return tap(name, tap(name, value) if name == "h.3.ln_1" else value)


def shown_too_much(tap: Taps, name: str, value: Tensor) -> Tensor:
    return tap(name, tap("h.3.ln_1.mean", value) if name == "h.3.ln_1" else value)


def detached(tap: Taps, name: str, value: Tensor) -> Tensor:
    if name != "h.3.ln_1":
        return tap(name, value)
    tap(name, value.detach())
    return value


def unused(tap: Taps, name: str, value: Tensor) -> Tensor:
    tap(name, value * 1.0 if name == "h.3.ln_1" else value)
    return value


def not_a_number(tap: Taps, name: str, value: Tensor) -> Tensor:
    if name == "h.3.ln_1":
        value = value * 1.0

        def spoiled(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[0, 2, 4] = torch.nan
            return gradient

        value.register_hook(spoiled)
    return tap(name, value)


def judged(model: nn.Module, theirs: OpenAIGPTLMHeadModel) -> Report:
    return gradients(model, theirs, IDS, dtype="float64", select="[!d]*")


@pytest.mark.parametrize(
    ("at_tap", "tap", "status"),
    [
        (shown_twice, "h.3.ln_1", Status.EXTRA),
        (shown_too_much, "h.3.ln_1.mean", Status.EXTRA),
        (detached, "h.3.ln_1", Status.MISSING),
        (unused, "h.3.ln_1", Status.MISSING),
        (not_a_number, "h.3.ln_1", Status.NONFINITE),
    ],
)
def test_what_happens_at_a_tap_is_found_there(
    at_tap: Callable[[Taps, str, Tensor], Tensor],
    tap: str,
    status: Status,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
) -> None:
    report = judged(Altered(ours, at_tap).eval(), theirs)
    wrong = {row.tap: row.status for row in report.results if row.status is not Status.PASS}
    assert report.exit_code == ExitCode.FAIL
    assert status is wrong[tap]


def test_an_altered_model_that_alters_nothing_passes(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    report = judged(Altered(ours, lambda tap, name, value: tap(name, value)).eval(), theirs)
    assert report.exit_code == ExitCode.PASS


def test_no_gradient_that_is_not_a_number_passes_in_a_slope(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    model = Altered(ours, not_a_number).eval()
    report = gradients(model, theirs, IDS, dtype="float64", select="direction")
    assert [(row.tap, row.status) for row in report.results] == [("direction", Status.NOT_RUN)]
    assert report.exit_code == ExitCode.INCONCLUSIVE


def test_sides_that_share_storage_are_no_verdict(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    model = copy.deepcopy(ours)
    model.tokens_embed.weight = theirs.transformer.tokens_embed.weight
    report = judged(model, theirs)
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert "share storage" in report.reasons[0].what


def test_dropout_is_off_and_training_goes_on_afterwards(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    model = copy.deepcopy(ours).train()
    collected = torch.ones_like(model.h[0].ln_1.weight)
    model.h[0].ln_1.weight.grad = collected
    report = judged(model, theirs)
    assert report.exit_code == ExitCode.PASS
    assert all(part.training for part in model.modules())
    assert model.h[0].ln_1.weight.grad is collected
    assert model.h[0].ln_2.weight.grad is None


def test_rows_that_are_alike_are_a_dead_model(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    ids = torch.full((2, 5), 7)
    same = torch.zeros(2, 5, dtype=torch.long)
    report = gradients(ours, theirs, ids, positions=same, dtype="float64", select="[!d]*")
    assert report.exit_code != ExitCode.PASS
    assert any("dead" in reason.what for reason in report.reasons)


def test_progress_reaches_its_end(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    steps: list[tuple[str, int, int]] = []
    ids = inputs.seeded(batch=1, time=40, vocab_size=211, seed=0).token_ids
    gradients(ours, theirs, ids, select="[!d]*", progress=lambda *step: steps.append(step))
    passes = [step for step in steps if "oracle" not in step[0]]
    assert passes[-1][1:] == (4 * 318, 4 * 318)
    assert [done for _, done, _ in passes] == list(range(1, 4 * 318 + 1))


def test_a_candidate_need_not_have_seen_autograd(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    model = copy.deepcopy(ours).requires_grad_(False)
    assert judged(model, theirs).exit_code == ExitCode.PASS
    assert not any(parameter.requires_grad for parameter in model.parameters())
