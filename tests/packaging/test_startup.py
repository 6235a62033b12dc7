"""Commands start fast: `--help` imports little; a missing package is an error with a fix."""

import ast
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import parity.check
import scratch_gpt

pytestmark = pytest.mark.once

PACKAGES = ("scratch_gpt", "reference", "parity", "bench")

VERBS = list(parity.check.VERBS)

COMMANDS = [
    *("parity.check", "parity.convert", "bench.ratios"),
    *("scratch_gpt.train", "scratch_gpt.generate", "scratch_gpt.data"),
    *(f"parity.check {verb}" for verb in VERBS),
]

SCRIPTS = {
    *("reference.huggingface_tokenizer", "reference.surrogate"),
    *("parity.known_faults", "parity.report.json", "bench.memory"),
}
"""Modules that are run and have no options: they write what is committed, or serve a process."""

ALLOWED = {
    *("typer", "click", "shellingham", "rich", "pygments", "markdown_it", "mdurl", "colorama"),
    *("annotated_doc", "annotated_types", "typing_extensions", "typing_inspection"),
    # Optional for them, if installed.
    *("attr", "attrs", "pydantic", "pydantic_core", "linkify_it", "uc_micro"),
}
"""Packages that typer may load, in any version."""

WATCHED = """
import runpy, sys
before = set(sys.modules)
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
except SystemExit as ended:
    code = ended.code
print("LOADED", *{module.partition(".")[0] for module in set(sys.modules) - before})
sys.exit(code)
"""
"""Runs a module as `python -m` does, and prints the packages that it loaded."""


@pytest.fixture(scope="module")
def brought(python: Callable) -> Callable[..., set[str]]:
    """Return a function that gives the packages, not Python's or ours, that a help loads."""

    def load(command: str, *folders: Path) -> set[str]:
        result = python("-c", WATCHED, *command.split(), "--help", folders=folders)
        assert not result.stderr
        help_text, _, loaded = result.stdout.rpartition("LOADED")
        assert "Usage:" in help_text
        found = set(loaded.split()) - sys.stdlib_module_names - {*PACKAGES, "injected"}
        return {name for name in found if not name.startswith("_sysconfigdata")}

    return load


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str, brought: Callable) -> None:
    assert not brought(command) - ALLOWED


@pytest.mark.parametrize("heavy", ["numpy", "torch"])
def test_a_command_that_loads_more_is_found(heavy: str, brought: Callable, tmp_path: Path) -> None:
    (tmp_path / f"{heavy}.py").touch()
    (tmp_path / "injected").mkdir()
    (tmp_path / "injected" / "deep.py").write_text(f"import {heavy}", encoding="utf-8")
    command = "import typer\nfrom injected import deep\ntyper.run(lambda: None)\n"
    (tmp_path / "injected" / "__main__.py").write_text(command, encoding="utf-8")
    assert brought("injected", tmp_path) - ALLOWED == {heavy}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(command: str, python: Callable) -> None:
    result = python("-m", *command.split(), "--help")
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", [name for name in COMMANDS if " " not in name])
def test_every_command_has_a_version(command: str, python: Callable) -> None:
    assert python("-m", command, "--version").stdout == f"gpt1-parity {scratch_gpt.__version__}\n"
    assert parity.__version__ == scratch_gpt.__version__ == metadata.version("gpt1-parity")


@pytest.mark.parametrize("command", [*COMMANDS[:6], "parity.check layerwise"])
def test_without_docstrings_a_command_says_so(command: str, python: Callable) -> None:
    """The help would be empty, and transformers fails on import."""
    for argument in ("--help", "--quiet"):
        ended = python("-OO", "-m", *command.split(), argument, check=False)
        assert (ended.returncode, ended.stdout) == (5, "")
        assert ended.stderr.splitlines() == [
            "error: Python removes docstrings here, which the help and transformers need",
            "  where  python -OO, or PYTHONOPTIMIZE=2",
            "  fix    use -O or neither",
        ]


def is_run(source: str) -> bool:
    """Return whether a module does something when it is run rather than imported."""
    tests = (node.test for node in ast.parse(source).body if isinstance(node, ast.If))
    return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)


def test_every_command_is_in_the_table() -> None:
    """A module that can be run is one of them, or a script without options."""
    home = Path(parity.__path__[0]).parent
    files = [file for package in PACKAGES for file in (home / package).rglob("*.py")]
    run = [file for file in files if is_run(file.read_text(encoding="utf-8"))]
    names = {".".join(file.relative_to(home).with_suffix("").parts) for file in run}
    found = {name.removesuffix(".__main__") for name in names}
    assert found == {command for command in COMMANDS if " " not in command} | SCRIPTS
    assert {"layerwise", "gradients", "weights", "tokens", "doctor", "training"} < set(VERBS)
    assert {"generation", "golden", "drift"} < set(VERBS)


WITHOUT = """
import runpy, sys

class Reject:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING, name, *sys.argv[1:] = sys.argv[1:]
MISSING = MISSING.split(",")
sys.meta_path.insert(0, Reject())
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does, in an interpreter that cannot import some packages."""


@pytest.mark.parametrize("verb", ["layerwise", "doctor"])
def test_a_missing_reference_is_an_environment_error(verb: str, python: Callable) -> None:
    command = ("transformers,tokenizers", "parity.check", verb, "--weights", "surrogate")
    ended = python("-c", WITHOUT, *command, check=False)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert ended.stderr.splitlines() == [
        "error: the package transformers is not installed",
        "  where  this Python environment",
        "  fix    pip install transformers",
    ]
