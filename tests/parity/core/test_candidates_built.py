"""`--candidate`: how a model is found, built, compared and rejected."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parity.checkpoints.weights import Weights
from parity.core.candidates import build_candidate
from parity.errors import InputRejectedError, UsageError

Check = Callable[..., Any]

TINY = ("layerwise", "--weights", "tiny", "--seq-len", "5", "--dtype", "float64")

WRONG = "model.h[2].ln_1.epsilon = 1e-4\n    return model"
"""A last line of our candidate."""
EXAMPLES = Path(__file__).parents[3] / "examples"
BROKEN = (EXAMPLES / "broken_gpt.py").read_text(encoding="utf-8")


Candidate = Callable[..., str]


def test_a_right_candidate_passes(
    check: Check, candidate: Candidate, tap_counts: dict[str, int]
) -> None:
    result = check(*TINY, "--candidate", candidate())
    count = tap_counts["plain"]
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith(f"PASS  {count} of {count}")


def test_a_wrong_candidate_fails_where_it_is_wrong(check: Check, candidate: Candidate) -> None:
    result = check(*TINY, "--candidate", candidate(last=WRONG))
    assert (result.exit_code, result.stdout.split()[-1]) == (1, "h.2.ln_1")


def test_the_textbook_passes(check: Check, tap_counts: dict[str, int]) -> None:
    result = check(*TINY, "--candidate", EXAMPLES / "textbook_gpt.py")
    count = tap_counts["plain"]
    last = result.stdout.splitlines()[-1]
    assert (result.exit_code, last) == (0, f"PASS  {count} of {count} taps on candidate compared")
    assert f"rests on      {count} taps, the logits among them" in result.stdout


def test_the_bug_of_the_example_is_named(check: Check) -> None:
    """The report has the operation with its line, every block that has it, and the fix."""
    file = EXAMPLES / "broken_gpt.py"
    line = BROKEN[: BROKEN.index("nn.functional.gelu(self.widen(x))")].count("\n") + 1
    result = check(*TINY, "--candidate", file, "--format", "json")
    report = json.loads(result.stdout)
    (wrong,) = report["wrong"]
    assert (result.exit_code, report["first_divergence"]["tap"]) == (1, "h.0.mlp.gelu")
    assert wrong["place"].startswith("layers.0.feed_forward, ")
    assert wrong["place"].endswith(f"broken_gpt.py:{line}, functional.gelu")
    assert wrong["tap"] == "h.0.mlp.gelu, and in blocks 1 to 11"
    assert wrong["diagnosis"].startswith(
        "the erf form of GELU; GPT-1 has the tanh form of GELU (with this mistake the numbers "
    )
    assert wrong["fix"] == 'functional.gelu(x, approximate="tanh")'


RIGHT = BROKEN.replace("(self.widen(x))", '(self.widen(x), approximate="tanh")')
MASKED = (
    RIGHT.replace("tokens: Tensor)", "tokens: Tensor, attention_mask: Tensor | None = None)")
    .replace("        places =", "        SelfAttention.mask = attention_mask\n        places =")
    .replace(
        "        y =",
        "        if self.mask is not None:\n            scores = "
        "scores.masked_fill(~self.mask[:, None, None], -math.inf)\n        y =",
    )
)


def test_the_example_has_no_other_bug(check: Check, candidate: Candidate) -> None:
    """With the correction that it names at its end it passes."""
    assert check(*TINY, "--candidate", candidate(RIGHT)).exit_code == 0


def test_padding_is_compared_at_the_logits(check: Check, candidate: Candidate) -> None:
    """A candidate without a mask is not compared."""
    words = ("layerwise", "--weights", "tiny", "--dtype", "float64")
    ids = [*words, "--token-ids", "5,210,0,17,3;12,7"]
    result = check(*ids, "--candidate", candidate(RIGHT))
    assert result.exit_code == 3
    assert "the inputs have mask, and the candidate takes none" in result.stdout
    result = check(*ids, "--candidate", candidate(MASKED))
    assert result.stdout.splitlines()[-1] == "PASS  2 of 2 taps on candidate compared"


def test_a_module_is_imported_by_name(
    candidate: Candidate, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate(name="candidate_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    model = build_candidate("candidate_module:build", weights)
    assert (type(model).__name__, model.training) == ("GPT", False)


def test_a_class_that_takes_no_weights_gets_them(
    check: Check, candidate: Candidate, tmp_path: Path, tap_counts: dict[str, int]
) -> None:
    """Ours, which is found in a module and in a file; a wrong line of a mapping shows."""
    result = check(*TINY, "--candidate", "scratch_gpt:GPT")
    count = tap_counts["plain"]
    assert result.stdout.splitlines()[-1].startswith(f"PASS  {count} of {count}")
    file = tmp_path / "map.txt"
    file.write_text("h.2.ln_1.bias = h.2.ln_2.bias  # wrong", encoding="utf-8")
    name = candidate("from scratch_gpt import GPT as Mine")
    result = check(*TINY, "--candidate", f"{name}:Mine", "--map", file)
    assert (result.exit_code, result.stdout.split()[-1]) == (1, "h.2.ln_1")


def test_a_module_beside_the_file_can_be_imported(
    check: Check, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    candidate(name="candidate_neighbor.py", last=WRONG)
    result = check(*TINY, "--candidate", candidate("from candidate_neighbor import build"))
    monkeypatch.delitem(sys.modules, "candidate_neighbor")
    assert (result.exit_code, sys.path) == (1, before)


def test_a_relative_name_is_of_the_working_folder(
    candidate: Candidate, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate(name="mine.py")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_candidate("mine.py", weights), nn.Module)


def test_the_tensors_are_the_candidates_own(candidate: Candidate, weights: Weights) -> None:
    last = "weights['h.0.ln_1.bias'].zero_()\n    return model"
    build_candidate(candidate(last=last), weights)
    assert torch.from_numpy(weights.tensors["h.0.ln_1.bias"]).all()


def test_a_model_whose_eval_returns_nothing_is_kept(candidate: Candidate, weights: Weights) -> None:
    last = "model.eval = lambda: None\n    return model"
    assert isinstance(build_candidate(candidate(last=last), weights), nn.Module)


INCOMPLETE = """
from scratch_gpt import GPT

def build(config, weights):
    del weights["h.1.ln_2.bias"]
    GPT(config).load_state_dict(weights)
"""
REFUSED = {
    "raises": ("def build(config, weights):\n    raise ValueError('my words')", "my words"),
    "takes nothing and returns nothing": ("def build(): pass", "NoneType"),
    "returns no module": ("def build(config, weights):\n    return 3", "int"),
    "returns nothing": ("def build(config, weights): pass", "NoneType"),
    "exits as if all were well": ("import sys\nsys.exit(0)", "SystemExit"),
    "exits in the function": ("def build(c, w):\n    raise SystemExit(0)", "SystemExit"),
    "does not parse": ("def build(config, weights:", "SyntaxError"),
    "fails while it is run": ("1 / 0", "ZeroDivisionError"),
    "needs what is not installed": ("import no_such_package", "no_such_package"),
    "misses a weight": (INCOMPLETE, "h.1.ln_2.bias"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_candidate_that_cannot_be_built_is_refused(
    case: str, candidate: Candidate, weights: Weights
) -> None:
    text, words = REFUSED[case]
    name = candidate(text)
    with pytest.raises(InputRejectedError, match=words) as refused:
        build_candidate(name, weights)
    assert f"--candidate {name}" in refused.value.where
    if case == "raises":
        assert refused.value.where == f"--candidate {name}, {name}:2"


def test_a_refusal_is_code_4(check: Check, candidate: Candidate) -> None:
    result = check(*TINY, "--candidate", candidate("raise SystemExit(0)"))
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (4, "", 3)


ABSENT = {
    "no file": "no_such_file.py",
    "a folder": ".",
    "no module": "no_such_module:build",
    "no module in a package": "parity.no_such_module:build",
    "no name in a module": "json:no_such_name",
    "no function": "json:__name__",
    "a module and no name": "json",
    "nothing": "",
    "a name and no module": ":build",
    "a relative module": ".json:build",
}


@pytest.mark.parametrize("case", ABSENT)
def test_a_candidate_that_is_not_there_is_a_usage_error(case: str, weights: Weights) -> None:
    with pytest.raises(UsageError, match=r"^no candidate there") as refused:
        build_candidate(ABSENT[case], weights)
    assert "FILE.py" in refused.value.fix


@pytest.mark.parametrize("text", ["", "build = 3"], ids=["none", "no function"])
def test_a_file_without_build_is_a_usage_error(
    text: str, candidate: Candidate, weights: Weights
) -> None:
    with pytest.raises(UsageError, match="build is no function"):
        build_candidate(candidate(text), weights)


def test_a_module_that_lacks_something_is_refused(
    candidate: Candidate, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate("import no_such_package", "candidate_needy.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputRejectedError, match="no_such_package"):
        build_candidate("candidate_needy:build", weights)


def test_no_fault_is_injected_into_a_candidate(check: Check, candidate: Candidate) -> None:
    result = check(*TINY, "--candidate", candidate(), "--inject-fault", "erf-gelu")
    assert (result.exit_code, "--inject-fault with --candidate" in result.stderr) == (2, True)


def test_what_a_candidate_prints_is_not_in_the_report(
    check: Check, candidate: Candidate, strictly: Callable[[str], Any]
) -> None:
    name = candidate(last="print('built')\n    return model")
    result = check(*TINY, "--format", "json", "--candidate", name)
    assert strictly(result.stdout)["verdict"] == "pass"
    assert set(result.stderr.splitlines()) == {"built"}


def test_an_interrupt_is_not_a_refusal(candidate: Candidate, weights: Weights) -> None:
    name = candidate("def build(config, weights):\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        build_candidate(name, weights)
