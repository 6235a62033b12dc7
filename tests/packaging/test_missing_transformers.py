"""The harness where its reference is not installed: three lines, exit code 5, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parity

WITHOUT = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

REFUSED, name, *sys.argv[1:] = sys.argv[1:]
REFUSED = REFUSED.split(",")
sys.meta_path.insert(0, Refuse())
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does, in an interpreter that cannot import some packages."""


def run_without(refused: str, *command: str) -> subprocess.CompletedProcess[str]:
    home = str(Path(parity.__path__[0]).parent)
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, refused, *command],
        env=os.environ | {"PYTHONPATH": home},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("verb", ["layerwise", "doctor"])
def test_a_verb_says_what_is_missing(verb: str) -> None:
    ended = run_without("transformers,tokenizers", "parity.check", verb, "--weights", "surrogate")
    what, where, fix = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (5, "")
    assert what == "error: the package transformers is not installed"
    assert where == "  where  this Python environment"
    assert fix == "  to do  pip install transformers"
