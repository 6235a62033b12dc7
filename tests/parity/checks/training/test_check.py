"""The training check: right models, incomplete candidates, rounding, fingerprints, options."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checks.generation.requests import shortened
from parity.checks.gradients.faults import inject as inject_backward
from parity.checks.gradients.taps import parameter_names
from parity.checks.training.check import section, training
from parity.checks.training.faults import TRAINING_FAULTS, injected
from parity.checks.training.runners import Recipe, ReferenceRun, batches, tied
from parity.checks.training.small_runs import randomize, small_huggingface
from parity.checks.training.taps import (
    COURSES,
    ORDER,
    TRAINER,
    VARIANTS,
    parse_quantity,
    trainer_quantities,
)
from parity.core.fingerprints import Fingerprint
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.optimizer import Adam, Rates

LONG = 3_000
"""Timeout of the full-size test, in seconds, on a busy machine."""

PLANNED = 2 * 2 * (2 * 26 + 6) + 2
"""Two variants of two steps: 26 gradients and weights, six others, and one tie at the end."""

Train = Callable[..., Report]


@pytest.fixture(scope="module")
def train(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Train:
    def run(paths: Mapping[str, GPT] | None = None, **named: object) -> Report:
        ids = batches(steps=2, parts=2, batch=1, time=5, vocab_size=211, seed=0)
        named.setdefault("trainer", False)
        return training(paths or two_ours, two_theirs, ids, **named)

    return run


def assert_passes(report: Report, planned: int) -> None:
    assert list(report.reasons) == []
    assert [row for row in report.results if row.status is not Status.PASS] == []
    assert (report.verdict, report.exit_code) == (Verdict.PASS, ExitCode.PASS)
    assert (planned, planned) == (report.plan.planned, report.plan.compared)


def test_right_paths_pass(train: Train, two_ours: GPT) -> None:
    paths = {path: two_ours.with_backend(path) for path in ("plain", "tiled")}
    report = train(paths)
    assert_passes(report, 2 * PLANNED)
    modes = [row.mode for row in report.results]
    assert modes.count(Mode.FLOAT64) == 2 * PLANNED
    assert modes.count(Mode.END_TO_END) == 2 * 2 * 2 * 2 * 26


@pytest.mark.parametrize("path", ["plain", "tiled", "fused"])
def test_dropout_passes_and_drops(path: str, train: Train, two_ours: GPT) -> None:
    model = {path: two_ours.with_backend(path)}
    dropping, still = (train(model, dropout=on, dtype="float64") for on in (True, False))
    assert_passes(dropping, PLANNED + 2 * 2 * 2)
    first = [
        next(row.value_against for row in report.results if row.tap == "openai.1.loss")
        for report in (dropping, still)
    ]
    sites = [
        row.value_ours for row in dropping.results if parse_quantity(row.tap).quantity == "dropout"
    ]
    assert first[0] != first[1]
    assert sites == [1 + 3 * 2] * 4


def test_no_key_occurs_twice_and_every_quantity_is_there(train: Train) -> None:
    report = train(dtype="float64")
    places = [parse_quantity(row.tap) for row in report.results]
    assert len(places) == len(set(places))
    seen = list(dict.fromkeys((p.variant, p.step, p.quantity) for p in places))
    assert seen == [
        (variant, step, quantity)
        for variant in VARIANTS
        for step in (1, 2)
        for quantity in ORDER
        if quantity not in ("seeds", "dropout", "dtype", "validation")
        and (quantity != "tied" or step == 2)
    ]


def test_the_steps_are_steps(train: Train) -> None:
    rows = {row.tap: row for row in train(dtype="float64").results}
    rates = [rows[f"{variant}.{step}.rate"].value_ours for variant in VARIANTS for step in (1, 2)]
    assert rates[0::2] == [0.0, 0.0]
    assert all(rate and rate > 0.0 for rate in rates[1::2])
    losses = [rows[f"adamw.{step}.loss"].value_ours for step in (1, 2)]
    assert losses[0] != losses[1]


def test_the_models_given_are_not_changed(
    two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel, train: Train
) -> None:
    before = [copy.deepcopy(model.state_dict()) for model in (two_ours, two_theirs)]
    train()
    for model, state in zip((two_ours, two_theirs), before, strict=True):
        assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
        assert not model.training
        assert all(p.grad is None for p in model.parameters())


def test_a_backward_fault_is_seen_in_the_first_gradient(train: Train, two_ours: GPT) -> None:
    report = train(inject_backward(two_ours, "head-detached", 0), dtype="float64")
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "openai.1.gradient.tokens_embed.weight"
    assert "one of its two paths" in report.first_divergence.suspects


def test_a_missing_moment_is_reported(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Adam.state_dict

    def forgetful(adam: Adam) -> dict[str, Tensor | int]:
        vectors = [name for name, p in adam.parameters.items() if p.ndim == 1]
        dropped = {f"second_moment.{name}" for name in vectors}
        return {name: value for name, value in right(adam).items() if name not in dropped}

    monkeypatch.setattr(Adam, "state_dict", forgetful)
    report = train(dtype="float64", forms=["adamw"])
    row = next(row for row in report.results if row.tap == "adamw.1.second_moment")
    assert row.status is Status.MISSING
    assert row.detail.endswith("has none")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_error_of_our_trainer_is_a_row_of_its_step(
    dtype: torch.dtype, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Adam.step

    def failing(adam: Adam, rate: float) -> None:
        if adam.steps == 1 and next(iter(adam.parameters.values())).dtype == dtype:
            message = "no more"
            raise RuntimeError(message)
        right(adam, rate)

    monkeypatch.setattr(Adam, "step", failing)
    report = train(forms=["adamw"])
    row = next(row for row in report.results if row.status is Status.FAIL)
    assert (report.exit_code, row.tap) == (ExitCode.FAIL, "adamw.2.loss")
    assert row.dtype == str(dtype).removeprefix("torch.")
    assert row.detail == "step 2 raised RuntimeError: no more"


def test_an_error_of_a_small_run_is_a_row(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        message = "no more"
        raise OSError(message)

    monkeypatch.setattr("parity.checks.training.small_runs.write_checkpoint", failing)
    report = train(dtype="float64", trainer=True, select="resume-float32.*")
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "resume-float32.3.ids"
    assert "raised OSError: no more" in report.first_divergence.why
    assert report.exit_code == ExitCode.FAIL


def test_the_small_runs_pass_and_are_all_there(train: Train) -> None:
    report = train(dtype="float64", trainer=True, forms=["adamw"], select="[!a]*")
    assert_passes(report, len(list(trainer_quantities())))
    assert {row.backend for row in report.results} == {TRAINER}
    norms = [row for row in report.results if row.tap.startswith("course") and ".norm" in row.tap]
    assert len(norms) == sum(COURSES.values())


# The head is what the table is tied to, whatever other tensors have its shape.


class Headed(nn.Module):
    """Our model with a head of its own, tied to the token embedding or not."""

    def __init__(self, model: GPT, *, tied: bool) -> None:
        super().__init__()
        self.tokens_embed, self.positions_embed, self.h = (
            *(model.tokens_embed, model.positions_embed),
            model.h,
        )
        self.inner = [model]
        table = self.tokens_embed.weight
        self.lm_head = nn.Parameter(table if tied else table.detach().clone())

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        hidden: Tensor = self.inner[0].hidden(*given, tap=tap)
        return hidden @ self.lm_head.T


def square_models() -> tuple[GPT, OpenAIGPTLMHeadModel]:
    """Models with as many positions as tokens as features."""
    sizes = {"vocab_size": 12, "n_positions": 12, "n_embd": 12, "n_layer": 1, "n_head": 2}
    model = GPT(GPTConfig(**sizes))
    randomize(model)
    return model.eval(), small_huggingface(model)


def test_a_model_of_one_size_throughout_is_tied() -> None:
    ours, theirs = square_models()
    ids = batches(steps=2, parts=2, batch=1, time=9, vocab_size=12, seed=0)
    report = training(ours, theirs, ids, dtype="float64", trainer=False)
    assert_passes(report, 2 * (2 * (2 * 14 + 6) + 1))


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_head_of_its_own_is_seen(is_tied: bool) -> None:  # noqa: FBT001
    ours, _ = square_models()
    model = Headed(ours, tied=is_tied)
    known = parameter_names(1)
    assert tied(model, ours.tokens_embed.weight, known) is is_tied
    table = nn.Parameter(ours.positions_embed.weight.detach().clone())
    assert not tied(model, table, known)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_references_head_is_seen(is_tied: bool) -> None:  # noqa: FBT001
    _, theirs = square_models()
    if not is_tied:
        theirs.lm_head.weight = nn.Parameter(theirs.lm_head.weight.detach().clone())
    recipe = Recipe(variant="adamw", batches=(torch.zeros(2, 3),))
    assert ReferenceRun(theirs, recipe, torch.float64).tied is is_tied


class Wrapped(nn.Module):
    """A model with the inner model's parameter names, which counts its calls."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def named_parameters(self, *given: object, **named: object) -> object:
        return self.model.named_parameters(*given, **named)


class Failing(Wrapped):
    """A model that raises in its second micro-batch; before training it is only looked at."""

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        self.calls += torch.is_grad_enabled()
        if self.calls > 1:
            message = "no more"
            raise RuntimeError(message)
        return self.model(*given, tap=tap)


def test_a_run_that_raises_is_no_pass(train: Train, two_ours: GPT) -> None:
    report = train(Failing(copy.deepcopy(two_ours)), dtype="float64", forms=["adamw"])
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert "raised RuntimeError: no more" in report.reasons[0].what
    assert "test_check.py:" in report.reasons[0].where


class Nameless(nn.Module):
    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.inner = model

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        return self.inner(*given, tap=tap)


def test_parameters_of_other_names_are_no_pass(train: Train, two_ours: GPT) -> None:
    report = train(Nameless(copy.deepcopy(two_ours)), dtype="float64", forms=["adamw"])
    assert report.verdict is not Verdict.PASS
    assert any("were not compared" in reason.what for reason in report.reasons)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_full_size_steps_agree() -> None:
    weights = load_weights("surrogate")
    ours, theirs = build_ours(weights), build_huggingface(weights)
    vocab_size = weights.config["vocab_size"]
    del weights
    ids = batches(steps=2, parts=2, batch=1, time=64, vocab_size=vocab_size, seed=0)
    assert_passes(training(ours, theirs, ids, trainer=False), 2 * (2 * (2 * 146 + 6) + 1))


# Rounding, on 72 predictions for each of three steps.


STEPS, PARTS = 3, 2
Step = Callable[[Adam, Tensor, Tensor, Tensor, Tensor, Tensor, Rates], None]


@pytest.fixture(scope="module")
def train_longer(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Train:
    def run(model: nn.Module | None = None, seed: int = 0, **named: object) -> Report:
        ids = batches(steps=STEPS, parts=PARTS, batch=1, time=37, vocab_size=211, seed=seed)
        return training(model or two_ours, two_theirs, ids, trainer=False, **named)

    return run


def checked_rows(report: Report, quantity: str = "") -> list[Row]:
    rows = [row for row in report.results if row.mode is Mode.END_TO_END]
    return [row for row in rows if quantity in ("", parse_quantity(row.tap).quantity)]


def failing_steps(report: Report) -> set[tuple[Mode, str, int]]:
    wrong = [row for row in report.results if row.status is not Status.PASS]
    return {
        (row.mode, parse_quantity(row.tap).variant, parse_quantity(row.tap).step) for row in wrong
    }


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_makes_nothing_of_rounding(train_longer: Train, variant: str, seed: int) -> None:
    """With an epsilon far below the gradients, an element whose gradient is only rounding moves by
    a whole step, and on which side is chance.
    """
    rows = checked_rows(train_longer(seed=seed, forms=[variant]), "weight")
    errors = [error for row in rows for error in (row.error_ours, row.error_reference)]
    assert len(errors) == 2 * STEPS * 26
    assert all(error is not None and error < torch.finfo(torch.float32).eps for error in errors)


def test_one_lucky_step_of_the_reference_is_no_failure(train_longer: Train) -> None:
    """A small tensor's rounding is compared with that of every step of its kind, in its variant."""
    rows = checked_rows(train_longer(), "gradient")
    errors = {
        variant: {
            (name := parse_quantity(row.tap).parameter): {
                other.error_reference
                for other in rows
                if other.tap.startswith(variant) and other.tap.endswith(name)
            }
            for row in rows
        }
        for variant in VARIANTS
    }
    own = {row.error_ours for row in rows if row.tap.endswith("h.0.ln_1.weight")}
    assert len(own) > 1
    assert all(len(found) == 1 for of in errors.values() for found in of.values())
    assert errors["openai"] != errors["adamw"]


def stored_in_half(right: Step, *given: Tensor | Adam | Rates) -> None:
    right(*given)  # type: ignore[arg-type]
    parameter = given[1]
    assert isinstance(parameter, Tensor)
    parameter.copy_(parameter.half())


def moments_in_half(right: Step, *given: Tensor | Adam | Rates) -> None:
    right(*given)  # type: ignore[arg-type]
    for moment in given[3:5]:
        assert isinstance(moment, Tensor)
        moment.copy_(moment.bfloat16())


@pytest.mark.parametrize("fault", [stored_in_half, moments_in_half])
def test_what_our_optimizer_rounds_is_ours_alone(
    fault: Callable[..., None], train_longer: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Adam._update_run

    def wrong(adam: Adam, p: Tensor, *given: Tensor | Rates) -> None:
        (right if p.dtype == torch.float64 else lambda *all_: fault(right, *all_))(adam, p, *given)

    monkeypatch.setattr(Adam, "_update_run", wrong)
    places = failing_steps(train_longer())
    assert {mode for mode, _, _ in places} == {Mode.END_TO_END}
    assert {(Mode.END_TO_END, variant, STEPS) for variant in VARIANTS} <= places


class Coarse(Wrapped):
    """Rounds its gradients to bfloat16, except in float64 and in its first `after` calls."""

    def __init__(self, model: GPT, after: int) -> None:
        super().__init__(model)
        self.after = after

    def forward(self, *given: Tensor, tap: object) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(*given, tap=tap)
        narrow = logits.dtype != torch.float64 and self.calls > self.after
        if narrow and logits.requires_grad:
            logits.register_hook(lambda gradient: gradient.bfloat16().to(gradient.dtype))
        return logits


@pytest.mark.parametrize("step", [1, STEPS])
def test_coarse_gradients_fail_from_the_first_step_that_has_them(
    step: int, train_longer: Train, two_ours: GPT
) -> None:
    after = PARTS * (step - 1)
    places = failing_steps(train_longer(Coarse(copy.deepcopy(two_ours), after)))
    wrong = [(variant, number) for variant in VARIANTS for number in range(step, STEPS + 1)]
    assert {(Mode.END_TO_END, variant, number) for variant, number in wrong} == places


@pytest.mark.parametrize("select", ["adamw.2.gradient.h.1.ln_1.*", "*.3.weight.h.0.mlp.*"])
def test_a_row_does_not_depend_on_the_selection(select: str, train_longer: Train) -> None:
    rows = {(row.tap, row.mode): row for row in train_longer().results}
    some = train_longer(select=select).results
    assert 0 < len(some) < len(rows)
    assert [rows[row.tap, row.mode] for row in some] == some


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_a_reference_error_in_both_variants(
    dtype: str, train_longer: Train
) -> None:
    rows = checked_rows(train_longer(dtype=dtype), "weight")
    off = {
        variant: [r.error_reference for r in rows if r.tap.startswith(variant)]
        for variant in VARIANTS
    }
    assert all(off.values())
    assert all(error is not None and error > 1e-5 for found in off.values() for error in found)


# Fingerprints.


Key = tuple[str, str, str]
FingerprintsOf = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]
PARAMETERS = 26
"""Of two blocks and the embeddings."""


@pytest.fixture(scope="module")
def train_adamw(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Train:
    paths = {path: two_ours.with_backend(path) for path in ("plain", "tiled")}
    ids = batches(steps=2, parts=2, batch=1, time=5, vocab_size=211, seed=0)
    return lambda **named: training(paths, two_theirs, ids, forms=["adamw"], trainer=False, **named)


@pytest.fixture(scope="module")
def right(train_adamw: Train) -> Report:
    return train_adamw(fingerprints=True)


def test_every_gradient_and_weight_has_one(right: Report, fingerprints_of: FingerprintsOf) -> None:
    runs = [
        (side, dtype, mode)
        for side in ("ours/plain", "ours/tiled", "huggingface")
        for dtype, mode in (("float64", "float64"), ("float32", "end-to-end"))
    ]
    found = fingerprints_of(right)
    assert set(runs) == set(found)
    for places in map(list, found.values()):
        steps = [(parse_quantity(place).step, parse_quantity(place).quantity) for place in places]
        kinds = [(step, quantity) for step in (1, 2) for quantity in ("gradient", "weight")]
        assert [kind for kind in kinds for _ in range(PARAMETERS)] == steps
        assert len(set(places)) == 4 * PARAMETERS


def test_all_runs_have_one_order(right: Report, fingerprints_of: FingerprintsOf) -> None:
    (order,) = {tuple(found) for found in fingerprints_of(right).values()}
    gradients = [parse_quantity(place).parameter for place in order[:PARAMETERS]]
    assert (gradients[0], gradients[-1]) == ("h.1.ln_2.bias", "positions_embed.weight")
    blocks = [name.split(".")[1] for name in gradients if name.startswith("h.")]
    assert blocks == ["1"] * 12 + ["0"] * 12


def test_fingerprints_change_no_row(right: Report, train_adamw: Train) -> None:
    without = train_adamw()
    assert (repr(right.results), right.verdict) == (repr(without.results), without.verdict)
    assert list(without.fingerprints) == []


def test_a_step_moves_every_weight(right: Report, fingerprints_of: FingerprintsOf) -> None:
    for found in fingerprints_of(right).values():
        places = [place for place in found if place.startswith("adamw.1.weight")]
        assert len(places) == PARAMETERS
        for place in places:
            assert found[place].digest != found[place.replace("adamw.1", "adamw.2")].digest


def test_a_fault_in_the_step_moves_no_gradient_before_it(
    right: Report, train_adamw: Train, fingerprints_of: FingerprintsOf
) -> None:
    with injected("decay-in-gradient"):
        wrong = fingerprints_of(train_adamw(fingerprints=True))
    for key, found in fingerprints_of(right).items():
        changed = [place for place, entry in found.items() if entry != wrong[key][place]]
        moved = {(parse_quantity(place).step, parse_quantity(place).quantity) for place in changed}
        theirs = key[0] == "huggingface"
        assert moved == (set() if theirs else {(2, "weight")})  # the first step's rate is 0


# The command line.


Check = Callable[..., Any]
TINY = ("training", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
SHORT = (*TINY, "--steps", "2", "--seq-len", "3", "--taps", "[oa][pd][ea]*")


def test_the_first_failure_of_a_run_is_wrong_and_what_is_computed_from_it_follows() -> None:
    marks = {
        "openai.1.loss": "ok",
        "openai.1.gradient.h.0.ln_1.weight": "WRONG from step 1",
        "openai.1.rate": "WRONG from step 1",
        "openai.2.weight.h.0.ln_1.weight": "follows from step 2",
        "adamw.2.weight.h.0.ln_1.weight": "WRONG from step 2",
    }
    rows = [
        Row(
            tap=name,
            backend="plain",
            dtype="float64",
            mode=Mode.FLOAT64,
            against="huggingface",
            status=Status.PASS if mark == "ok" else Status.FAIL,
            bound=1e-9,
            required_tolerance=0.3,
        )
        for name, mark in marks.items()
    ]
    table = section(rows, {})
    assert [row[-1] for row in table.rows] == list(marks.values())
    assert table.note.endswith("follows: its inputs were wrong already")
    assert "follows" not in section(rows[:2], {}).note


def test_a_fault_is_named_in_text_and_json(
    check: Check, strictly: Callable[[str], Any], tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    result = check(*SHORT, "--inject-fault", "decay-on-vectors", "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    text = " ".join(result.stdout.split())
    assert (result.exit_code, found["check"], found["verdict"]) == (1, "training", "fail")
    assert found["first_divergence"]["tap"] == "openai.2.weight.h.11.ln_2.weight"
    assert found["plan"]["per_backend"] == {"plain": [1194, 1194]}
    assert found["inputs"]["inject_fault"] == "decay-on-vectors"
    assert "openai weight plain 292 1.9e-06 WRONG from step 2" in text
    assert "biases and gains alone: weight decay on them" in text
    assert "FAIL compared 1194 of 1194 quantities on plain; first divergence" in text


@pytest.mark.slow
def test_right_models_pass_with_dropout(check: Check) -> None:
    arguments = ("training", "--weights", "tiny", "--steps", "2", "--seq-len", "5", "--dropout")
    result = check(*arguments)
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0
    assert "1202 of 1202 quantities on plain" in text
    assert "1202 of 1202 quantities on fused" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--inject-fault", "nonsense"), "no fault is called 'nonsense'"),
        (("--dropout", "--backend", "compiled"), "cannot be compared with dropout"),
        (("--inject-fault", "mean-of-rows", "--candidate", __file__), "a candidate has none"),
        (("--seq-len", "1"), "1 tokens in a row"),
        (("--seq-len", "5000"), "5000 tokens in a row"),
    ],
    ids=str,
)
def test_impossible_options_are_a_usage_error(
    arguments: tuple[str, ...], message: str, check: Check
) -> None:
    result = check(*TINY, *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize(("given", "code"), [((), 0), (("--seq-len", "10"), 2)], ids=str)
def test_only_the_default_length_is_shortened(
    given: tuple[str, ...], code: int, two_ours: GPT, tmp_path: Path, check: Check
) -> None:
    shortened(two_ours, 9).save_pretrained(tmp_path)
    few = ("--backend", "plain", "--dtype", "float64", "--steps", "2", "--taps", "adamw.1.*")
    result = check("training", "--weights", str(tmp_path), *few, *given)
    assert result.exit_code == code, result.output
    assert ("10 tokens in a row" in result.stderr and "2 to 9" in result.stderr) == bool(given)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("bfloat16", "rounding not checked in bfloat16 below 32 predicted tokens"), ("float32", "")],
)
def test_half_precision_of_few_tokens_is_said_not_to_be_checked(
    dtype: str, words: str, train: Train
) -> None:
    report = train(dtype=dtype, forms=["adamw"])
    text = " ".join(str(report).split())
    assert report.verdict is Verdict.PASS
    assert words in text
    assert (Mode.END_TO_END in {row.mode for row in report.results}) == (not words)
    assert ("rounding" in report.inputs) == bool(words)


def test_an_unknown_fault_counts_all(check: Check) -> None:
    result = check(*TINY, "--inject-fault", "nonsense")
    assert result.stderr.rstrip().endswith(f"describes all {len(TRAINING_FAULTS)}")
