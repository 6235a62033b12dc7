"""`gradients` on the command line, end to end on the tiny weights: verdicts and errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.faults.backward import BACKWARD_FAULTS
from parity.faults.forward import FORWARD_FAULTS

Check = Callable[..., Any]
Strictly = Callable[[str], Any]

TINY = ("gradients", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
"""The fastest check: one backend, float64 only. `--seq-len` must be added."""


def test_right_models_pass(check: Check, strictly: Strictly, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = check("gradients", "--weights", "tiny", "--seq-len", "37", "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    assert result.exit_code == 0
    assert found["check"] == "gradients"
    assert found["verdict"] == "pass"
    assert found["plan"]["per_backend"] == {"plain": [333, 333], "fused": [285, 285]}
    assert found["first_divergence"] is None
    assert found["reasons"] == []
    last = " ".join(result.stdout.split("\n\n")[-1].split())
    assert last == ("PASS 333 of 333 gradients on plain, 285 of 285 gradients on fused compared")


def test_rows_have_the_keys_of_every_report(check: Check, strictly: Strictly) -> None:
    result = check(*TINY, "--seq-len", "5", "--format", "json")
    rows = strictly(result.stdout)["results"]
    keys = [tuple(row[k] for k in ("tap", "backend", "dtype", "mode", "against")) for row in rows]
    assert len(keys) == len(set(keys)) == 333
    assert ("h.3.ln_1.weight", "plain", "float64", "float64", "huggingface") in keys


@pytest.mark.parametrize(
    ("fault", "tap", "look_for"),
    [
        ("norm-without-mean@3", "h.3.ln_1.input", "the term that subtracts the gradient's mean"),
        ("head-detached", "tokens_embed.weight", "only one of its two paths"),
        ("delta-missing@0", "h.0.attn.scores", "(delta)"),
        ("loss-not-divided", "logits", "not divided by the number of targets"),
        ("doubled", "h.6.mlp.c_proj.weight", "the product of the operation's input"),
    ],
)
def test_a_backward_fault_is_found_where_it_is(  # noqa: PLR0913 - a case, and what is asked
    fault: str, tap: str, look_for: str, check: Check, strictly: Strictly, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    result = check(*TINY, "--seq-len", "5", "--inject-fault", fault, "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    text = " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert found["verdict"] == "fail"
    assert found["first_divergence"]["tap"] == tap
    assert text.split()[-1] == tap
    assert look_for in found["first_divergence"]["suspects"]
    assert look_for in text
    assert fault == found["inputs"]["inject_fault"]


def test_a_forward_fault_is_recognized(check: Check) -> None:
    result = check(*TINY, "--seq-len", "5", "--inject-fault", "erf-gelu@3")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "the loss itself differs" in text
    assert "layerwise" in text


def test_an_unknown_fault_lists_both_tables(check: Check) -> None:
    result = check(*TINY, "--seq-len", "5", "--inject-fault", "nonsense")
    assert result.exit_code == 2
    assert all(f"{name} (" in result.stderr for name in (*FORWARD_FAULTS, *BACKWARD_FAULTS))


def test_layerwise_has_no_backward_faults(check: Check) -> None:
    """It could not find them, and would pass with a fault injected."""
    result = check("layerwise", "--weights", "tiny", "--seq-len", "5", "--inject-fault", "doubled")
    assert (result.exit_code, "no fault is called 'doubled'" in result.stderr) == (2, True)


def test_a_fault_that_a_backend_cannot_have_is_rejected(check: Check) -> None:
    arguments = ("gradients", "--weights", "tiny", "--seq-len", "5", "--backend", "fused")
    result = check(*arguments, "--inject-fault", "doubled")
    assert (result.exit_code, "the backend fused does not form" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seq-len", "1"), "no next token is predicted"),
        (("--seq-len", "5", "--taps", "nothing.*"), "no tap was selected"),
        (("--token-ids", "7;9"), "no next token is predicted"),
    ],
)
def test_nothing_compared_is_no_pass(check: Check, arguments: tuple[str, ...], said: str) -> None:
    result = check(*TINY, *arguments)
    text = " ".join(result.stdout.split())
    assert (result.exit_code, said in text, "INCONCLUSIVE" in text) == (3, True, True)


def test_taps_select_parameters_too(check: Check, strictly: Strictly) -> None:
    result = check(*TINY, "--seq-len", "5", "--taps", "h.3.ln_?.*", "--format", "json")
    found = strictly(result.stdout)
    names = [f"h.3.ln_{n}.{part}" for n in (2, 1) for part in ("weight", "bias", "input")]
    assert (0, names) == (result.exit_code, [row["tap"] for row in found["results"]])


@pytest.mark.parametrize("backend", ["plain", "tiled", "fused"])
def test_padding_passes_on_every_backend(check: Check, backend: str) -> None:
    ids = ("--token-ids", "5,9,210,5,0;7,1,1", "--backend", backend)
    result = check("gradients", "--weights", "tiny", "--dtype", "float64", *ids)
    assert result.exit_code == 0, result.stdout


CANDIDATE = """
import torch
from scratch_gpt import GPT

class Renamed(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given, tap):
        return self.inner(*given, tap=tap)

class Detached(GPT):
    def forward(self, *given, tap):
        return super().forward(*given, tap=tap).detach()

def build(config, weights):
    model = {kind}(config)
    model.load_state_dict(weights)
    return {made}
"""


@pytest.fixture
def candidate_file(tmp_path: Path) -> Callable[..., str]:
    def write(made: str, kind: str = "GPT") -> str:
        file = tmp_path / "candidate_file.py"
        text = CANDIDATE.replace("{made}", made).replace("{kind}", kind)
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


def test_a_right_candidate_passes(check: Check, candidate_file: Callable[..., str]) -> None:
    result = check(*TINY, "--seq-len", "5", "--candidate", candidate_file("model"))
    last = result.stdout.splitlines()[-1]
    assert (result.exit_code, last[:16]) == (0, "PASS  333 of 333")


def test_other_names_are_no_pass(check: Check, candidate_file: Callable[..., str]) -> None:
    result = check(*TINY, "--seq-len", "5", "--candidate", candidate_file("Renamed(model)"))
    text = " ".join(result.stdout.split())
    assert result.exit_code == 3
    assert "146 parameters' gradients were not compared, only those of taps" in text
    assert "it has inner.tokens_embed.weight" in text
    assert "INCONCLUSIVE 172 of 333" in text


def test_a_candidate_without_gradients_fails(
    check: Check, candidate_file: Callable[..., str]
) -> None:
    result = check(*TINY, "--seq-len", "5", "--candidate", candidate_file("model", "Detached"))
    text = " ".join(result.stdout.split())
    assert (result.exit_code, "raised RuntimeError" in text, "not_run" in text) == (1, True, True)
