"""The public functions: models, names and ids in, a report out."""

import copy
import hashlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTLMHeadModel

import parity
from parity import api, assert_parity
from parity.checks.tokens import faults as tokenizer_faults
from parity.checks.tokens.runners import CandidateTokenizer
from parity.core.results import ParityFailedError, Plan, Report, Verdict, finish
from parity.core.runners import build_huggingface
from parity.core.tolerances import precision_of
from parity.errors import UsageError
from parity.faults.forward import inject
from parity.options import Dtype
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
    digest = hashlib.sha256((EXAMPLES / "broken_gpt.py").read_bytes()).hexdigest()[:16]
    assert report.inputs["candidate"] == str(EXAMPLES / "broken_gpt.py")
    assert report.inputs["candidate_file"] == f"sha256 {digest}"


def test_a_class_and_a_model_get_named_weights(weights: Any) -> None:  # noqa: ANN401
    config = GPTConfig.from_huggingface(weights.config)
    model = GPT(config)
    before = model.tokens_embed.weight.clone()
    report = assert_parity(GPT, **FAST)
    assert report.plan.compared == 173
    assert report.inputs["candidate"] == "scratch_gpt.model:GPT"
    assert report.inputs["candidate_file"].startswith("model.py sha256 ")
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
    "a misspelt check": (("right",), {"check": "layerwse"}, "did you mean layerwise?"),
    "a misspelt dtype": (("right",), {"dtype": "bfloat61"}, "did you mean bfloat16?"),
    "an integer dtype": (("right",), {"dtype": "int8"}, "no dtype 'int8'"),
    "a dtype of torch": (("right",), {"dtype": torch.float16}, "no dtype torch.float16"),
    "a short dtype": (("right",), {"check": "generation", "dtype": "fp16"}, "no dtype 'fp16'"),
    "a number as the reference": (("right", 3), {}, "a reference is expected, not 3"),
    "an empty reference": (("right", ""), {}, "a reference is expected, not ''"),
    "a path to nothing": (("right", Path("no/such")), {}, "there is nothing at that path"),
    "empty weights": ((GPT,), {"weights": " "}, "it is no text, or empty"),
    "a list of taps": (("right",), {"taps": ["logits"]}, "it is no text, or empty"),
    "a text for a number": (("right",), {"seq_len": "5"}, "use 1 to 1000000, an int"),
    "a fraction of rows": (("right",), {"batch_size": 1.0}, "batch_size=1.0"),
    "a truth as a number": (("right",), {"seq_len": True}, "seq_len=True"),
    "a negative seed": (("right",), {"seed": -1}, "use 0 to 9223372036854775807"),
    "no rows": (("right",), {"batch_size": 0}, "batch_size=0"),
    "a length that does not fit": (("right",), {"seq_len": 33}, "use 1 to 32"),
    "training on one token": (("right",), {"check": "training", "seq_len": 1}, "use 2 to 32"),
    "a length with ids": (("right", None, [[1, 2]]), {"seq_len": 5}, "seq_len with ids"),
    "a seed with ids": (("right", None, [[1, 2]]), {"seed": 5}, "seed with ids"),
    "a mapping for a model": (("right",), {"mapping": "no/such.txt"}, "nothing is mapped"),
    "a mapping for both": (("right", "reference"), {"mapping": "m"}, "nothing is mapped"),
    "a call for a model with taps": (("right",), {"call": "model(ids"}, "call='model(ids'"),
    "weights of itself": (("right",), {"check": "weights"}, "compared with themselves"),
    "weights that were copied in": (
        ("right",),
        {"check": "weights", "weights": "tiny"},
        "compared with themselves",
    ),
    "weights of nothing": ((GPT,), {"check": "weights"}, "compared with themselves"),
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
    "ids of training": (("right", None, [[1, 2]]), {"check": "training"}, "does not use ids"),
    "a stranger's generation": (("reference",), {"check": "generation"}, "only our own model"),
}


@pytest.mark.parametrize("mistake", WRONG_USE)
def test_wrong_use_fails_with_what_where_and_fix(
    mistake: str, right: GPT, reference: OpenAIGPTLMHeadModel
) -> None:
    arguments, settings, words = WRONG_USE[mistake]
    named = {"right": right, "reference": reference}
    given = [named.get(one, one) if isinstance(one, str) else one for one in arguments]
    unused = settings.get("check") == "weights"  # it has no dtype
    report = failed(*given, **(({} if unused else {"dtype": "float64"}) | settings))
    assert report.verdict in (Verdict.ERROR, Verdict.INCONCLUSIVE)
    assert words in " ".join(str(report).split())
    assert all(reason.where and reason.fix for reason in report.reasons)
    assert not re.search("--[a-z]", str(report))  # options of the command line


VALUES = {
    "ids": [[1, 2]],
    "weights": "tiny",
    "seq_len": 5,
    "batch_size": 2,
    "seed": 1,
    "dtype": "float64",
    "taps": "logits",
    "call": "model(ids)",
    "mapping": "map.txt",
}


@pytest.mark.parametrize(
    ("check", "name"),
    [(check, name) for check, its in api.TAKES.items() for name in VALUES if name not in its],
)
def test_a_setting_without_an_effect_is_an_error(check: str, name: str, right: GPT) -> None:
    report = failed(right, **{"check": check, name: VALUES[name]})
    assert f"the check {check} does not use {name}" in str(report)
    assert all(other in str(report) for other, its in api.TAKES.items() if name in its)


@pytest.mark.parametrize("name", ["dtype", "taps", "mapping"])
def test_another_reference_has_fewer_settings(name: str, right: GPT) -> None:
    report = failed(right, nn.Linear(2, 2), **{name: VALUES[name]})
    assert "with another reference than GPT-1's" in str(report)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            ("--map a.map, line 3", "give --map FILE"),
            ("mapping a.map, line 3", "give mapping FILE"),
        ),
        (("--candidate a.py", "run it; --debug shows the traceback"), ("model a.py", "run it")),
        (("--seq-len", "use --device cpu"), ("seq_len", "use --device cpu")),
    ],
)
def test_an_error_has_the_names_of_parameters(
    given: tuple[str, str], shown: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UsageError("what", where=given[0], fix=given[1])
    monkeypatch.setattr(api, "run_check", Mock(side_effect=error))
    reason = failed(GPT).reasons[0]
    assert (reason.where, reason.fix) == shown


def test_every_setting_has_a_check() -> None:
    assert {name for its in api.TAKES.values() for name in its} == {*SETTINGS, "ids"} - {"check"}
    assert VALUES.keys() == {*SETTINGS, "ids"} - {"check"}


@pytest.mark.parametrize(
    "run", [parity.layerwise, parity.gradients, parity.training, parity.generation]
)
def test_a_misspelt_dtype_is_an_error(
    run: Any,  # noqa: ANN401 - a check
    right: GPT,
    reference: OpenAIGPTLMHeadModel,
) -> None:
    ids = torch.tensor([[3, 5, 60, 7]])
    given = [ids] if run in (parity.training, parity.generation) else ids
    fewer = {"new_tokens": 4} if run is parity.generation else {}
    with pytest.raises(UsageError, match="did you mean bfloat16"):
        run(right, reference, given, dtype="bfloat61", **fewer)
    for dtype in get_args(Dtype):
        assert (precision_of(dtype) is None) == (dtype == "float64")


# Checks.


def test_rows_of_unequal_lengths_are_padded(right: GPT) -> None:
    report = assert_parity(right, None, [[5, 9, 60], [7]], dtype="float64")
    assert report.inputs["padded_positions"] == 2


@pytest.mark.parametrize(("check", "fault"), [("layerwise", "relu"), ("gradients", "relu")])
def test_a_check_passes_and_finds_a_fault(check: str, fault: str, right: GPT) -> None:
    assert assert_parity(right, check=check, **FAST).check == check
    assert failed(inject(right, fault, 1), check=check, **FAST).verdict is Verdict.FAIL


def test_the_weights_are_those_of_the_reference(
    right: GPT, reference: OpenAIGPTLMHeadModel
) -> None:
    assert assert_parity(right, reference, check="weights").check == "weights"
    other = copy.deepcopy(right)
    with torch.no_grad():
        other.h[1].mlp.c_fc.bias.fill_(7.0)
    report = failed(other, reference, check="weights")
    assert (report.verdict, report.first_divergence.tap) == (Verdict.FAIL, "h.1.mlp.c_fc.bias")


def test_the_weights_that_are_made_are_the_named_ones(tmp_path: Path) -> None:
    file = tmp_path / "turned.py"
    file.write_text(
        "from scratch_gpt import GPT\n"
        "def build(config, weights):\n"
        "    model = GPT(config)\n"
        "    weights['h.1.mlp.c_fc.bias'] = weights['h.1.mlp.c_fc.bias'].flip(0)\n"
        "    model.load_state_dict(weights)\n"
        "    return model\n",
        encoding="utf-8",
    )
    assert assert_parity(GPT, weights="tiny", check="weights").verdict is Verdict.PASS
    report = failed(file, weights="tiny", check="weights")
    assert (report.verdict, report.first_divergence.tap) == (Verdict.FAIL, "h.1.mlp.c_fc.bias")


def test_prompts_have_no_padding(right: GPT) -> None:
    seen, report = [], finish("generation", rows=[], plan=Plan.of({}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "generation", lambda *given, **_: seen.extend(given[2]) or report)
        api.run_check(right, None, [[3, 5, 60], [7]], {"check": "generation"}, SETTINGS)
    assert [prompt.tolist() for prompt in seen] == [[[3, 5, 60]], [[7]]]


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
        return tokenizer_faults.inject(right, "case-kept")

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
