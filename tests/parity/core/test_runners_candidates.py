"""Somebody's model, named on the command line: how it is found, built, judged and refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parity.checkpoints.weights import Weights
from parity.core.runners import build_candidate
from parity.errors import InputRejectedError, ParityError, UsageError

Check = Callable[..., Any]

TINY = ("layerwise", "--weights", "tiny", "--seq-len", "5", "--dtype", "float64")

RIGHT = """
from scratch_gpt import GPT

def build(config, weights):
    model = GPT(config)
    model.load_state_dict(weights)
    return model
"""
"""A right model: ours, as somebody else would hand it in."""

WRONG = RIGHT.replace("return model", "model.h[2].ln_1.epsilon = 1e-4\n    return model")


@pytest.fixture
def somebodys(tmp_path: Path) -> Callable[..., str]:
    """Return the function that writes a candidate's file and returns its name."""

    def write(text: str, name: str = "somebodys.py") -> str:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


Somebodys = Callable[..., str]


def test_a_right_candidate_passes(check: Check, somebodys: Somebodys) -> None:
    """A right model of somebody else's passes, all its taps compared."""
    result = check(*TINY, "--candidate", somebodys(RIGHT))
    last = result.stdout.splitlines()[-1]
    expected = (0, "PASS  173 of 173")
    assert expected == (result.exit_code, last[:16])


def test_a_wrong_candidate_fails_where_it_is_wrong(check: Check, somebodys: Somebodys) -> None:
    """A wrong model of somebody else's fails at the operation that is wrong."""
    result = check(*TINY, "--candidate", somebodys(WRONG))
    expected = (1, "h.2.ln_1")
    assert expected == (result.exit_code, result.stdout.split()[-1])


def test_the_example_is_found_out(check: Check, example: Path) -> None:
    """The example's one bug is found at the operation that it is in."""
    result = check(*TINY, "--candidate", str(example))
    expected = (1, "h.0.mlp.gelu")
    assert expected == (result.exit_code, result.stdout.split()[-1])


def test_the_example_has_no_other_bug(check: Check, example: Path, somebodys: Somebodys) -> None:
    """With the correction that it names at its end, the example passes, padding included."""
    text = example.read_text(encoding="utf-8")
    mended = text.replace("functional.gelu(inner)", 'functional.gelu(inner, approximate="tanh")')
    ids = ["--token-ids", "5,210,0,17,3;12,7"]
    result = check(*TINY, *ids, "--candidate", somebodys(mended))
    expected = (0, True)
    assert expected == (result.exit_code, mended != text)


@pytest.fixture
def example() -> Path:
    """Return the example that stands beside the tests."""
    return Path(__file__).parents[3] / "examples" / "broken_gpt.py"


def test_a_module_is_imported_by_name(
    somebodys: Somebodys, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MODULE:NAME names any function of any module that Python can import."""
    somebodys(RIGHT.replace("def build", "def make"), "somebodys_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    model = build_candidate("somebodys_module:make", weights)
    expected = ("GPT", False)
    assert expected == (type(model).__name__, model.training)


def test_a_module_beside_the_file_can_be_imported(
    check: Check, somebodys: Somebodys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may import what lies beside it, and the search path is as it was afterwards."""
    before = list(sys.path)
    somebodys(WRONG, "somebodys_neighbour.py")
    name = somebodys("from somebodys_neighbour import build")
    result = check(*TINY, "--candidate", name)
    monkeypatch.delitem(sys.modules, "somebodys_neighbour")
    expected = (1, before)
    assert expected == (result.exit_code, sys.path)


def test_a_relative_name_is_of_the_working_folder(
    somebodys: Somebodys, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative FILE.py is looked for in the working folder."""
    somebodys(RIGHT, "mine.py")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_candidate("mine.py", weights), nn.Module)


def test_the_tensors_are_the_candidates_own(somebodys: Somebodys, weights: Weights) -> None:
    """What a candidate writes into the tensors that it is given reaches nobody else."""
    text = RIGHT.replace("return model", "weights['h.0.ln_1.bias'].zero_()\n    return model")
    build_candidate(somebodys(text), weights)
    assert torch.from_numpy(weights.tensors["h.0.ln_1.bias"]).all()


def test_a_candidate_that_forgets_to_return_itself_is_kept(
    somebodys: Somebodys, weights: Weights
) -> None:
    """A model whose own `eval` returns nothing is a model all the same."""
    text = RIGHT.replace("return model", "model.eval = lambda: None\n    return model")
    assert isinstance(build_candidate(somebodys(text), weights), nn.Module)


REFUSED = {
    "raises": ("def build(config, weights):\n    raise ValueError('my words')", "my words"),
    "takes nothing": ("def build(): pass", "TypeError"),
    "returns no module": ("def build(config, weights):\n    return 3", "int"),
    "returns nothing": ("def build(config, weights): pass", "NoneType"),
    "exits as if all were well": ("import sys\nsys.exit(0)", "SystemExit"),
    "exits in the function": (
        "def build(config, weights):\n    raise SystemExit(0)",
        "SystemExit",
    ),
    "does not parse": ("def build(config, weights:", "SyntaxError"),
    "fails while it is run": ("1 / 0", "ZeroDivisionError"),
    "needs what is not installed": ("import no_such_package", "no_such_package"),
    "misses a weight": (
        RIGHT.replace("model.load", "del weights['h.1.ln_2.bias']\n    model.load"),
        "h.1.ln_2.bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_candidate_that_cannot_be_built_is_refused(
    case: str, somebodys: Somebodys, weights: Weights
) -> None:
    """Whatever a candidate does instead of returning a model is a refusal with its words."""
    text, words = REFUSED[case]
    name = somebodys(text)
    with pytest.raises(InputRejectedError, match=words) as refused:
        build_candidate(name, weights)
    assert f"--candidate {name}" in refused.value.where


def test_a_refusal_says_the_line(somebodys: Somebodys, weights: Weights) -> None:
    """An exception in somebody's file is placed by its line there."""
    name = somebodys("\n\ndef build(config, weights):\n    return config.no_such_field\n")
    with pytest.raises(InputRejectedError) as refused:
        build_candidate(name, weights)
    expected = f"--candidate {name}, line 4"
    assert expected == refused.value.where


def test_a_refusal_is_code_4(check: Check, somebodys: Somebodys) -> None:
    """On the command line a candidate that exits with 0 is not a pass."""
    result = check(*TINY, "--candidate", somebodys("raise SystemExit(0)"))
    expected = (4, "", 3)
    assert expected == (result.exit_code, result.stdout, len(result.stderr.splitlines()))


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
    """What names no function is a usage error that says how to name one."""
    with pytest.raises(UsageError, match=r"^no candidate there") as refused:
        build_candidate(ABSENT[case], weights)
    assert "FILE.py" in refused.value.fix


@pytest.mark.parametrize("text", ["", "build = 3"], ids=["none", "no function"])
def test_a_file_without_build_is_a_usage_error(
    text: str, somebodys: Somebodys, weights: Weights
) -> None:
    """A file that has no function `build` is told so."""
    with pytest.raises(UsageError, match="build is no function"):
        build_candidate(somebodys(text), weights)


def test_a_module_that_lacks_something_is_refused(
    somebodys: Somebodys, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is there and cannot import its own needs is no missing candidate."""
    somebodys("import no_such_package", "somebodys_needy.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputRejectedError, match="no_such_package"):
        build_candidate("somebodys_needy:build", weights)


def test_no_fault_is_planted_into_a_candidate(check: Check, somebodys: Somebodys) -> None:
    """--inject-fault is for our model: with --candidate it is a usage error."""
    result = check(*TINY, "--candidate", somebodys(RIGHT), "--inject-fault", "erf-gelu")
    expected = (2, True)
    assert expected == (result.exit_code, "--inject-fault with --candidate" in result.stderr)


def test_what_a_candidate_prints_is_no_report(
    check: Check, somebodys: Somebodys, strictly: Callable[[str], Any]
) -> None:
    """A candidate may print while it is loaded: standard output is still one JSON document."""
    text = "print('loading')\n" + RIGHT.replace("return model", "print('built')\n    return model")
    result = check(*TINY, "--format", "json", "--candidate", somebodys(text))
    expected = ("pass", ["loading", "built"])
    assert expected == (strictly(result.stdout)["verdict"], result.stderr.splitlines())


def test_an_interrupt_is_not_a_refusal(somebodys: Somebodys, weights: Weights) -> None:
    """Ctrl-C while a candidate is built is Ctrl-C, not the candidate's fault."""
    name = somebodys("def build(config, weights):\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        build_candidate(name, weights)
    assert not issubclass(KeyboardInterrupt, ParityError)
