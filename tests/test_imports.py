"""Import directions, and version queries in one file: each rule holds and finds a violation.

The rules are in pyproject.toml: contracts of import-linter, and ruff's list of banned names.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGES = ("scratch_gpt", "reference", "parity", "bench")
PROJECT = Path(__file__).parents[1] / "pyproject.toml"

needs_linter = pytest.mark.skipif(
    find_spec("importlinter") is None, reason="not run: import-linter is not installed"
)
needs_ruff = pytest.mark.skipif(find_spec("ruff") is None, reason="not run: ruff is not installed")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    source = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", source, "--no-cache", "--no-logo"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path, home_of: Callable) -> Path:
    for package in PACKAGES:
        home = home_of(package)
        if home is None:
            pytest.skip(f"not run: the package {package} is not here")
        shutil.copytree(home, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT, tmp_path)
    return tmp_path


@needs_linter
def test_every_contract_is_kept(copied: Path) -> None:
    result = lint_imports(copied)
    assert (result.returncode, " 0 broken" in result.stdout) == (0, True), result.stdout


@needs_linter
@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("scratch_gpt/model.py", "import parity", "bench -> parity"),
        ("scratch_gpt/model.py", "from reference import oracle", "bench -> parity"),
        ("reference/hub.py", "from scratch_gpt import errors", "bench -> parity"),
        ("parity/convert.py", "import bench.timing", "bench -> parity"),
        ("scratch_gpt/loss.py", "def f():\n    import transformers", "no reference library"),
        ("scratch_gpt/training/run.py", "import matplotlib", "files of their own"),
        ("scratch_gpt/kernels/tiled_attention.py", "import triton.language", "files of their own"),
        ("reference/oracle.py", "import torch", "NumPy alone"),
        ("reference/oracle.py", "from reference import attention_oracle", "share no code"),
        ("scratch_gpt/linear.py", "from scratch_gpt import mlp", "no cycles"),
        ("parity/core/taps.py", "from parity import checks", "no cycles"),
    ],
)
def test_an_injected_import_is_found(file: str, line: str, contract: str, copied: Path) -> None:
    path = copied / file
    path.write_text(f"{path.read_text('utf-8')}\n{line}\n", "utf-8")
    result = lint_imports(copied)
    broken = [text for text in result.stdout.splitlines() if " BROKEN" in text]
    assert result.returncode == 1
    assert any(contract in text for text in broken), result.stdout


@needs_ruff
@pytest.mark.parametrize(
    "source",
    [
        "import torch\nold = torch.__version__ < '2.9'",
        "import torch as t\nold = t.version.cuda",
        "from torch import __version__",
        "import transformers\nold = transformers.__version__",
        "from transformers.utils import is_torch_available",
        "from importlib.metadata import version",
        "from importlib import metadata",
        "from packaging.version import Version",
        "import sys\nold = sys.version_info < (3, 12)",
        "import platform\nplatform.python_version()",
        "from reference import compat\ncompat.parse_version('2.9')",
        "from reference.compat import DIFFERENCES",
    ],
)
def test_a_version_query_is_found(source: str) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--config", PROJECT, "--select", "TID251"),
            *("--stdin-filename", PROJECT.parent / "parity" / "new.py", "-"),
        ],
        input=source + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, "reference/compat.py" in result.stdout) == (1, True), result.stdout


@pytest.fixture
def loads_torch(python: Callable) -> Callable[..., bool]:
    """Return a function that returns whether importing a package alone loads torch."""

    def load(package: str, *folders: Path) -> bool:
        source = f"import sys, {package}; print('torch' in sys.modules)"
        return {"True\n": True, "False\n": False}[python("-c", source, folders=folders).stdout]

    return load


@pytest.mark.parametrize("package", ["scratch_gpt", "reference", "parity"])
def test_importing_a_package_loads_no_torch(package: str, loads_torch: Callable) -> None:
    """A command's `--help` must answer at once."""
    assert not loads_torch(package)


def test_a_package_that_loads_torch_is_found(loads_torch: Callable, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "injected.py").write_text("import deeper", encoding="utf-8")
    (tmp_path / "deeper.py").write_text("from torch import *", encoding="utf-8")
    assert loads_torch("injected", tmp_path)


REJECT_TRANSFORMERS = """
import sys

class Reject:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Reject())
"""


def test_the_model_works_without_transformers(python: Callable) -> None:
    forward = """
import torch
from scratch_gpt import GPT, GPTConfig

config = GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
model = GPT(GPTConfig.from_huggingface(config.to_huggingface())).eval()
logits = model(torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]]))
print(list(logits.shape), bool(logits.isfinite().all()))
"""
    assert python("-c", REJECT_TRANSFORMERS + forward).stdout == "[2, 5, 37] True\n"


def test_transformers_is_rejected_there(python: Callable) -> None:
    attempt = """
try:
    from transformers import OpenAIGPTConfig
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert python("-c", REJECT_TRANSFORMERS + attempt).stdout == "transformers\n"


@pytest.mark.parametrize("package", ["scratch_gpt", "parity"])
def test_every_name_is_there(package: str) -> None:
    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert callable(getattr(module, name)), name
