"""The gradient check: right models, wrong gradients, degenerate inputs, fingerprints."""

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checks.gradients.backward import backward, of_candidate, of_huggingface
from parity.checks.gradients.check import gradients
from parity.checks.gradients.faults import grafted
from parity.checks.gradients.faults import inject as inject_backward
from parity.checks.gradients.taps import gradient_names, is_parameter, kind_of, parameter_names
from parity.core import inputs
from parity.core.fingerprints import Fingerprint
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import never_formed
from parity.core.tolerances import FEWEST_PREDICTIONS, SLOPE_BOUND, Bounds
from parity.errors import ExitCode
from scratch_gpt import GPT

LAYERS = 12
SLOPES = 15
"""One direction in all parameters, and one in each of their 14 kinds."""

PLANNED = {"plain": 318 + SLOPES, "tiled": 294 + SLOPES, "fused": 270 + SLOPES}
LONG = 1_200
"""Timeout of the full-size test, in seconds, on a busy machine."""

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


def test_exempt_gradients_have_a_reason(report: Report) -> None:
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
    exempt = [entry["tap"] for entry in report.plan.exempt if "itself" in entry["reason"]]
    assert {"attn.query", "attn.key", "attn.scores"} == {kind_of(tap) for tap in exempt}
    assert report.exit_code == ExitCode.PASS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_in_half_precision_is_checked(tiny: Check, dtype: str) -> None:
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


def test_coarse_rounding_fails_in_float32_alone(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    ids = inputs.seeded(batch=2, time=37, vocab_size=211, seed=0).token_ids
    report = gradients(Coarse(copy.deepcopy(ours)), theirs, ids, select="[!d]*")
    failed = [row for row in report.results if row.status is not Status.PASS]
    assert {Mode.END_TO_END} == {row.mode for row in failed}
    assert report.first_divergence is not None
    assert report.first_divergence.tap.startswith("h.6.ln_1")
    assert "times Hugging Face's own" in report.first_divergence.why


def test_a_fault_on_both_sides_fails_the_slope_alone(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """With one fault on both sides all gradients agree, and the slope of the loss differs."""
    shared = copy.deepcopy(theirs)
    projection = shared.transformer.h[4].mlp.c_proj
    projection.register_forward_hook(lambda _self, _given, out: grafted(out, 2.0 * out))
    ids = inputs.seeded(batch=2, time=5, vocab_size=211, seed=0).token_ids
    report = gradients(inject_backward(ours, "doubled", 4), shared, ids, dtype="float64")
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


def checked(model: nn.Module, theirs: OpenAIGPTLMHeadModel) -> Report:
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
def test_a_wrong_gradient_is_named_with_its_status(
    at_tap: Callable[[Taps, str, Tensor], Tensor],
    tap: str,
    status: Status,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
) -> None:
    report = checked(Altered(ours, at_tap).eval(), theirs)
    wrong = {row.tap: row.status for row in report.results if row.status is not Status.PASS}
    assert report.exit_code == ExitCode.FAIL
    assert status is wrong[tap]


def test_a_wrapped_model_without_a_change_passes(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    report = checked(Altered(ours, lambda tap, name, value: tap(name, value)).eval(), theirs)
    assert report.exit_code == ExitCode.PASS


def test_a_slope_with_a_nan_gradient_is_not_run(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    model = Altered(ours, not_a_number).eval()
    report = gradients(model, theirs, IDS, dtype="float64", select="direction")
    assert [(row.tap, row.status) for row in report.results] == [("direction", Status.NOT_RUN)]
    assert report.exit_code == ExitCode.INCONCLUSIVE


def test_sides_that_share_storage_are_no_verdict(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    model = copy.deepcopy(ours)
    model.tokens_embed.weight = theirs.transformer.tokens_embed.weight
    report = checked(model, theirs)
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert "share storage" in report.reasons[0].what


def test_training_mode_and_gradients_are_restored(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    model = copy.deepcopy(ours).train()
    collected = torch.ones_like(model.h[0].ln_1.weight)
    model.h[0].ln_1.weight.grad = collected
    report = checked(model, theirs)
    assert report.exit_code == ExitCode.PASS
    assert all(part.training for part in model.modules())
    assert model.h[0].ln_1.weight.grad is collected
    assert model.h[0].ln_2.weight.grad is None


def test_equal_rows_are_a_degenerate_model(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
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


def test_a_frozen_candidate_is_checked_and_stays_frozen(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    model = copy.deepcopy(ours).requires_grad_(False)
    assert checked(model, theirs).exit_code == ExitCode.PASS
    assert not any(parameter.requires_grad for parameter in model.parameters())


Key = tuple[str, str, str]
FingerprintsOf = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]
GRADIENTS = {place.name for place in gradient_names(12)}


def test_every_gradient_has_one(
    paths: dict[str, GPT],
    theirs: OpenAIGPTLMHeadModel,
    padded: Inputs,
    fingerprints_of: FingerprintsOf,
) -> None:
    given = {"attention_mask": padded.attention_mask}
    report = gradients(paths, theirs, padded.token_ids, **given, fingerprints=True)
    sides = {key: len(found) for key, found in fingerprints_of(report).items()}
    assert sides == {
        ("huggingface", "float64", "float64"): 318,
        ("ours/plain", "float64", "float64"): 318,
        ("ours/tiled", "float64", "float64"): 294,
        ("huggingface", "float32", "end-to-end"): 318,
        ("ours/plain", "float32", "end-to-end"): 318,
        ("ours/tiled", "float32", "end-to-end"): 294,
    }
    for found in fingerprints_of(report).values():
        assert next(iter(found)) == "logits"
        assert set(found) <= GRADIENTS
        assert any(map(is_parameter, found))
    without = gradients(paths, theirs, padded.token_ids, **given)
    assert repr(without.results) == repr(report.results)


def test_gradients_are_at_their_own_size(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, padded: Inputs, fingerprints_of: FingerprintsOf
) -> None:
    """In float16 the backward pass begins with a large number, which is divided out."""
    report = gradients(
        ours, theirs, padded.token_ids, dtype="float16", select="h.5.*", fingerprints=True
    )
    found = fingerprints_of(report)
    for side in ("ours/plain", "huggingface"):
        narrow, wide = found[side, "float16", "end-to-end"], found[side, "float64", "float64"]
        assert list(narrow) == list(wide)
        for tap, entry in wide.items():
            assert 0.9 < (narrow[tap].norm or 0.0) / (entry.norm or 1.0) < 1.1


def test_a_fault_changes_no_gradient_before_it(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor, fingerprints_of: FingerprintsOf
) -> None:
    right, wrong = (
        fingerprints_of(gradients(model, theirs, token_ids, dtype="float64", fingerprints=True))
        for model in (ours, inject_backward(ours, "erf-derivative", 3))
    )
    key = ("huggingface", "float64", "float64")
    assert right[key] == wrong[key]
    key = ("ours/plain", "float64", "float64")
    changed = [tap for tap in right[key] if right[key][tap] != wrong[key][tap]]
    assert changed[0] == "h.3.mlp.c_fc"
    assert list(right[key])[-len(changed) :] == changed


def test_the_reference_of_every_backend_is_hugging_face(
    report: Report, theirs: OpenAIGPTLMHeadModel, ours: GPT
) -> None:
    """Its gradients are Hugging Face's to the bit, and those of our plain model are others."""
    given = inputs.seeded(batch=2, time=37, vocab_size=211, seed=0)
    found: list[dict[str, Tensor]] = []
    for right, loss_of in ((theirs, of_huggingface), (ours, of_candidate)):
        model = copy.deepcopy(right).double()
        named = {n.removeprefix("transformer."): p for n, p in model.named_parameters()}
        found.append({})
        see = found[-1].setdefault
        backward(loss_of(model, given), named, see=lambda n, g, see=see: see(n, g.clone()))
    for backend, planned in PLANNED.items():
        rows = [
            row
            for row in report.results
            if row.backend == backend and row.mode is Mode.FLOAT64 and row.against != "oracle"
        ]
        equal, other = (
            sum(row.value_against == float(one[row.tap][row.worst_index]) for row in rows)
            for one in found
        )
        assert equal == len(rows) == planned - SLOPES
        assert other < 0.5 * len(rows)


class Narrow(nn.Module):
    """A model whose gradient at one tap passes through another dtype."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def named_parameters(self, *given: object, **named: object) -> object:  # type: ignore[override]
        return self.model.named_parameters(*given, **named)  # type: ignore[arg-type]

    def forward(self, *given: Tensor, tap: Callable[[str, Tensor], Tensor]) -> Tensor:
        def narrowed(name: str, value: Tensor) -> Tensor:
            if name == "h.6.mlp.gelu" and value.requires_grad:
                value.register_hook(lambda gradient: gradient.to(self.dtype).to(gradient.dtype))
            return tap(name, value)

        return self.model(*given, tap=narrowed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_narrower_type_has_words_at_a_gradient(
    dtype: torch.dtype, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    ids = inputs.seeded(batch=2, time=7, vocab_size=211, seed=0).token_ids
    candidate = Narrow(copy.deepcopy(ours), dtype)
    report = gradients(candidate, theirs, ids, dtype="float64", select="h.*")
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "h.6.mlp.gelu"
    assert report.first_divergence.suspects == (
        f"all of its values are numbers of {str(dtype)[6:]}: an operation computes in it"
    )
