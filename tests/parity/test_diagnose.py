"""A mistake is named if it reproduces the candidate's tensors, and only then."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import OpenAIGPTLMHeadModel

from parity import diagnose, layerwise
from parity.align import Target
from parity.checkpoints.weights import Provenance, Weights
from parity.core.candidates import build_candidate
from parity.core.inputs import Inputs
from parity.core.lockstep import capture
from parity.core.results import Mode, Report, Verdict
from parity.core.runners import build_huggingface, oracle_run
from parity.core.taps import taps
from parity.diagnose import GPT1Explainer, gpt1_targets
from parity.faults.forward import FORWARD_FAULTS
from parity.operations import Call
from parity.watch import Number, watch
from scratch_gpt import GPT, GPTConfig

pytestmark = [pytest.mark.reference, pytest.mark.fault]

STYLES = Path(__file__).parent / "styles"

spec = importlib.util.spec_from_file_location("edits_of_diagnose", STYLES / "edits.py")
edits: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = edits
spec.loader.exec_module(edits)

Check = Callable[..., Report]

CONFIG = GPTConfig(vocab_size=37, n_positions=19, n_embd=14, n_layer=2, n_head=2)
STYLE = "linear_qkv"
IDS = torch.randint(37, (2, 11), generator=torch.Generator().manual_seed(5))


def weights_of(seed: int) -> Weights:
    """Return random weights: no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (0.3 * torch.randn(parameter.shape, generator=generator)).numpy()
        + ("ln_" in name and name.endswith("weight"))
        for name, parameter in GPT(CONFIG).named_parameters()
    }
    provenance = Provenance(source="random", revision="none", sha256="0" * 64)
    return Weights(config=CONFIG.to_huggingface(), tensors=tensors, provenance=provenance)


@pytest.fixture(scope="module")
def small() -> Weights:
    return weights_of(3)


@pytest.fixture(scope="module")
def huggingface(small: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(small)


@pytest.fixture
def check(small: Weights, huggingface: OpenAIGPTLMHeadModel, tmp_path: Path) -> Check:
    """Return the function that checks the style, with pieces of its text replaced."""

    def run(*pieces: tuple[str, str]) -> Report:
        text = edits.source_of(STYLE)
        for old, new in pieces:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = tmp_path / f"{STYLE}.py"
        file.write_text(text, encoding="utf-8")
        candidate = build_candidate(str(file), small)
        return layerwise(candidate, huggingface, IDS, modes=[Mode.FLOAT64])

    return run


EDITS = {edit.fault: edit for edit in edits.EDITS if edit.style == STYLE}
FAMILIES = [
    "positions-from-one",
    "blocks-reversed",
    "pre-norm",
    "query-key-swapped",
    "scale-missing",
    "mask-off-by-one",
    "softmax-over-queries",
    "heads-merged-without-transpose",
    "norm-inside-residual",
    "norms-swapped",
    "bias-dropped",
    "erf-gelu",
    "final-norm",
]
"""One fault of each kind."""


@pytest.mark.parametrize("fault", FAMILIES)
def test_a_fault_of_each_family_is_named(fault: str, check: Check) -> None:
    edit = EDITS[fault]
    report = check((edit.old, edit.new))
    assert report.verdict is Verdict.FAIL
    assert report.wrong[0].fault in edit.names
    assert f"{STYLE}.py:" in report.wrong[0].place


LAYERS = "        for layer in self.layers:\n            h = layer(h)\n"
BY_ROWS = {
    "in each block": "        for layer in self.layers:\n"
    "            h = torch.cat([layer(row[None]) for row in h])\n",
    "in all blocks": "        rows = [row[None] for row in h]\n"
    "        for n, row in enumerate(rows):\n"
    "            for layer in self.layers:\n"
    "                row = rows[n] = layer(row)\n"
    "        h = torch.cat(rows)\n",
}


@pytest.mark.parametrize("form", BY_ROWS)
def test_rows_computed_one_by_one_are_no_wrong_order_of_blocks(form: str, check: Check) -> None:
    loop = (LAYERS, BY_ROWS[form])
    assert check(loop).verdict is Verdict.PASS
    edit = EDITS["erf-gelu"]
    (wrong, *_) = check(loop, (edit.old, edit.new)).wrong
    assert wrong.fault == "erf-gelu"
    assert wrong.tap.startswith("h.0.mlp.gelu")


def test_a_fault_of_one_norm_alone_is_named(check: Check) -> None:
    old = "self.ln_ffn = nn.LayerNorm(d_model, eps=eps)"
    (wrong,) = check((old, old.replace("eps=eps", "eps=1e-3"))).wrong
    assert wrong.fault == "epsilon-1e-3"
    assert "at ln_2 alone" in wrong.diagnosis
    assert wrong.tap == "h.0.ln_2, and in blocks 1"


def test_a_fault_that_gives_the_same_numbers_in_another_order_is_not_named(check: Check) -> None:
    """The fingerprint is that of the erf GELU; the elements are reversed."""
    old = "        return 0.5 * x * (1.0 + torch.tanh(inner))"
    report = check(
        (old, "        return inner * math.sqrt(0.5) * (1.0 + torch.erf(inner))"),
        (INNER, "        inner = (x / math.sqrt(2.0)).flip(-1)"),
    )
    assert report.verdict is Verdict.FAIL
    wrong = report.wrong[0]
    assert (wrong.fault, wrong.fix) == ("", "")
    assert wrong.tap.startswith("h.0.mlp.gelu")
    assert "layers.0.ffn.act" in wrong.place


INNER = "        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))"


# The explainer alone.


@pytest.fixture
def values(huggingface: OpenAIGPTLMHeadModel) -> dict[str, Tensor]:
    """Return the tensors of the reference run."""
    return capture(oracle_run(huggingface, Inputs(token_ids=IDS)))


@pytest.fixture
def call(small: Weights) -> Call:
    return Call(
        parameters={name: torch.tensor(array).double() for name, array in small.tensors.items()},
        n_layer=CONFIG.n_layer,
        n_head=CONFIG.n_head,
        epsilon=1e-5,
        token_ids=IDS,
    )


@pytest.mark.parametrize("norm", ["h.0.ln_1", "h.1.ln_2"])
def test_the_steps_of_a_norm_are_targets(
    norm: str, values: Mapping[str, Tensor], call: Call
) -> None:
    found = {one.name: one.value for one in gpt1_targets(taps(2), values, call)}
    x, gain = values[f"{norm}.input"], call.parameters[f"{norm}.weight"]
    normalized = functional.layer_norm(x, x.shape[-1:], eps=1e-5)
    expected = {
        "centered": x - x.mean(-1, keepdim=True),
        "variance": x.var(-1, correction=0, keepdim=True),
        "normalized": normalized,
        "scaled": normalized * gain,
    }
    steps = {name: value for name, value in found.items() if name.startswith(f"{norm} (")}
    assert list(steps) == [f"{norm} ({step})" for step in expected]
    for step, value in expected.items():
        torch.testing.assert_close(steps[f"{norm} ({step})"], value, rtol=1e-12, atol=1e-12)


def test_a_fault_is_named_if_one_row_is_made_after_the_other(
    values: dict[str, Tensor], call: Call
) -> None:
    def by_row() -> list[Tensor]:
        return [functional.gelu(row) for row in values["h.0.mlp.c_fc"]]

    events = watch(nn.Identity(), by_row).events
    expected = {one.name: one for one in gpt1_targets(taps(2), values, call)}
    explainer = GPT1Explainer(call, call.parameters, values)
    explanation = explainer.explain(["h.0.mlp.gelu"], events, expected)
    assert explanation is not None
    assert explanation.name == "erf-gelu"


UNTIL_FIVE_LACK = [
    *("h.0.attn.scores", "h.0.attn.weights", "h.0.attn.context (heads)"),
    *("h.0.attn.context", "h.0.attn", "h.0.ln_1.input"),
    *(f"h.0.ln_1 ({step})" for step in ("centered", "variance", "normalized", "scaled")),
    *("h.0.ln_1", "h.0.mlp.c_fc"),
]
"""What the missing scale changes, until five taps without heads are among it."""


@pytest.mark.parametrize("there", [None, "h.0.attn.scores"])
def test_a_fault_is_given_up_if_the_candidate_has_none_of_its_first_tensors(
    there: str | None,
    values: dict[str, Tensor],
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_for: list[str] = []

    def find(target: Target, **_given: object) -> Number | None:
        looked_for.append(target.name)
        return (7, 0) if target.name == there else None

    scale = FORWARD_FAULTS["scale-missing"]
    monkeypatch.setattr(diagnose, "FORWARD_FAULTS", {scale.name: scale})
    monkeypatch.setattr(diagnose, "_number_of", find)
    expected = {one.name: one for one in gpt1_targets(taps(2), values, call)}
    explainer = GPT1Explainer(call, call.parameters, values)
    explanation = explainer.explain(["h.0.attn.scores"], [], expected)
    first, rest = looked_for[: len(UNTIL_FIVE_LACK)], looked_for[len(UNTIL_FIVE_LACK) :]
    assert first == UNTIL_FIVE_LACK
    if there is None:
        assert (explanation, rest) == (None, [])
    else:
        assert explanation is not None
        assert explanation.name == "scale-missing"
        assert rest[-1] == "h.1.attn.value"


@pytest.mark.slow
@pytest.mark.parametrize("style", edits.STYLES)
def test_right_models_pass_on_many_weights_and_ids(style: str) -> None:
    """Sixteen draws of weights, lengths and rows for each style."""
    path = str(STYLES / f"{style}.py")
    for seed in range(16):
        weights = weights_of(seed)
        generator = torch.Generator().manual_seed(seed)
        batch, time = (1, 2, 3)[seed % 3], (5, 7, 11, 14, 19)[seed % 5]
        ids = torch.randint(CONFIG.vocab_size, (batch, time), generator=generator)
        candidate = build_candidate(path, weights)
        report = layerwise(candidate, build_huggingface(weights), ids, modes=[Mode.FLOAT64])
        assert report.verdict is Verdict.PASS, (seed, batch, time, report.reasons, report.wrong)
