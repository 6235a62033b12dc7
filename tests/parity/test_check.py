"""The command line: its options, its help, and its errors before anything is computed."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from parity import check as module
from parity import verbs
from parity.checks.generation.faults import GENERATION_FAULTS
from parity.checks.gradients.faults import BACKWARD_FAULTS
from parity.checks.invariants.faults import INVARIANT_FAULTS
from parity.checks.tokens.faults import TOKENIZER_FAULTS
from parity.checks.training.faults import TRAINING_FAULTS
from parity.core import inputs
from parity.errors import InconclusiveError, UsageError
from parity.faults.forward import FORWARD_FAULTS, ForwardFault
from parity.faults.registry import parse

pytestmark = pytest.mark.once

Check = Callable[..., Any]

REPORTING = {"--format", "--output", "--quiet", "--debug"}
INPUTS = {"--batch-size", "--seq-len", "--seed", "--token-ids"}
JUDGING = {"--candidate", "--inject-fault", "--backend", "--dtype", "--device", "--taps"}
FOREIGN = {"--call", "--map", "--kernel"}
FINGERPRINTS = "--fingerprints"
TEXTS = {"--vocabulary", "--pretokenizer", "--text", "--corpus", "--num-strings"}
OPTIONS = {
    "layerwise": {
        "--weights",
        "--strict",
        *JUDGING,
        *FOREIGN,
        *("--explain", "--reference", "--activations", "--save-activations"),
        *INPUTS,
        FINGERPRINTS,
        *REPORTING,
    },
    "gradients": {
        *("--weights", "--strict", FINGERPRINTS),
        *JUDGING,
        *FOREIGN,
        *INPUTS,
        *REPORTING,
    },
    "invariants": {
        *("--weights", "--strict", "--candidate", "--inject-fault", "--backend", "--dtype"),
        *("--device", "--call", "--map", "--seq-len", "--seed"),
        *REPORTING,
    },
    "weights": {"sources", "--weights", "--strict", *REPORTING},
    "tokens": {"--weights", "--inject-fault", "--seed", *TEXTS, FINGERPRINTS, *REPORTING},
    "doctor": {"--weights", "--strict", *INPUTS, *REPORTING},
    "training": {
        *(
            "--weights",
            "--strict",
            "--candidate",
            "--inject-fault",
            "--backend",
            "--dtype",
            "--taps",
        ),
        *("--steps", "--micro-batches", "--dropout", "--batch-size", "--seq-len", "--seed"),
        *(FINGERPRINTS, *REPORTING),
    },
    "generation": {
        *(
            "--weights",
            "--strict",
            "--inject-fault",
            "--dtype",
            "--num-prompts",
            "--max-new-tokens",
            "--token-ids",
        ),
        *("--text", "--vocabulary", "--seed", FINGERPRINTS, *REPORTING),
    },
    "golden": {"--weights", "--strict", *REPORTING},
    "drift": {"runs", "--require", "--same-code", *REPORTING},
    "selftest": {"--weights", "--strict", "--faults", *REPORTING},
    "all": {"--weights", "--candidate", "--inject-fault", "--device", "--keep-going", *REPORTING},
}


def parameters(verb: str) -> list[Any]:
    return typer.main.get_command(module.app).commands[verb].params


def test_the_verbs_and_options_are_frozen() -> None:
    verbs = typer.main.get_command(module.app).commands
    assert list(OPTIONS) == list(verbs)
    for verb, names in OPTIONS.items():
        assert names == {name for option in parameters(verb) for name in option.opts}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import contextlib, io, sys\n"
        "from parity.check import app\n"
        f"for arguments in [['--help'], *([verb, '--help'] for verb in {list(OPTIONS)})]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            app(arguments)\n"
        "    assert 'Usage' in out.getvalue()\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'jaxtyping', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "[]\n"


def test_no_verb_prints_the_help(check: Check) -> None:
    result = check()
    assert (result.exit_code, "layerwise" in result.stdout + result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        *(("layerwis", "'layerwise'"), ("weigths", "'weights'"), ("docter", "'doctor'")),
        *(("selftets", "'selftest'"), ("train", "train")),
    ],
)
def test_an_unknown_verb_is_named_or_corrected(typed: str, named: str, check: Check) -> None:
    result = check(typed)
    assert (result.exit_code, result.stdout, named in result.stderr) == (2, "", True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(["layerwise", "--no-such"], "--no-such", id="unknown option"),
        pytest.param(["layerwise", "--seq-le", "5"], "--seq-len", id="mistyped option"),
        pytest.param(
            ["weights", "--inject-fault", "erf-gelu"], "--inject-fault", id="another verb's option"
        ),
        pytest.param(["gradients", "--explain", "logits"], "--explain", id="layerwise's alone"),
        pytest.param(
            ["tokens", "--pretokenizer", "wordpiece"], "original", id="unknown pretokenizer"
        ),
        pytest.param(["tokens", "--num-strings", "-1"], "--num-strings", id="count below 0"),
        pytest.param(["layerwise", "extra"], "extra", id="unexpected argument"),
        pytest.param(["layerwise", "--seq-len"], "--seq-len", id="value missing"),
        pytest.param(["layerwise", "--seq-len", "0"], "--seq-len", id="time 0"),
        pytest.param(["layerwise", "--seq-len", "many"], "--seq-len", id="time no number"),
        pytest.param(["layerwise", "--batch-size", "0"], "--batch-size", id="batch 0"),
        pytest.param(["layerwise", "--seed", "-1"], "--seed", id="seed below 0"),
        pytest.param(["layerwise", "--dtype", "int8"], "bfloat16", id="unknown dtype"),
        pytest.param(["layerwise", "--device", "tpu"], "cuda", id="unknown device"),
        pytest.param(["layerwise", "--backend", "flash"], "tiled", id="unknown backend"),
    ],
)
def test_a_usage_error_names_the_option(arguments: list[str], named: str, check: Check) -> None:
    result = check(*arguments)
    assert (result.exit_code, result.stdout, named in result.stderr) == (2, "", True)


EVERYTHING = {
    "--weights": ("tiny", {"weights": "tiny"}),
    "--candidate": ("mine.py", {"candidate": "mine.py"}),
    "--call": ("model(ids)", {"call": "model(ids)"}),
    "--map": ("map.txt", {"map": Path("map.txt")}),
    "--kernel": ("mine.py:fast", {"kernel": "mine.py:fast"}),
    "--inject-fault": ("epsilon@2", {"inject_fault": "epsilon@2"}),
    "--backend": ("tiled", {"backend": "tiled"}),
    "--dtype": ("bfloat16", {"dtype": "bfloat16"}),
    "--device": ("auto", {"device": "auto"}),
    "--batch-size": ("3", {"batch_size": 3}),
    "--seq-len": ("17", {"seq_len": 17}),
    "--num-prompts": ("3", {"num_prompts": 3}),
    "--max-new-tokens": ("5", {"max_new_tokens": 5}),
    "--seed": ("7", {"seed": 7}),
    "--token-ids": ("1,2;3", {"token_ids": "1,2;3"}),
    "--taps": ("h.*", {"taps": "h.*"}),
    "--steps": ("5", {"steps": 5}),
    "--micro-batches": ("4", {"micro_batches": 4}),
    "--dropout": (None, {"dropout": True}),
    "--explain": ("logits", {"explain": "logits"}),
    "--reference": ("gpt2", {"reference": Path("gpt2")}),
    "--activations": ("a.npz", {"activations": Path("a.npz")}),
    "--save-activations": ("b.npz", {"save_activations": Path("b.npz")}),
    "--vocabulary": ("words", {"vocabulary": Path("words")}),
    "--pretokenizer": ("original", {"pretokenizer": "original"}),
    "--text": ("one", {"text": "one"}),
    "--corpus": ("a.txt", {"corpus": (Path("a.txt"),)}),
    "--num-strings": ("9", {"num_strings": 9}),
    "--fingerprints": (None, {"fingerprints": True}),
    "--format": ("json", {"format": "json"}),
    "--output": ("a.json", {"output": (Path("a.json"),)}),
    "--quiet": (None, {"quiet": True}),
    "--strict": (None, {"strict": True}),
    "--debug": (None, {"debug": True}),
    "--require": ("a", {"require": ("a",)}),
    "--keep-going": (None, {"keep_going": True}),
    "--same-code": (None, {"same_code": True}),
    "--faults": ("gelu*", {"faults": "gelu*"}),
    "runs": ("b", {"runs": (Path("runs"), Path("b"))}),  # no option: both words are arguments
    "sources": ("b", {"sources": ("sources", "b")}),
}
"""For every option a value that is not its default, and what has to come of it."""


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(module.session, "run", lambda options, **_how: seen.append(options) or 3)
    return seen


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_option_arrives(verb: str, check: Check, arrived: list[Any]) -> None:
    arguments, wanted = [], {}
    for name in sorted(OPTIONS[verb]):
        value, fields = EVERYTHING[name]
        arguments += [name] if value is None else [name, value]
        wanted |= fields
    result = check(verb, *arguments)
    assert (3, [module.VERBS[verb].options(**wanted)]) == (result.exit_code, arrived)


DEFAULTS = {
    "weights": "auto",
    "dtype": "float32",
    "device": "cpu",
    "batch_size": 1,
    "seq_len": None,
    "seed": 0,
}
OTHER_DEFAULTS = {
    # Its runs keep every gradient and moment.
    "training": {"batch_size": 2},
    "invariants": {"dtype": "float64"},
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_defaults_are_the_documented_ones(verb: str, check: Check, arrived: list[Any]) -> None:
    check(verb)
    assert arrived == [module.VERBS[verb].options()]
    expected = DEFAULTS | OTHER_DEFAULTS.get(verb, {})
    assert all(getattr(arrived[0], name, value) == value for name, value in expected.items())


@pytest.mark.parametrize("verb", OPTIONS)
def test_help_teaches(verb: str, check: Check) -> None:
    """It has each option, examples that run this verb, the exit codes, and at most 80 columns."""
    text = check(verb, "--help").stdout
    shown = " ".join(text.split())
    for option in parameters(verb):
        assert option.help
        assert option.opts[0] in shown
        assert option.help[:30] in shown
    assert f"{verb} {text.splitlines()[2].strip()}" in " ".join(check("--help").stdout.split())
    assert f"\n    python -m parity.check {verb}" in text
    assert "Exit codes:\n    0 pass  1 a real difference" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_printed(check: Check) -> None:
    result = check("--version")
    assert result.exit_code == 0
    assert result.stdout == f"gpt1-parity {metadata.version('gpt1-parity')}\n"


FAULTS = {
    "layerwise": FORWARD_FAULTS,
    "gradients": {**FORWARD_FAULTS, **BACKWARD_FAULTS},
    "tokens": {
        name: fault for name, fault in TOKENIZER_FAULTS.items() if "huggingface" in fault.of
    },
    "training": TRAINING_FAULTS,
    "generation": GENERATION_FAULTS,
    "invariants": INVARIANT_FAULTS,
    "all": {
        **FORWARD_FAULTS,
        **BACKWARD_FAULTS,
        **TOKENIZER_FAULTS,
        **TRAINING_FAULTS,
        **GENERATION_FAULTS,
        **INVARIANT_FAULTS,
    },
}


@pytest.mark.parametrize("verb", [v for v, names in OPTIONS.items() if "--inject-fault" in names])
def test_the_faults_are_listed(verb: str, check: Check) -> None:
    result = check(verb, "--inject-fault", "list")
    listed = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert (result.exit_code, result.stderr) == (0, "")
    assert listed == {name: fault.what for name, fault in FAULTS[verb].items()}
    unknown = check(verb, "--weights", "tiny", "--inject-fault", "no-such-fault")
    assert unknown.exit_code == 2
    assert unknown.stderr.rstrip().endswith(f"describes all {len(listed)}")


def test_faults_are_listed_by_pretokenizer(check: Check) -> None:
    words = ("tokens", "--inject-fault", "list", "--pretokenizer")
    assert check(*words, "huggingface").stdout != check(*words, "original").stdout


def test_help_that_cannot_be_written_is_an_environment_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full_disk: io.StringIO
) -> None:
    monkeypatch.setattr(sys, "argv", ["check", "--help"])
    monkeypatch.setattr(sys, "stdout", full_disk)
    with pytest.raises(SystemExit) as ended:
        module.main()
    error = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(error), "No space left" in error[0]) == (5, 3, True)


def test_what_was_imported_is_searched_for_garbage_no_more(command: Callable[..., Any]) -> None:
    """And everything later is: the collector is on."""
    script = (
        "import gc, sys\n"
        "from parity import check\n"
        "sys.argv = ['check', 'weights', '--weights', 'tiny', '--quiet']\n"
        "try:\n"
        "    check.main()\n"
        "finally:\n"
        "    print(gc.isenabled(), gc.get_freeze_count() > 200_000, file=sys.stderr)\n"
    )
    ran = command(python=["-c", script])
    assert (ran.returncode, ran.stderr) == (0, "True True\n")


TINY = ["layerwise", "--weights", "tiny", "--seq-len", "5", "--backend", "plain"]
WEIGHTS = ["weights", "--weights", "tiny"]
FAILING = [*TINY, "--dtype", "float64", "--inject-fault", "erf-gelu@3"]


@pytest.mark.parametrize(
    ("arguments", "stream", "code"),
    [
        pytest.param(WEIGHTS, "stdout", 5, id="a passing verdict"),
        pytest.param(["--help"], "stdout", 5, id="help"),
        pytest.param(["weights", "--format", "none"], "stderr", 2, id="an error"),
    ],
)
def test_a_full_disk_is_an_environment_error(
    arguments: list[str], stream: str, code: int, command: Callable[..., Any]
) -> None:
    """A failed write does not fail a second time when Python exits."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ran = command(*arguments, **{stream: full})
    assert ran.returncode == code
    assert "Exception ignored" not in (ran.stderr or "")
    if arguments == WEIGHTS:
        assert len(ran.stderr.splitlines()) == 3
        assert "No space" in ran.stderr


def test_a_closed_pipe_is_quiet(command: Callable[..., Any]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = command(*WEIGHTS, stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize(("hidden", "form"), [("transformers", "json"), ("torch", "text")])
def test_a_missing_package_gives_its_pip_line(
    hidden: str, form: str, command: Callable[..., Any]
) -> None:
    script = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {hidden!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from parity.check import main\n"
        f"sys.argv = ['check', 'weights', '--weights', 'tiny', '--format', {form!r}]\n"
        "main()\n"
    )
    ran = command(python=["-c", script])
    assert ran.returncode == 5
    assert ran.stderr.splitlines() == [
        f"error: the package {hidden} is not installed",
        "  where  this Python environment",
        f"  fix    pip install {hidden}",
    ]


@pytest.mark.slow  # Python compiles all of torch anew
def test_it_runs_optimized_from_anywhere(command: Callable[..., Any]) -> None:
    """-O drops every assert."""
    ran = command(*FAILING, python=["-O", "-P", "-m", "parity.check"])
    verdict = ran.stdout.splitlines()[-1]
    assert (ran.returncode, verdict.split()[0], ran.stderr) == (1, "FAIL", "")


@pytest.mark.slow  # torch is imported once more
def test_it_runs_from_an_archive(
    command: Callable[..., Any], archive: Path, strictly: Callable[[str], Any]
) -> None:
    ran = command(*WEIGHTS, "--format", "json", python=["-P", str(archive)])
    found = strictly(ran.stdout)
    assert (ran.returncode, found["verdict"], ran.stderr) == (0, "pass", "")
    assert found["identity"]["code"].endswith(", source not known")


def test_the_archive_is_what_ran(command: Callable[..., Any], archive: Path) -> None:
    ran = command("weights", "--format", "none", "--debug", python=["-P", str(archive)])
    assert (ran.returncode, f"{archive}/parity/session.py" in ran.stderr) == (2, True)


# Numbers.


NUMBERS = [
    (verb, "--" + name.replace("_", "-"))
    for verb, entry in module.VERBS.items()
    for name, kind in get_type_hints(entry.options).items()
    if kind in (int, float, int | None, float | None)
]
"""Every option that takes a number, by its verb."""


def test_there_are_numbers() -> None:
    assert {"--seed", "--steps", "--batch-size", "--max-new-tokens"} <= {
        name for _, name in NUMBERS
    }


@pytest.mark.parametrize(("verb", "name"), NUMBERS)
def test_every_number_has_limits(
    verb: str, name: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are rejected before anything is loaded; only a seed may be so large."""

    def ran(*_arguments: object) -> None:
        raise InconclusiveError("it ran", where="here", fix="nothing")

    monkeypatch.setattr(verbs, verb, ran)
    for text in (
        "0",
        "-1",
        "1000000000",
        f"{10**18}",
        "1" + "0" * 400,
        "9" * 5000,
        "nan",
        "inf",
        "",
    ):
        result = check(verb, name, text)
        allowed = text == "0" or (name == "--seed" and len(text) in (10, 19))
        assert result.exit_code in ((2, 3) if allowed else (2,)), (text, result.output)
        assert "Traceback" not in result.output


@pytest.mark.parametrize("block", ["9" * 5000, "-1", "1e3", "nan", "", "1000000000", "4", "0x1"])
def test_no_block_has_a_strange_number(block: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(f"erf-gelu@{block}", [ForwardFault], n_layer=4)
    assert len(error.value.what) < 120


@pytest.mark.parametrize(
    "ids",
    ["1" + "0" * 400, "9" * 5000, "nan", "-1", "1,,2", ";".join("1" * 20_000) + ",1" * 20_000],
)
def test_strange_token_ids_are_usage_errors(ids: str, check: Check) -> None:
    for verb in ("layerwise", "generation", "doctor"):
        result = check(verb, "--weights", "tiny", "--token-ids", ids)
        assert result.exit_code == 2, result.output
        assert len(result.stderr) < 1000


@pytest.mark.parametrize("verb", ["layerwise", "gradients", "doctor", "training"])
def test_a_batch_that_memory_cannot_hold_is_not_made(
    verb: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "seeded", lambda **_named: pytest.fail("it was made"))
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1 << 22))
    result = check(verb, "--weights", "tiny", "--batch-size", "1000000", "--seq-len", "8")
    assert result.exit_code == 5, result.output
    assert "GiB of memory; this machine has 16.0 GiB" in result.stderr
    assert "--batch-size" in result.stderr


def test_steps_that_memory_cannot_hold_are_not_made(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "seeded", lambda **_named: pytest.fail("they were made"))
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1 << 22))
    result = check("training", "--weights", "tiny", "--steps", "1000000", "--micro-batches", "900")
    assert result.exit_code == 5, result.output
    assert "the token ids of 1,000,000 steps takes at least" in result.stderr
