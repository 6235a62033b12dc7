"""Right models have every property; each fault violates its own, and is placed."""

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import parity
from parity.checks.invariants import dropout
from parity.checks.invariants.check import BOUND, PROPERTIES, invariants
from parity.checks.invariants.faults import INVARIANT_FAULTS, inject
from parity.checks.invariants.subject import Sizes
from parity.core.metrics import Status
from parity.core.results import Report, Verdict
from parity.errors import ExitCode, UsageError
from parity.report import FORMS, rendered
from parity.report.text import PAGE, render
from scratch_gpt import GPT, GPTConfig

CONFIG = GPTConfig(
    vocab_size=151, n_positions=140, n_embd=12, n_layer=2, n_head=2, initializer_range=0.3
)
SIZES = Sizes.of(CONFIG)
EAGER = ("plain", "tiled", "fused")
BLOCK = 1
LONGEST = 66
"""A tile and two tokens."""

Check = Callable[..., Any]


@pytest.fixture(scope="module")
def model() -> GPT:
    """Return a small model with random weights, gains and biases too."""
    torch.manual_seed(0)
    made = GPT(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def of(candidate: nn.Module, *properties: str, **options: Any) -> Report:  # noqa: ANN401
    """Return the report on some properties, by default all."""
    chosen = {"longest": LONGEST, "properties": properties or tuple(PROPERTIES), **options}
    return invariants(candidate, SIZES, **chosen)


def failing(report: Report) -> list[str]:
    return [row.tap for row in report.results if row.status is not Status.PASS]


@pytest.mark.parametrize("backend", EAGER)
def test_a_right_model_has_every_property(backend: str, model: GPT) -> None:
    report = of(model.with_backend(backend))
    assert (report.verdict, failing(report), report.reasons) == (Verdict.PASS, [], [])
    assert report.plan.planned == report.plan.compared == len(report.results)
    assert {row.tap.split(".")[0] for row in report.results} == {*PROPERTIES}
    assert "not_run" not in report.inputs
    assert len({row.tap for row in report.results}) == len(report.results)


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_short_texts_have_the_properties_that_show(longest: int, model: GPT) -> None:
    report = of(model, longest=longest)
    assert (report.verdict, failing(report)) == (Verdict.PASS, [])


@pytest.mark.fault
@pytest.mark.parametrize("name", INVARIANT_FAULTS)
def test_a_fault_violates_its_property_and_is_placed(name: str, model: GPT) -> None:
    fault = INVARIANT_FAULTS[name]
    # Of 66 tokens, the last tile would be as wrong in the beginning as in the whole text.
    longest = 129 if name == "last-tile-alone" else LONGEST
    report = of(model, fault.violates, longest=longest, injected=partial(inject, name, BLOCK))
    assert report.exit_code is ExitCode.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.tap == fault.first_seen(BLOCK)
    assert fault.violates in PROPERTIES


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("backend", EAGER)
def test_its_property_is_the_first_that_is_violated(backend: str, model: GPT) -> None:
    wrong = []
    for name, fault in INVARIANT_FAULTS.items():
        injected = partial(inject, name, BLOCK)
        report = of(model.with_backend(backend), longest=129, injected=injected)
        first = report.first_divergence
        found = first and (first.row.tap.split(".")[0], first.tap)
        if found != (fault.violates, fault.first_seen(BLOCK, backend)):
            wrong.append((name, found))
    assert wrong == []


def test_faults_are_gone_after_the_check(model: GPT) -> None:
    for name in INVARIANT_FAULTS:
        with inject(name, BLOCK, model):
            pass
    assert of(model, "causality", "padding", "ids", longest=9).verdict is Verdict.PASS


def test_the_model_is_left_as_it_was(model: GPT) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    of(model, longest=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert all(one.requires_grad and one.grad is None for one in model.parameters())
    assert not any(part.training for part in model.modules())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


# Models of others.


class Stranger(nn.Module):
    """A model without taps; `change` is made of its logits `[batch time vocab]`."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tokens = nn.Embedding(CONFIG.vocab_size, 12)
        self.places = nn.Embedding(CONFIG.n_positions, 12)
        self.layer = nn.Linear(12, 12)
        self.change = change

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        counts = torch.arange(1, ids.shape[1] + 1, dtype=x.dtype)[:, None]
        x = torch.tanh(self.layer(x.cumsum(1) / counts))
        return self.change(x @ self.tokens.weight.T)


def test_a_right_stranger_passes_and_lists_what_cannot_run() -> None:
    report = of(Stranger().eval())
    assert (report.verdict, failing(report)) == (Verdict.PASS, [])
    assert {key.split()[0] for key in report.inputs["not_run"]} == {
        *("positions", "padding", "cache", "dropout"),
    }


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the future": (lambda x: x + 1e-6 * x.flip(1), "causality"),
    "the next token": (lambda x: x + 1e-3 * x.roll(-1, 1), "causality"),
    "the batch": (lambda x: x + 1e-6 * x.mean(0), "batch"),
    "a random number": (lambda x: x + 1e-9 * torch.rand(1), "determinism"),
    "the length": (lambda x: x * (1.0 + 1e-6 * x.shape[1]), "prefix"),
    "a NaN": (lambda x: x.where(x < x.max(), torch.nan), "determinism"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_stranger_is_placed_at_its_line(case: str) -> None:
    change, violated = CHANGES[case]
    report = of(Stranger(change).eval())
    assert report.verdict is Verdict.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.row.tap.startswith(f"{violated}.")
    (wrong, *_) = report.wrong
    assert Path(wrong.file).name == Path(__file__).name
    assert "lambda x" in wrong.code


def test_an_exception_is_a_finding() -> None:
    def raising(x: Tensor) -> Tensor:
        if x.shape[1] == 2:
            raise RuntimeError("two tokens")
        return x

    report = of(Stranger(raising).eval(), "determinism", "prefix")
    assert report.verdict is Verdict.FAIL
    (first, *_) = [row for row in report.results if row.status is not Status.PASS]
    assert first.tap == "determinism.again.2"
    assert "RuntimeError: two tokens" in first.detail
    assert Path(__file__).name in first.detail


def test_a_parameter_without_effect_is_named() -> None:
    class Dead(Stranger):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.randn(3))

    report = of(Dead().eval(), "sensitivity")
    assert failing(report) == ["sensitivity.parameters"]
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "unused"


def test_order_without_positions_is_seen() -> None:
    stranger = Stranger().eval()
    with torch.no_grad():
        stranger.places.weight.zero_()
    assert "sensitivity.order.32" in failing(of(stranger, "sensitivity"))


@pytest.mark.parametrize(("error", "verdict"), [(0.3, Verdict.PASS), (3.0, Verdict.FAIL)])
def test_the_bound_is_pinned_from_both_sides(error: float, verdict: Verdict) -> None:
    """The largest logit of random ones is a few times their RMS."""

    def depending(x: Tensor) -> Tensor:
        rms = x.square().mean((1, 2), keepdim=True).sqrt()
        return x + error * BOUND * rms * (len(x) > 1)

    assert of(Stranger(depending).eval(), "batch").verdict is verdict


def test_half_precision_inside_decides_nothing() -> None:
    narrow = Stranger(lambda x: x.bfloat16().to(x.dtype) * (1.0 + 1e-6 * x.shape[1])).eval()
    report = of(narrow, "prefix")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert {row.status for row in report.results} == {Status.NOT_RUN}


# From Python, and the command line.


def test_the_function_takes_a_model_or_its_class(model: GPT) -> None:
    assert parity.invariants(model, seq_len=5).verdict is Verdict.PASS
    assert parity.invariants(Stranger().eval(), seq_len=5).verdict is Verdict.PASS
    with pytest.raises(UsageError, match="sizes"):
        parity.invariants(nn.Linear(3, 3))


@pytest.mark.parametrize("seq_len", [0, -1, 10_000, True, 2.0])
def test_a_length_that_the_model_does_not_take_is_an_error(seq_len: Any) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match="use 1 to 389"):
        parity.invariants("examples/textbook_gpt.py", weights="tiny", seq_len=seq_len)


@pytest.fixture(scope="module")
def wrong(model: GPT) -> Report:
    models = {name: model.with_backend(name) for name in ("plain", "fused")}
    injected = partial(inject, "padding-swapped", BLOCK)
    return invariants(models, SIZES, longest=9, injected=injected)


@pytest.mark.parametrize("form", [name for name in FORMS if name != "github"])
def test_every_form_names_property_and_place(form: str, wrong: Report) -> None:
    text = rendered(wrong, form)
    assert "padding" in text
    assert f"h.{BLOCK}.attn.weights" in text


def test_the_text_is_no_wider_than_a_page(wrong: Report) -> None:
    file = io.StringIO()
    render(wrong, Console(width=PAGE, file=file))
    assert max(map(len, file.getvalue().splitlines())) <= PAGE


def test_the_summary_names_the_first_property(wrong: Report) -> None:
    assert wrong.summary.endswith(f"padding is violated, first at h.{BLOCK}.attn.weights")
    both = [row for row in wrong.results if row.status is not Status.PASS]
    assert {row.backend for row in both} == {"plain", "fused"}


def test_without_dropout_its_statistics_are_not_run(model: GPT) -> None:
    sizes = dataclasses.replace(SIZES, dropout=(0.0, 0.0, 0.0))
    report = invariants(model, sizes, properties=["dropout", "ids"], longest=5)
    assert report.inputs["not_run"] == {"dropout on plain": "its probabilities are 0"}


def test_in_other_dtypes_equal_shapes_are_compared(model: GPT) -> None:
    report = of(model, "causality", "prefix", "batch", dtype=torch.bfloat16, longest=9)
    assert report.verdict is Verdict.PASS
    assert {row.dtype for row in report.results} == {"bfloat16"}
    assert not any(row.tap.startswith("prefix") for row in report.results)
    assert "prefix on plain" in report.inputs["not_run"]


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 8.0), (torch.float64, 20.0)])
def test_sharp_attention_is_no_violation(dtype: torch.dtype, factor: float, model: GPT) -> None:
    """A token's weight may be less than a sum can hold; its logits must change all the same."""
    sharp = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in sharp.named_parameters():
            parameter.mul_(factor if name.endswith("c_attn.weight") else 1.0)
    chosen = ("positions", "sensitivity")
    narrow: dict[str, Any] = {"dtype": dtype, "longest": 33}
    before = {name: one.clone() for name, one in sharp.state_dict().items()}
    assert of(sharp, *chosen, **narrow).verdict is Verdict.PASS
    assert all(torch.equal(one, before[name]) for name, one in sharp.state_dict().items())
    injected = partial(inject, "given-positions-ignored", BLOCK)
    assert "positions.each_used.32" in failing(of(sharp, *chosen, **narrow, injected=injected))


@pytest.mark.parametrize("branch", [1.0, 0.1])
def test_rounding_in_bfloat16_is_no_wrong_scale(branch: float, model: GPT) -> None:
    """The smaller a branch, the more of it the rounding of its sum with the residual changes."""
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            parameter.mul_(branch if "c_proj" in name else 1.0)
    narrow: dict[str, Any] = {"dtype": torch.bfloat16, "longest": 33}
    assert failing(of(scaled, "dropout", **narrow)) == []
    injected = partial(inject, "dropout-unscaled", BLOCK)
    wrong = failing(of(scaled, "dropout", **narrow, injected=injected))
    assert ("dropout.residual.scale" in wrong) == (branch == 1.0)


def test_few_elements_may_be_dropped_together() -> None:
    """Right masks of every size stay within the bound, and equal ones of 200 elements do not."""
    draws = torch.Generator().manual_seed(0)
    for size in (1, 4, 16, 64, 256, 1024):
        kept = torch.rand(20_000, 2, size, generator=draws).ge(0.1).double()
        masks = (kept - 0.9) / math.sqrt(0.09)
        apart = dropout._deviations(masks.prod(1).sum(-1), torch.tensor(size), 0.1)
        assert float(apart.max()) < 0.9 * dropout.DEVIATIONS
        shared = dropout._deviations(masks[:, 0].square().sum(-1), torch.tensor(size), 0.1)
        assert (float(shared.mean()) > dropout.DEVIATIONS) == (size > 200)


FEW = ("--weights", "tiny", "--seq-len", "3", "--backend", "plain")


def test_the_command(check: Check, strictly: Callable[[str], Any]) -> None:
    ran = check("invariants", *FEW, "--inject-fault", "rows-mixed@2", "--format", "json")
    found = strictly(ran.stdout)
    assert (ran.exit_code, found["verdict"]) == (ExitCode.FAIL, "fail")
    assert found["first_divergence"]["tap"] == "h.2.ln_1"
    assert found["inputs"]["inject_fault"] == "rows-mixed@2"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--inject-fault", "rows-mixd"), "rows-mixed"),
        (("--inject-fault", "rows-mixed@12"), "0 to 11"),
        (("--seq-len", "390"), "at most 389"),
        (("--call", "model(ids)"), "--candidate"),
        (("--inject-fault", "rows-mixed", "--backend", "compiled"), "compiled"),
    ],
)
def test_a_wrong_option_is_named(arguments: tuple[str, ...], named: str, check: Check) -> None:
    ran = check("invariants", "--weights", "tiny", *arguments)
    assert (ran.exit_code in (ExitCode.USAGE, ExitCode.ENVIRONMENT), ran.stdout) == (True, "")
    assert named in ran.stderr
