"""Training steps of right models agree, every place is compared, and what is no verdict."""

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checks.training.check import training
from parity.checks.training.runners import VARIANTS, Named, Recipe, TrainingStep, batches
from parity.checks.training.steps import ORDER, parse_quantity
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode
from parity.faults.backward import inject as planted_behind
from scratch_gpt import GPT
from scratch_gpt.optimizer import Adam

LONG = 3_000
"""Seconds after which the full-size test hangs: a busy machine takes long for it."""
PLANNED = 2 * 2 * (2 * 26 + 5) + 2
"""Two forms of two steps: 26 gradients and weights, five numbers, and one tie at the end."""

Check = Callable[..., Report]


@pytest.fixture(scope="module")
def check(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Check:
    """Return the check of one path or several on ids drawn from a seed."""

    def run(paths: Mapping[str, GPT] | None = None, **named: object) -> Report:
        ids = batches(steps=2, parts=2, batch=1, time=5, vocab_size=211, seed=0)
        return training(paths or two_ours, two_theirs, ids, **named)

    return run


def assert_passes(report: Report, planned: int) -> None:
    """Assert a pass in which everything planned was compared."""
    assert list(report.reasons) == []
    assert [row for row in report.results if row.status is not Status.PASS] == []
    assert (report.verdict, report.exit_code) == (Verdict.PASS, ExitCode.PASS)
    assert (planned, planned) == (report.plan.planned, report.plan.compared)


def test_right_paths_pass(check: Check, two_ours: GPT) -> None:
    """Plain and tiled, both forms, in float64 and float32."""
    paths = {path: two_ours.with_backend(path) for path in ("plain", "tiled")}
    report = check(paths)
    assert_passes(report, 2 * PLANNED)
    modes = [row.mode for row in report.results]
    assert (
        modes.count(Mode.FLOAT64),
        modes.count(Mode.END_TO_END),
    ) == (2 * PLANNED, 2 * 2 * 2 * 2 * 26)


def test_dropout_passes_and_drops(check: Check) -> None:
    """With dropout every step agrees too, is compared place by place, and is another run."""
    dropping, still = (check(dropout=on, dtype="float64") for on in (True, False))
    assert_passes(dropping, PLANNED + 2 * 2)
    first = [
        next(row.value_against for row in report.results if row.tap == "openai.1.loss")
        for report in (dropping, still)
    ]
    sites = [
        row.value_ours for row in dropping.results if parse_quantity(row.tap).quantity == "dropout"
    ]
    assert first[0] != first[1]
    assert sites == [1 + 3 * 2] * 4


def test_no_key_occurs_twice_and_every_quantity_is_there(check: Check) -> None:
    """Rows stand in the order of a step, of every variant, step and quantity."""
    report = check(dtype="float64")
    places = [parse_quantity(row.tap) for row in report.results]
    assert len(places) == len(set(places))
    seen = list(dict.fromkeys((p.variant, p.step, p.quantity) for p in places))
    expected = [
        (variant, step, quantity)
        for variant in VARIANTS
        for step in (1, 2)
        for quantity in ORDER
        if quantity != "dropout" and (quantity != "tied" or step == 2)
    ]
    assert expected == seen


def test_the_steps_are_steps(check: Check) -> None:
    """All but the release's first rate are above 0, and weights differ from step to step."""
    rows = {row.tap: row for row in check(dtype="float64").results}
    rates = [rows[f"{variant}.{step}.rate"].value_ours for variant in VARIANTS for step in (1, 2)]
    assert rates[0] == 0.0
    assert all(rate and rate > 0.0 for rate in rates[1:])
    losses = [rows[f"adamw.{step}.loss"].value_ours for step in (1, 2)]
    assert losses[0] != losses[1]


def test_the_models_given_are_not_changed(
    two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel, check: Check
) -> None:
    """Both sides train copies, in float32 as in float64."""
    before = [copy.deepcopy(model.state_dict()) for model in (two_ours, two_theirs)]
    check()
    for model, state in zip((two_ours, two_theirs), before, strict=True):
        assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
        assert not model.training
        assert all(p.grad is None for p in model.parameters())


def test_a_backward_fault_is_seen_in_the_first_gradient(check: Check, two_ours: GPT) -> None:
    """A head cut off from the tied embedding: the embedding's gradient alone, and the reason."""
    report = check(planted_behind(two_ours, "head-detached", 0), dtype="float64")
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "openai.1.gradient.tokens_embed.weight"
    assert "one of its two paths" in report.first_divergence.suspects


class Forgetful(Adam):
    """Has no second moment of vectors."""

    def state_dict(self) -> dict[str, Tensor | int]:
        """Leave them out."""
        kept = super().state_dict()
        vectors = [name for name, p in self.parameters.items() if p.ndim == 1]
        return {k: v for k, v in kept.items() if k not in {f"second_moment.{n}" for n in vectors}}


class Forgetting(TrainingStep):
    """Trains with that."""

    def optimizer(self, named: Named, recipe: Recipe) -> Adam:
        """Return it."""
        return Forgetful(named, variant=recipe.variant, betas=recipe.betas, epsilon=recipe.epsilon)


def test_a_moment_that_is_missing_is_told(check: Check) -> None:
    """It is no smaller than what is there: it was not compared."""
    report = check(procedure=Forgetting(), dtype="float64", forms=["adamw"])
    row = next(row for row in report.results if row.tap == "adamw.1.second_moment")
    assert row.status is Status.MISSING
    assert row.detail.endswith("has none")


class Failing(nn.Module):
    """A model that raises at its second call."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def named_parameters(self, *given: object, **named: object) -> object:
        """Give the inner model's, under its names."""
        return self.model.named_parameters(*given, **named)

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        """Raise at last."""
        self.calls += 1
        if self.calls > 1:
            message = "no more"
            raise RuntimeError(message)
        return self.model(*given, tap=tap)


def test_a_run_that_raises_is_no_pass(check: Check, two_ours: GPT) -> None:
    """What was not compared is not run, and the reason names the run."""
    report = check(Failing(copy.deepcopy(two_ours)), dtype="float64", forms=["adamw"])
    assert report.exit_code in (ExitCode.FAIL, ExitCode.INCONCLUSIVE)
    assert "raised RuntimeError: no more" in report.reasons[0].what
    assert Status.NOT_RUN in {row.status for row in report.results}


class Nameless(nn.Module):
    """A right model whose parameters stand under other names."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.inner = model

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        """Return the inner model's logits."""
        return self.inner(*given, tap=tap)


def test_parameters_of_other_names_are_no_pass(check: Check, two_ours: GPT) -> None:
    """Nothing of them was compared: no verdict, and the reason says so."""
    report = check(Nameless(copy.deepcopy(two_ours)), dtype="float64", forms=["adamw"])
    assert report.verdict is not Verdict.PASS
    assert any("were not compared" in reason.what for reason in report.reasons)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_full_size_steps_agree() -> None:
    """At the released size, a batch of 2 x 64 in two parts, float64 and float32."""
    weights = load_weights("surrogate")
    ours, theirs = build_ours(weights), build_huggingface(weights)
    vocab_size = weights.config["vocab_size"]
    del weights
    ids = batches(steps=2, parts=2, batch=1, time=64, vocab_size=vocab_size, seed=0)
    assert_passes(training(ours, theirs, ids), 2 * (2 * (2 * 146 + 5) + 1))
