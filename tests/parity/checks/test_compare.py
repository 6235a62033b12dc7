"""Any causal language model is compared with any other: a GPT-2 by hand with Hugging Face's."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from parity import compare
from parity.checks import compare as compare_module
from parity.checks.compare import load_reference, reference_targets, source_of
from parity.core.candidates import build_as_given
from parity.core.inputs import Inputs
from parity.core.results import Report
from parity.errors import InconclusiveError, InputRejectedError
from parity.report.text import render

pytestmark = pytest.mark.reference

Check = Callable[..., Any]

GPT2 = """
import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        split = (b, t, self.heads, c // self.heads)
        q, k, v = (y.view(split).transpose(1, 2) for y in self.c_attn(x).split(c, 2))
        att = (q @ k.transpose(-2, -1)) / math.sqrt(c // self.heads)
        att = att.masked_fill(torch.tril(torch.ones(t, t)) == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    def __init__(self, width, heads, i):
        super().__init__()
        self.i = i
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        h = F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        return x + self.c_proj(h)


class GPT2(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, width)
        self.wpe = nn.Embedding(config.n_positions, width)
        self.h = nn.ModuleList(Block(width, config.n_head, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        return F.linear(x, self.wte.weight), None


def build(config, weights):
    model = GPT2(config)
    state = {}
    for name, tensor in weights.items():
        name = name.removeprefix("transformer.").replace("mlp.", "")
        is_turned = "c_" in name and name.endswith("weight")
        state[name] = tensor.T if is_turned else tensor
    state.pop("lm_head.weight")
    model.load_state_dict(state)
    return model
"""

FAULTS: dict[str, tuple[str, str, str, str, str]] = {
    "erf GELU": (
        'approximate="tanh")',
        'approximate="none" if self.i == 1 else "tanh")',
        "h.1.mlp.act",
        "h.1",
        "functional.gelu",
    ),
    "no final norm": ("        x = self.ln_f(x)\n", "", "ln_f", "", "functional.linear"),
    "scale of the width": (
        "math.sqrt(c // self.heads)",
        "math.sqrt(c)",
        "h.0.attn: ",
        "h.0.attn",
        "",
    ),
    "epsilon": (
        "self.ln_2 = nn.LayerNorm(width)",
        "self.ln_2 = nn.LayerNorm(width, eps=2e-5)",
        "h.0.ln_2",
        "h.0.ln_2",
        "",
    ),
    "positions from one": (
        "torch.arange(idx.shape[1])",
        "torch.arange(1, idx.shape[1] + 1)",
        "wpe",
        "wpe",
        "functional.embedding",
    ),
}
"""What is replaced, and then the reference's tensor, the module and the operation named."""

SIZES = {"vocab_size": 61, "n_positions": 19, "n_embd": 12, "n_layer": 3, "n_head": 3}
IDS = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config of a small GPT-2."""
    path = tmp_path_factory.mktemp("gpt2")
    GPT2Config(**SIZES, bos_token_id=0, eos_token_id=1).save_pretrained(path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Write the GPT-2 by hand, with a piece of its text replaced; return the file's name."""

    def write(old: str = "", new: str = "", text: str = GPT2) -> str:
        assert old == "" or text.count(old) == 1
        file = tmp_path / "my_gpt2.py"
        file.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        return str(file)

    return write


def text_of(report: Report) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=200))
    return stream.getvalue()


def test_a_right_gpt2_passes(folder: Path, written: Callable[..., str]) -> None:
    reference = load_reference(folder)
    candidate = build_as_given(written(), reference.config, reference.state_dict())
    before = {name: tensor.clone() for name, tensor in candidate.state_dict().items()}
    report = compare(candidate, reference, IDS)
    assert report.verdict == "pass"
    rows = {row.tap: row for row in report.results}
    assert {"transformer.h.2.ln_1", "transformer.h.1.mlp.act", "lm_head", "logits"} <= set(rows)
    assert rows["transformer.h.2.ln_1"].shape == (2, 11, 12)  # its output, no mean or deviation
    assert "called as   model(ids)" in text_of(report)
    assert "40 of 40 are the reference's" in text_of(report)
    for name, tensor in candidate.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_placed(fault: str, folder: Path, written: Callable[..., str]) -> None:
    old, new, tap, module, operation = FAULTS[fault]
    name = written(old, new)
    reference = load_reference(folder)
    candidate = build_as_given(name, reference.config, reference.state_dict())
    report = compare(candidate, reference, IDS)
    assert report.verdict == "fail"
    assert report.first_divergence is not None
    assert f"{report.first_divergence.tap} ".startswith(f"transformer.{tap}".rstrip() + " ") or (
        tap.endswith(": ") and report.first_divergence.tap.startswith(f"transformer.{tap}")
    )
    first = report.wrong[0]
    taps = [one.tap.split(",")[0] for one in report.wrong]
    assert taps[0] == report.first_divergence.tap
    assert first.place.startswith(module)
    assert "my_gpt2.py:" in first.place
    assert first.place.endswith(operation)
    assert {tap.split(".")[-1] for tap in taps} == {taps[0].split(".")[-1]}


def test_what_depends_on_no_parameter_is_not_compared(folder: Path) -> None:
    """Masks are made anew in every block; a candidate needs none of the same numbers."""
    reference = load_reference(folder).double()
    targets = {
        target.name: target for target in reference_targets(reference, Inputs(token_ids=IDS))
    }
    starts = [name for name, target in targets.items() if not target.inputs]
    assert starts == ["transformer.wte", "transformer.wpe"]
    assert targets["logits"].inputs == ("lm_head",)


class Bigram(nn.Module):
    """No Transformer, and none of transformers' models."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(61, 9)
        self.norm = nn.LayerNorm(9)
        self.head = nn.Linear(9, 61)
        self.factor = factor
        generator = torch.Generator().manual_seed(4)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.table(ids)) * self.factor)


def test_the_reference_may_be_any_module() -> None:
    assert compare(Bigram(), Bigram(), IDS).verdict == "pass"
    report = compare(Bigram(1.001), Bigram(), IDS)
    assert report.verdict == "fail"
    assert report.first_divergence is not None
    assert "test_compare.py:" in report.wrong[0].place


def test_a_reference_without_logits_is_inconclusive(folder: Path) -> None:
    with pytest.raises(InconclusiveError, match="the reference returns no logits") as caught:
        compare(Bigram(), GPT2Model(GPT2Config.from_pretrained(folder)), IDS)
    assert "GPT2Model" in caught.value.where


class Short(Bigram):
    """It raises on more than seven tokens."""

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > 7:
            raise IndexError("no more positions")
        return super().forward(ids)


def test_a_candidate_that_raises_on_more_tokens_is_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match="IndexError: no more positions") as caught:
        compare(Short(), Bigram(), IDS)
    assert "test_compare.py:" in caught.value.where


# The option --reference.

LAYERWISE = ("layerwise", "--seq-len", "11", "--batch-size", "2")


def test_a_gpt2_passes_through_the_command(
    folder: Path, written: Callable[..., str], check: Check
) -> None:
    result = check(*LAYERWISE, "--candidate", written(), "--reference", str(folder))
    assert result.exit_code == 0
    assert "compared with one reference, no oracle" in " ".join(result.stdout.split())
    assert "drawn from a fixed seed" in result.stdout


def test_a_wrong_gpt2_fails_through_the_command(
    folder: Path, written: Callable[..., str], check: Check
) -> None:
    old, new, *_ = FAULTS["erf GELU"]
    file = str(folder / "config.json")
    arguments = ("--candidate", written(old, new), "--reference", file, "--format", "json")
    result = check(*LAYERWISE, *arguments)
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["first_divergence"]["tap"] == "transformer.h.1.mlp.act"
    assert found["inputs"]["reference"] == file
    assert found["inputs"]["candidate_file"].startswith("sha256 ")


def test_weights_in_the_folder_are_used(
    folder: Path, written: Callable[..., str], check: Check, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    torch.manual_seed(5)
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(folder))
    model.half().save_pretrained(saved)
    loaded = load_reference(saved)
    assert next(loaded.parameters()).dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.float())
    result = check(*LAYERWISE, "--candidate", written(), "--reference", str(saved))
    assert result.exit_code == 0
    assert f"those in {saved}" in "".join(result.stdout.splitlines())
    whole = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert source_of(saved) == {"source": f"those in {saved}", "sha256": whole}


def test_the_digest_is_of_every_file_of_weights(tmp_path: Path) -> None:
    for name, content in (("b.safetensors", b"1"), ("a.safetensors", b"2"), ("config.json", b"3")):
        (tmp_path / name).write_bytes(content)
    both = source_of(tmp_path)["sha256"]
    (tmp_path / "config.json").write_bytes(b"4")
    assert source_of(tmp_path)["sha256"] == both
    (tmp_path / "a.safetensors").write_bytes(b"1")
    assert source_of(tmp_path)["sha256"] != both


def test_a_parameter_that_no_file_has_is_not_drawn(folder: Path, tmp_path: Path) -> None:
    """Every run would compare with other numbers."""
    saved = tmp_path / "saved"
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(folder))
    model.save_pretrained(saved)
    tensors = load_file(saved / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputRejectedError, match=r"1 parameters .*: transformer\.h\.1\.mlp\.c_fc"):
        load_reference(saved)


def test_no_foreign_pickle_is_read_by_an_older_torch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could run code: the file here would leave a mark."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return mark.touch, ()

    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save({"transformer.wte.weight": Evil()}, saved / "pytorch_model.bin")
    with pytest.raises(InputRejectedError):
        load_reference(saved)
    monkeypatch.setattr(compare_module, "unpickles_safely", lambda: False)
    with pytest.raises(InputRejectedError, match=r"files of torch\.save are not read with torch"):
        load_reference(saved)
    assert not mark.exists()


def test_drawn_weights_show_every_parameter(folder: Path) -> None:
    state = torch.random.get_rng_state()
    first, second = load_reference(folder), load_reference(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, parameter), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, other), name
        assert float(parameter.detach().std()) > 0.05, name


CONFIGS = {
    "no JSON": ("{", 4),
    "no object": ("[1]", 4),
    "empty": ("", 4),
    "no architecture": ('{"n_embd": 12}', 4),
    "an unknown architecture": ('{"model_type": "gpt7"}', 4),
    "no language model": ('{"model_type": "vit"}', 4),
    "a size that is none": ('{"model_type": "gpt2", "n_embd": -3}', 4),
    "heads that do not divide": ('{"model_type": "gpt2", "n_embd": 13, "n_head": 4}', 4),
    "text for a size": ('{"model_type": "gpt2", "n_layer": "many"}', 4),
    "code of its own": (
        '{"model_type": "x", "auto_map": {"AutoConfig": "code.C"}}',
        4,
    ),
    "too large": ('{"model_type": "gpt2", "n_embd": 1200000, "n_layer": 2}', 5),
    "a GPT-1": ('{"model_type": "openai-gpt"}', 2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_makes_no_reference_is_rejected(
    name: str, written: Callable[..., str], check: Check, tmp_path: Path
) -> None:
    text, code = CONFIGS[name]
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    result = check(*LAYERWISE, "--candidate", written(), "--reference", str(tmp_path))
    assert result.exit_code == code, result.stderr
    assert "--reference" in result.stderr
    assert "Traceback" not in result.stderr


def test_broken_weights_are_rejected(
    folder: Path, written: Callable[..., str], check: Check, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    result = check(*LAYERWISE, "--candidate", written(), "--reference", str(tmp_path))
    assert result.exit_code == 4


USAGE = {
    "no candidate": ([], ["--reference", "{folder}"], "there is none"),
    "no file": (["--candidate"], ["--reference", "nowhere"], "no such file or folder"),
    "weights of GPT-1": (
        ["--candidate"],
        ["--reference", "{folder}", "--weights", "tiny"],
        "--weights with",
    ),
    "another dtype": (
        ["--candidate"],
        ["--reference", "{folder}", "--dtype", "bfloat16"],
        "--dtype with",
    ),
    "a mapping": (["--candidate"], ["--reference", "{folder}", "--map", "{folder}"], "--map with"),
    "a fault": (
        ["--candidate"],
        ["--reference", "{folder}", "--inject-fault", "erf-gelu"],
        "--inject-fault with",
    ),
    "unequal rows": (
        ["--candidate"],
        ["--reference", "{folder}", "--token-ids", "1,2;3"],
        "unequal lengths",
    ),
    "an id too large": (["--candidate"], ["--reference", "{folder}", "--token-ids", "61"], "0 to"),
}


@pytest.mark.parametrize("name", USAGE)
def test_options_that_do_not_fit_are_usage_errors(
    name: str, folder: Path, written: Callable[..., str], check: Check
) -> None:
    first, given, words = USAGE[name]
    first = [*first, written()] if first else []
    result = check("layerwise", *first, *(one.format(folder=folder) for one in given))
    assert result.exit_code == 2, result.stderr
    assert words in " ".join(result.stderr.split())


CANDIDATES = {
    "no function": ("x = 1\n", 2),
    "a class": ("import torch\nclass GPT(torch.nn.Module):\n    pass\n", 2),
    "it raises": ("def build(config, weights):\n    return weights['nothing']\n", 4),
    "no module": ("def build(config, weights):\n    return 3\n", 4),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_that_is_none_is_rejected(
    name: str, folder: Path, written: Callable[..., str], check: Check
) -> None:
    text, code = CANDIDATES[name]
    file = written(text=text)
    result = check(*LAYERWISE, "--candidate", file, "--reference", str(folder))
    assert result.exit_code == code, result.stderr
    assert "my_gpt2.py" in result.stderr
