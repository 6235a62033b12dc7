"""Wrong values are rejected before torch is imported, with the value that was meant."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel
from typer.testing import CliRunner

from parity import check, convert, known_faults, options, validation
from parity.check import VERBS
from parity.checkpoints import names
from parity.checkpoints.huggingface_files import READERS
from parity.checks.gradients.slope import Slopes
from parity.core.inputs import Inputs
from parity.core.taps import taps
from parity.errors import UsageError
from parity.faults.registry import Fault, faults_of
from reference import surrogate
from scratch_gpt import generate, train
from scratch_gpt.data import __main__ as data
from scratch_gpt.options import similar_paths

pytestmark = pytest.mark.once

WRONG = {
    "a fault": ("layerwise --inject-fault erf-gleu", "did you mean erf-gelu?"),
    "a fault with a block": ("layerwise --inject-fault erf-gleu@3", "did you mean erf-gelu?"),
    "a block of a fault": ("layerwise --inject-fault erf-gelu@last", "from 0 on"),
    "a fault of gradients": ("gradients --inject-fault head-detatched", "mean head-detached"),
    "a fault of a tokenizer": ("tokens --inject-fault case-kep", "mean case-kept"),
    "a fault of training": ("training --inject-fault bata1", "beta1"),
    "a block that training lacks": ("training --inject-fault beta1@3", "use beta1"),
    "a fault of generation": ("generation --inject-fault key-overwriten", "key-overwritten?"),
    "a tap to explain": ("layerwise --explain h.3.mlp.gleu", "did you mean h.3.mlp.gelu?"),
    "a kind to explain": ("layerwise --explain gelu", "did you mean h.0.mlp.gelu?"),
    "taps": ("layerwise --taps h.*.mlp.gleu", "did you mean h.*.mlp.gelu?"),
    "taps without a block": ("layerwise --taps mlp.gelu", "did you mean h.*.mlp.gelu?"),
    "a block alone": ("layerwise --taps h.3", "did you mean h.3.*?"),
    "a block of gradients": ("gradients --taps h.13", "did you mean h.13.*?"),
    "a block of quantities": ("training --taps h.3", "did you mean *.h.3.*?"),
    "a gradient": ("gradients --taps h.3.ln_1.wieght", "did you mean h.3.ln_1.weight?"),
    "a quantity": ("training --taps adamw.2.wieght.*", "did you mean adamw.2.weight.*?"),
    "a step": ("training --taps adamw.7.weight.*", "did you mean adamw.*.weight.*?"),
    "weights": ("weights --weights surogate", "did you mean surrogate?"),
    "a folder": ("doctor --weights ./chekpoint", "did you mean checkpoint?"),
    "a file": ("layerwise --weights checkpoint/modle.safetensors", "checkpoint/model.safetensors?"),
    "a file by its name": ("golden --weights checkpont", "did you mean checkpoint?"),
    "a candidate": ("layerwise --candidate my_gtp.py", "did you mean my_gpt.py?"),
    "a candidate's name": ("gradients --candidate my_gtp.py:Model", "did you mean my_gpt.py?"),
    "a kernel of gradients": ("gradients --kernel my_gtp.py:attention", "did you mean my_gpt.py?"),
    "no suffix": ("training --candidate my_gpt", "did you mean my_gpt.py?"),
    "a kernel": ("layerwise --kernel my_gtp.py:fast", "did you mean my_gpt.py?"),
    "a map": ("layerwise --candidate my_gpt.py --map my_map.text", "did you mean my_map.txt?"),
    "a reference": ("layerwise --candidate my_gpt.py --reference chekpoint", "checkpoint?"),
    "activations": ("layerwise --activations my_map.text", "did you mean my_map.txt?"),
    "a vocabulary": ("tokens --weights tiny --vocabulary chekpoint", "did you mean checkpoint?"),
    "a corpus": ("tokens --weights tiny --corpus my_map.text", "did you mean my_map.txt?"),
    "a call": ("layerwise --candidate my_gpt.py --call model(ids", "model(ids, cache=None)[0]"),
}


LISTED = [name for name, verb in VERBS.items() if verb.faults]

WITHOUT_TORCH = """
import json, sys
from typer.testing import CliRunner
from parity.check import app

for line in sys.stdin:
    ran = CliRunner().invoke(app, line.split())
    print(json.dumps([ran.exit_code, ran.stdout, ran.stderr]))
"""

Ran = tuple[int, str, str]


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Return exit code and output of a command in a process where importing torch is an error."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "checkpoint").mkdir()
    for name in ("my_gpt.py", "my_map.txt", "checkpoint/model.safetensors"):
        (folder / name).touch()
    fake = tmp_path_factory.mktemp("fake")
    error = "raise RuntimeError('torch was imported')"
    (fake / "torch.py").write_text(error, encoding="utf-8")
    commands = [
        *(arguments for arguments, _ in WRONG.values()),
        *(f"{verb} --inject-fault list" for verb in LISTED),
        "weights --weights tiny",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input="\n".join(commands),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(fake)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(zip(commands, map(json.loads, ran.stdout.splitlines()), strict=True))
    return lambda arguments: tuple(found[arguments])


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_value_is_rejected_before_torch(
    mistake: str, without_torch: Callable[[str], Ran]
) -> None:
    arguments, meant = WRONG[mistake]
    code, printed, error = without_torch(arguments)
    assert (code, printed) == (2, ""), error
    what, where, fix = error.splitlines()
    assert what.startswith("error: ")
    assert arguments.rpartition(" --")[2].split()[0] in where
    assert meant in fix


@pytest.mark.parametrize("verb", LISTED)
def test_faults_are_listed_without_torch(verb: str, without_torch: Callable[[str], Ran]) -> None:
    code, printed, error = without_torch(f"{verb} --inject-fault list")
    assert (code, error) == (0, "")
    assert len(printed.splitlines()) > 5


def test_torch_is_not_there(without_torch: Callable[[str], Ran]) -> None:
    assert "torch was imported" in without_torch("weights --weights tiny")[2]


def test_the_file_of_faults_is_current_and_complete() -> None:
    """Otherwise run `python -m parity.known_faults`."""
    file = Path(known_faults.__file__).with_name("faults") / "faults.json"
    assert file.read_text(encoding="utf-8") == known_faults.render()
    names_in_file = {
        fault["name"] for kind in json.loads(known_faults.render()).values() for fault in kind
    }
    assert names_in_file == set(faults_of(Fault))
    assert {kind for verb in VERBS.values() for kind in verb.faults} == set(
        known_faults.known_faults()
    )


def test_every_fault_has_its_words() -> None:
    for fault in known_faults.known_faults()["forward"]:
        registered = faults_of(Fault)[fault["name"]]
        assert {name: getattr(registered, name) for name in fault} == fault
        assert {"name", "what", "at", "right", "fix"} <= set(fault)


def test_the_names_of_weights_are_those_that_load() -> None:
    assert set(names.DRAWN) == set(surrogate.SIZES)
    assert set(names.SUFFIXES) == set(READERS)


@pytest.mark.parametrize("layers", [1, 13, 40])
def test_no_name_that_is_compared_is_rejected(layers: int) -> None:
    found = [tap.name for tap in taps(layers)]
    for name in (*found, *(name.replace(f"h.{layers - 1}.", "h.*.") for name in found)):
        validation.check_options(options.LayerwiseOptions(taps=name), ())
    for name in found:
        validation.check_options(options.LayerwiseOptions(explain=name), ())


@pytest.mark.parametrize("pattern", ["h.3?.mlp*", "h.[12].*", "h.27*gelu", "*.27.mlp", "h.??.ln_1"])
def test_patterns_of_deep_models_are_taken(pattern: str) -> None:
    validation.check_options(options.LayerwiseOptions(taps=pattern), ())


def test_slopes_are_names_of_gradients(theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> None:
    for tap in Slopes(theirs, Inputs(token_ids=token_ids), "*").plan:
        validation.check_options(options.GradientsOptions(taps=tap.name), ())


@pytest.mark.parametrize(
    "name", ["", "a b", "~nobody/x", "a" * 5000, "x\0y", "a/b/c", "\x1b[31m", "gone/", "...", "/"]
)
def test_strange_weights_are_usage_errors_or_taken(name: str) -> None:
    if name == "/":
        validation.check_options(options.WeightsOptions(weights=name), ())
        return
    with pytest.raises(UsageError):
        validation.check_options(options.WeightsOptions(weights=name), ())


@pytest.mark.parametrize("name", ["auto", "tiny", "openai-gpt@main", "someone/gpt1", "a/b@v1.0"])
def test_a_name_that_may_load_is_taken(name: str) -> None:
    validation.check_options(options.WeightsOptions(weights=name), ())


def test_a_folder_that_is_gone_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert similar_paths("model.pt") == []


COMMANDS = {
    **{verb: (check.app, entry.options) for verb, entry in VERBS.items()},
    "convert": (convert.app, convert.ConvertOptions),
    "generate": (generate.app, generate.GenerateOptions),
    "train": (train.app, train.TrainOptions),
    "data": (data.app, data.DataOptions),
}
READ = {
    *("weights", "candidate", "kernel", "map", "reference", "activations", "vocabulary", "corpus"),
    *("sources", "runs", "source", "prompt_file", "data", "tokens", "paths"),
}
"""Options and arguments that name a file or folder to read."""

NEEDED = {
    "convert source": ["new"],
    "convert map": ["tiny", "new"],
    "generate prompt_file": ["--weights", "."],
    "generate vocabulary": ["--weights", "."],
    "train": ["--output", "new"],
    "data vocabulary": ["--output", "new"],
    "data paths": ["--output", "new", "--vocabulary", "."],
    "weights sources": ["tiny"],
    "drift runs": ["."],
}
"""What a command line needs besides, by the command and the option."""


def flags(command: str) -> dict[str, str]:
    """Return the options of a command as they are typed, by field; of an argument its name."""
    found = typer.main.get_command(COMMANDS[command][0])
    return {p.name: p.opts[0] for p in getattr(found, "commands", {command: found})[command].params}


def test_every_path_is_read_or_written() -> None:
    for command, (_, kind) in COMMANDS.items():
        paths = {name for name, hint in get_type_hints(kind).items() if "Path" in str(hint)}
        assert paths <= READ | {"output", "save_activations", "destination"}, command


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command in COMMANDS for name in sorted(READ & {*flags(command)})],
)
def test_a_missing_file_is_a_usage_error(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = flags(command)[name]
    words = [*([command] if command in VERBS else []), *([flag] if flag != name else [])]
    needed = NEEDED.get(f"{command} {name}", NEEDED.get(command, []))
    ran = CliRunner().invoke(COMMANDS[command][0], [*words, "./gone.py", *needed])
    what, where, _ = ran.stderr.splitlines()
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert (flag in where or flag == name, "gone.py" in what + where) == (True, True)


@pytest.mark.parametrize("text", ["model(", "x = 1", "", "\0", "(" * 500])
def test_a_call_that_is_no_expression(text: str) -> None:
    with pytest.raises(UsageError, match="no expression"):
        validation.check_options(options.LayerwiseOptions(candidate="m:n", call=text), ())
