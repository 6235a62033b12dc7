"""What the dtype judged tells: arithmetic that is right in float64 and coarser than it need be."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.training.check import training
from parity.checks.training.runners import VARIANTS, batches
from parity.checks.training.steps import parse_quantity
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row
from scratch_gpt import GPT
from scratch_gpt.optimizer import Adam, Rates

STEPS, PARTS = 3, 2
Check = Callable[..., Report]
Step = Callable[[Adam, Tensor, Tensor, Tensor, Tensor, Tensor, Rates], None]


@pytest.fixture(scope="module")
def check(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Check:
    """Return the check of our model, or of another, on 72 predictions a step."""

    def run(model: nn.Module | None = None, seed: int = 0, **named: object) -> Report:
        ids = batches(steps=STEPS, parts=PARTS, batch=1, time=37, vocab_size=211, seed=seed)
        return training(model or two_ours, two_theirs, ids, **named)

    return run


def judged(report: Report, quantity: str = "") -> list[Row]:
    """Return the rows of the dtype judged, those of one quantity if it is given."""
    rows = [row for row in report.results if row.mode is Mode.END_TO_END]
    return [row for row in rows if quantity in ("", parse_quantity(row.tap).quantity)]


def failed(report: Report) -> set[tuple[Mode, str, int]]:
    """Return the mode, variant and step of every row that does not pass."""
    wrong = [row for row in report.results if row.status is not Status.PASS]
    return {
        (row.mode, parse_quantity(row.tap).variant, parse_quantity(row.tap).step) for row in wrong
    }


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_makes_nothing_of_rounding(check: Check, variant: str, seed: int) -> None:
    """After steps in float32 weights are off by what float32 cannot hold, on either side.

    Where epsilon is far below the gradients, one element whose gradient is all rounding moves by a
    whole step, and which side has it is luck.
    """
    rows = judged(check(seed=seed, forms=[variant]), "weight")
    errors = [error for row in rows for error in (row.error_ours, row.error_reference)]
    assert len(errors) == 2 * STEPS * 26
    assert all(error is not None and error < torch.finfo(torch.float32).eps for error in errors)


def test_one_lucky_step_of_the_reference_is_no_failure(check: Check) -> None:
    """A small tensor's rounding is held against every step's of its kind, in its variant alone."""
    rows = [row for row in judged(check(), "gradient") if row.tap.endswith("h.0.ln_1.weight")]
    errors = {
        variant: {row.error_reference for row in rows if row.tap.startswith(variant)}
        for variant in VARIANTS
    }
    assert len({row.error_ours for row in rows}) > 1
    assert [len(found) for found in errors.values()] == [1, 1]
    assert errors["openai"] != errors["adamw"]


def stored_in_half(right: Step, *given: Tensor | Adam | Rates) -> None:
    """Store parameters in float16, as a cast that was forgotten does."""
    right(*given)  # type: ignore[arg-type]
    parameter = given[1]
    assert isinstance(parameter, Tensor)
    parameter.copy_(parameter.half())


def moments_in_half(right: Step, *given: Tensor | Adam | Rates) -> None:
    """Keep both moments in bfloat16."""
    right(*given)  # type: ignore[arg-type]
    for moment in given[3:5]:
        assert isinstance(moment, Tensor)
        moment.copy_(moment.bfloat16())


@pytest.mark.parametrize("fault", [stored_in_half, moments_in_half])
def test_what_our_optimizer_rounds_is_ours_alone(
    fault: Callable[..., None], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of it in float32 is in no run that it is held against, and fails in both forms."""
    right = Adam._update_run

    def wrong(adam: Adam, p: Tensor, *given: Tensor | Rates) -> None:
        (right if p.dtype == torch.float64 else lambda *all_: fault(right, *all_))(adam, p, *given)

    monkeypatch.setattr(Adam, "_update_run", wrong)
    places = failed(check())
    assert {mode for mode, _, _ in places} == {Mode.END_TO_END}
    assert {(Mode.END_TO_END, variant, STEPS) for variant in VARIANTS} <= places


class Coarse(nn.Module):
    """A right model whose gradients are rounded to bfloat16, but in float64, after some calls."""

    def __init__(self, model: GPT, after: int = 0) -> None:
        super().__init__()
        self.model, self.calls, self.after = model, 0, after

    def named_parameters(self, *given: object, **named: object) -> object:
        """Give the inner model's, under its names."""
        return self.model.named_parameters(*given, **named)

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        """Round what goes back through the logits."""
        self.calls += 1
        logits: Tensor = self.model(*given, tap=tap)
        narrow = logits.dtype != torch.float64 and self.calls > self.after
        if narrow and logits.requires_grad:
            logits.register_hook(lambda gradient: gradient.bfloat16().to(gradient.dtype))
        return logits


@pytest.mark.parametrize("step", [1, STEPS])
def test_coarse_gradients_are_told_from_the_first_step_that_has_them(
    step: int, check: Check, two_ours: GPT
) -> None:
    """They pass in float64 and fail in float32, in the last step alone too."""
    after = PARTS * (step - 1)
    places = failed(check(Coarse(copy.deepcopy(two_ours), after)))
    wrong = [(variant, number) for variant in VARIANTS for number in range(step, STEPS + 1)]
    assert {(Mode.END_TO_END, variant, number) for variant, number in wrong} == places


@pytest.mark.parametrize("select", ["adamw.2.gradient.h.1.ln_1.*", "*.3.weight.h.0.mlp.*"])
def test_a_verdict_does_not_depend_on_what_else_is_asked(select: str, check: Check) -> None:
    """A row is the same, and held against the same, whatever `--taps` leaves out."""
    rows = {(row.tap, row.mode): row for row in check().results}
    some = check(select=select).results
    assert 0 < len(some) < len(rows)
    assert [rows[row.tap, row.mode] for row in some] == some


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_a_reference_in_both_forms(dtype: str, check: Check) -> None:
    """Hugging Face's weights move in both, and are off by more than float32's."""
    rows = judged(check(dtype=dtype), "weight")
    off = {
        variant: [r.error_reference for r in rows if r.tap.startswith(variant)]
        for variant in VARIANTS
    }
    assert all(error is not None and error > 1e-5 for found in off.values() for error in found)
