"""What `--help` imports: the command line's own packages, nothing that takes time to load."""

import ast
import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import parity.check
import scratch_gpt

PACKAGES = ("scratch_gpt", "reference", "parity", "bench")

VERBS = list(parity.check.VERBS)

COMMANDS = [
    *("parity.check", "parity.convert", "bench.ratios"),
    *("scratch_gpt.train", "scratch_gpt.generate", "scratch_gpt.data"),
    *(f"parity.check {verb}" for verb in VERBS),
]

SCRIPTS = {"reference.huggingface_tokenizer", "reference.surrogate", "bench.memory"}
"""Modules that are run and have no options: they write what is committed, or serve a process."""

ALLOWED = {
    *("typer", "click", "shellingham", "rich", "pygments", "markdown_it", "mdurl", "colorama"),
    *("annotated_doc", "annotated_types", "typing_extensions", "typing_inspection"),
    *("attr", "attrs", "pydantic", "pydantic_core"),  # theirs, where something else installs them
}
"""What typer may bring, in any version: all of it small."""

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
"""Runs a module as `python -m` does, and says what that loaded."""


def brought(command: str, folder: Path) -> set[str]:
    """Return the packages, not Python's and not ours, that a command's help loads."""
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, *command.split(), "--help"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    help_text, _, loaded = result.stdout.rpartition("LOADED")
    assert "Usage:" in help_text
    ours = {*PACKAGES, "planted"}
    found = set(loaded.split()) - sys.stdlib_module_names - ours
    return {name for name in found if not name.startswith("_sysconfigdata")}


@pytest.fixture(scope="module")
def home() -> Path:
    return Path(parity.__path__[0]).parent


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str, home: Path) -> None:
    assert not brought(command, home) - ALLOWED


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_narrow(command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-m", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", [name for name in COMMANDS if " " not in name])
def test_every_command_has_a_version(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", command, "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"gpt1-parity {scratch_gpt.__version__}\n"
    assert parity.__version__ == scratch_gpt.__version__ == metadata.version("gpt1-parity")


@pytest.mark.parametrize("heavy", ["numpy", "torch"])
def test_a_command_that_loads_more_is_found(heavy: str, tmp_path: Path) -> None:
    (tmp_path / f"{heavy}.py").touch()
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "deep.py").write_text(f"import {heavy}", encoding="utf-8")
    command = "import typer\nfrom planted import deep\ntyper.run(lambda: None)\n"
    (tmp_path / "planted" / "__main__.py").write_text(command, encoding="utf-8")
    assert brought("planted", tmp_path) - ALLOWED == {heavy}


def is_run(source: str) -> bool:
    """Return whether a module does something when it is run rather than imported."""
    tests = (node.test for node in ast.parse(source).body if isinstance(node, ast.If))
    return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)


def test_every_command_is_in_the_table(home: Path) -> None:
    """A module that can be run is one of them, or a script without options."""
    files = [file for package in PACKAGES for file in (home / package).rglob("*.py")]
    run = [file for file in files if is_run(file.read_text(encoding="utf-8"))]
    names = {".".join(file.relative_to(home).with_suffix("").parts) for file in run}
    found = {name.removesuffix(".__main__") for name in names}
    assert found == {command for command in COMMANDS if " " not in command} | SCRIPTS
    assert len(VERBS) >= 8
