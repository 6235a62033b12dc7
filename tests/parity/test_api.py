"""The public functions: models, names and ids in, a report out."""

import copy
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTLMHeadModel

import parity
from parity import api, assert_parity
from parity.checks.tokens import faults as tokenizer_faults
from parity.checks.tokens.runners import CandidateTokenizer
from parity.core.results import ParityFailedError, Report, Verdict
from parity.core.runners import build_huggingface
from parity.faults.forward import inject
from parity.testing import SETTINGS
from scratch_gpt import GPT, GPTConfig, Tokenizer

FAST = {"dtype": "float64", "seq_len": 7}
EXAMPLES = Path(__file__).parents[2] / "examples"


def shaken(model: nn.Module) -> Any:  # noqa: ANN401 - the same model
    """Return the model with random weights, no gain 1 and no bias 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            scale = 0.6 if one.ndim > 1 else 0.2
            one.add_(torch.randn(one.shape, generator=generator) * scale)
    return model.eval()


@pytest.fixture(scope="module")
def right() -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}
    return shaken(GPT(GPTConfig(**sizes)))


@pytest.fixture(scope="module")
def reference(right: GPT) -> OpenAIGPTLMHeadModel:
    return build_huggingface(api._weights_of(right))


def failed(*arguments: Any, **settings: Any) -> Report:  # noqa: ANN401 - of assert_parity
    with pytest.raises(ParityFailedError) as caught:
        assert_parity(*arguments, **settings)
    return caught.value.report


# Names.


@pytest.mark.parametrize("name", parity.__all__)
def test_every_name_is_there_and_callable(name: str) -> None:
    found = getattr(parity, name)
    assert callable(found)
    assert inspect.getdoc(found)
    assert name in dir(parity)
    assert not inspect.ismodule(found)


def test_the_package_alone_imports_nothing_heavy() -> None:
    script = (
        "import sys, parity, parity.testing\n"
        "assert parity.assert_parity\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'scratch_gpt'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'layerwize'"):
        parity.layerwize  # noqa: B018


def test_every_setting_is_an_argument() -> None:
    parameters = inspect.signature(assert_parity).parameters.values()
    keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    assert keywords == list(SETTINGS)


# Sides.


def test_a_model_has_its_own_weights(right: GPT) -> None:
    report = assert_parity(right, **FAST)
    assert report.identity["weights"]["source"] == "the weights of GPT"
    assert failed(inject(right, "erf-gelu", 1), **FAST).first_divergence.tap == "h.1.mlp.gelu"


def test_hugging_faces_model_has_its_own_weights(reference: OpenAIGPTLMHeadModel) -> None:
    report = assert_parity(reference, **FAST)
    assert report.plan.compared == report.plan.planned


def test_a_reference_is_given(right: GPT, reference: OpenAIGPTLMHeadModel) -> None:
    assert assert_parity(right, reference, **FAST).verdict is Verdict.PASS
    other = copy.deepcopy(reference)
    with torch.no_grad():
        other.transformer.h[1].mlp.c_fc.bias[3] += 0.01
    assert failed(right, other, **FAST).first_divergence.tap == "h.1.mlp.c_fc"


def test_a_file_is_built_with_named_weights() -> None:
    report = failed(str(EXAMPLES / "broken_gpt.py"), weights="tiny", **FAST)
    assert (report.plan.compared, report.wrong[0].fault) == (173, "erf-gelu")


def test_a_class_and_a_model_get_named_weights(weights: Any) -> None:  # noqa: ANN401
    config = GPTConfig.from_huggingface(weights.config)
    model = GPT(config)
    before = model.tokens_embed.weight.clone()
    assert assert_parity(GPT, **FAST).plan.compared == 173
    assert assert_parity(model, weights="tiny", **FAST).plan.compared == 173
    assert torch.equal(before, model.tokens_embed.weight)  # a copy got them
    assert failed(model, "tiny", **FAST).verdict is not Verdict.PASS


def test_modes_of_the_models_stay(right: GPT, reference: OpenAIGPTLMHeadModel) -> None:
    model, other = copy.deepcopy(right).train(), copy.deepcopy(reference).train()
    assert_parity(model, other, **FAST)
    assert model.training
    assert other.training


WRONG_USE = {
    "a number": ((3,), {}, "a model is expected, not int"),
    "an unknown check": (("right",), {"check": "layers"}, "no check 'layers'"),
    "weights and a reference": (("right", "tiny"), {"weights": "tiny"}, "given twice"),
    "a class and a reference": ((GPT, "reference"), {}, "only made here"),
    "a stranger": ((nn.Linear(2, 2),), {}, "its weights cannot be given to a reference"),
    "no such file": (("no_such.py",), {}, "there is no such file"),
    "no such weights": ((GPT,), {"weights": "tinny"}, "did you mean tiny?"),
    "ids of another vocabulary": (("right", None, [[1, 61]]), {}, "from 1 to 61"),
    "negative ids": (("right", None, [[-1, 1]]), {}, "from -1 to 1"),
    "fractions": (("right", None, torch.ones(2, 3)), {}, "torch.float32 of shape [2, 3]"),
    "one axis": (("right", None, torch.tensor([1, 2])), {}, "of shape [2]"),
    "no ids": (("right", None, []), {}, "no rows of ids"),
    "words": (("right", None, [["a"]]), {}, "no rows of ids"),
    "a long row": (("right", None, torch.ones(1, 33).long()), {}, "33 in a row"),
    "a pattern of nothing": (("right",), {"taps": "h.9.*"}, "no tap was selected"),
    "ids of training": (("right", None, [[1, 2]]), {"check": "training"}, "are drawn"),
    "a stranger's generation": (("reference",), {"check": "generation"}, "only our own model"),
}


@pytest.mark.parametrize("mistake", WRONG_USE)
def test_wrong_use_fails_with_what_where_and_fix(
    mistake: str, right: GPT, reference: OpenAIGPTLMHeadModel
) -> None:
    arguments, settings, words = WRONG_USE[mistake]
    named = {"right": right, "reference": reference}
    given = [named.get(one, one) if isinstance(one, str) else one for one in arguments]
    report = failed(*given, **(FAST | settings))
    assert report.verdict in (Verdict.ERROR, Verdict.INCONCLUSIVE)
    assert words in " ".join(str(report).split())
    assert all(reason.where and reason.fix for reason in report.reasons)


# Checks.


def test_rows_of_unequal_lengths_are_padded(right: GPT) -> None:
    report = assert_parity(right, None, [[5, 9, 60], [7]], dtype="float64")
    assert report.inputs["padded_positions"] == 2


@pytest.mark.parametrize(
    ("check", "fault"), [("layerwise", "relu"), ("gradients", "relu"), ("weights", None)]
)
def test_a_check_passes_and_finds_a_fault(check: str, fault: str | None, right: GPT) -> None:
    assert assert_parity(right, check=check, **FAST).check == check
    if fault is not None:
        assert failed(inject(right, fault, 1), check=check, **FAST).verdict is Verdict.FAIL


def test_weights_are_compared(right: GPT, reference: OpenAIGPTLMHeadModel) -> None:
    assert parity.weights(right, reference).verdict is Verdict.PASS
    other = copy.deepcopy(right)
    with torch.no_grad():
        other.h[1].attn.c_proj.weight.copy_(other.h[1].attn.c_proj.weight.T.clone())
    found = parity.weights(other, reference)
    assert (found.verdict, found.first_divergence.tap) == (Verdict.FAIL, "h.1.attn.c_proj.weight")


def test_training_is_compared(right: GPT) -> None:
    report = assert_parity(right, check="training", dtype="float64", seq_len=7, batch_size=2)
    assert (report.check, report.inputs["steps"]) == ("training", 3)


def test_generation_is_compared(right: GPT, reference: OpenAIGPTLMHeadModel) -> None:
    prompts = [torch.tensor([[3, 5, 60]]), torch.tensor([[7]])]
    report = parity.generation(right, reference, prompts, new_tokens=4, dtype="float64")
    assert (report.verdict, report.inputs["prompts"]) == (Verdict.PASS, 2)
    other = copy.deepcopy(right)
    with torch.no_grad():
        other.h[0].ln_1.bias[2] += 0.5
    wrong = parity.generation(other, reference, prompts, new_tokens=4, dtype="float64")
    assert wrong.verdict is Verdict.FAIL


def test_tokens_are_compared(
    tmp_path: Path, small_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tokenizer.train([small_text] * 2, merges=200).save_pretrained(tmp_path)
    texts = ["Isn't it? Cafés!", small_text[:300]]
    assert parity.tokens(tmp_path, texts).verdict is Verdict.PASS
    assert parity.tokens(str(tmp_path), []).verdict is Verdict.INCONCLUSIVE

    def faulty(right: Tokenizer) -> CandidateTokenizer:
        made = CandidateTokenizer(right)
        return tokenizer_faults.inject(right, made.pretokenizer, "case-kept")

    monkeypatch.setattr(api, "CandidateTokenizer", faulty)
    assert parity.tokens(tmp_path, texts).verdict is Verdict.FAIL


class Elsewhere(nn.Module):
    """GPT-2 as a module of another shape: it returns logits."""

    def __init__(self, inner: GPT2LMHeadModel) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids).logits


def test_another_architecture_is_compared() -> None:
    config = GPT2Config(vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=3)
    theirs = shaken(GPT2LMHeadModel(config))
    model = Elsewhere(copy.deepcopy(theirs))
    report = assert_parity(model, theirs, seq_len=7)
    assert (report.check, report.verdict) == ("compare", Verdict.PASS)
    with torch.no_grad():
        model.inner.transformer.h[1].mlp.c_fc.bias[3] += 0.01
    assert "h.1.mlp" in failed(model, theirs, seq_len=7).first_divergence.tap
    report = failed(model, theirs, dtype="bfloat16")
    assert "with another reference than GPT-1's" in str(report)
