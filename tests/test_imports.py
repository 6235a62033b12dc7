"""Who may import whom, and what an import may bring along."""

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HomeOf = Callable[[str], Path | None]

OURS = {"scratch_gpt", "reference", "parity", "bench", "tests"}

MAY_IMPORT_OF_OURS = {
    "scratch_gpt": {"scratch_gpt"},
    "reference": {"reference"},
    "parity": {"parity", "reference", "scratch_gpt"},
    "bench": {"bench", "parity", "reference", "scratch_gpt"},
}

MODEL_LIBRARIES = {"torch", "numpy", "jaxtyping", "safetensors", "rich", "typer"}
"""What every module of the model may import of others' packages; never transformers."""

BY_NAME = {
    "scratch_gpt/tokenizer/original.py": {"ftfy", "spacy"},
    "scratch_gpt/training/log.py": {"matplotlib"},
    "scratch_gpt/kernels/triton_attention.py": {"triton"},
    "scratch_gpt/kernels/triton_kernels.py": {"triton"},
}
"""What one module, and it alone, may import besides."""


def imports(source: str, package: str) -> Iterator[str]:
    """Give the top-level package of every import in `source`, dynamic ones by literal too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else str(node.module).split(".")[0]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            if called in {"import_module", "__import__"} and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).split(".")[0]


def trespasses(path: str, source: str) -> set[str]:
    """Return what `source`, to be found at `path` from the top, imports though it may not."""
    package = path.split("/", maxsplit=1)[0]
    found = set(imports(source, package)) - sys.stdlib_module_names
    if path.startswith("reference/") and path.endswith("oracle.py"):
        return found - {"numpy"}
    if package == "scratch_gpt":
        return found - {package} - MODEL_LIBRARIES - BY_NAME.get(path, set())
    return (found & OURS) - MAY_IMPORT_OF_OURS[package]


@pytest.mark.parametrize("package", MAY_IMPORT_OF_OURS)
def test_a_package_imports_what_it_may(package: str, home_of: HomeOf) -> None:
    """Every module keeps to the direction of imports."""
    home = home_of(package)
    if home is None:
        pytest.skip(f"not run: there is no package {package} here")
    found = {}
    for file in sorted(home.rglob("*.py")):
        path = f"{package}/{file.relative_to(home).as_posix()}"
        found[path] = trespasses(path, file.read_text(encoding="utf-8"))
    assert found
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("scratch_gpt/model.py", "import parity", "parity"),
        ("scratch_gpt/model.py", "from reference.oracle import logits", "reference"),
        ("scratch_gpt/model.py", "import transformers.models as models", "transformers"),
        ("scratch_gpt/model.py", "def f():\n    import transformers", "transformers"),
        ("scratch_gpt/model.py", "importlib.import_module('transformers')", "transformers"),
        ("scratch_gpt/model.py", "__import__('transformers')", "transformers"),
        ("scratch_gpt/tokenizer/tokenizer.py", "import ftfy", "ftfy"),
        ("scratch_gpt/training/run.py", "from matplotlib import figure", "matplotlib"),
        ("scratch_gpt/kernels/tiled_attention.py", "import triton.language as tl", "triton"),
        ("reference/hub.py", "import scratch_gpt", "scratch_gpt"),
        ("reference/hub.py", "from parity import mapping", "parity"),
        ("reference/oracle.py", "import torch", "torch"),
        ("reference/attention_oracle.py", "import torch", "torch"),
        ("reference/training_oracle.py", "import torch", "torch"),
        ("reference/oracle.py", "from reference import compat", "reference"),
        ("reference/oracle.py", "from . import compat", "reference"),
        ("parity/check.py", "import bench", "bench"),
        ("bench/test_attention.py", "from tests import conftest", "tests"),
    ],
)
def test_a_planted_trespass_is_found(path: str, source: str, name: str) -> None:
    """However and wherever the import stands, what it brings in is named."""
    expected = {name}
    assert expected == trespasses(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("scratch_gpt/model.py", "import math, torch\nfrom scratch_gpt import tap"),
        ("scratch_gpt/tokenizer/original.py", "import ftfy, spacy"),
        ("reference/oracle.py", "import math\nimport numpy as np"),
        ("reference/hub.py", "import transformers\nfrom reference import compat"),
        ("parity/check.py", "import scratch_gpt, reference, typer\nfrom . import taps"),
        ("bench/test_attention.py", "import parity, reference, scratch_gpt, bench"),
    ],
)
def test_what_may_be_imported_is_no_trespass(path: str, source: str) -> None:
    """The rooms' own imports, and the standard library, are free."""
    assert not trespasses(path, source)


def run(source: str, *folders: Path) -> str:
    """Return what `source` prints in a fresh interpreter that looks in `folders` first."""
    search = os.pathsep.join(map(str, folders))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not result.returncode, result.stderr
    return result.stdout.strip()


def loads_torch(package: str, *folders: Path) -> bool:
    """Return whether `import package` alone makes a fresh interpreter load torch."""
    loaded = run(f"import sys, {package}; print('torch' in sys.modules)", *folders)
    return {"True": True, "False": False}[loaded]


@pytest.mark.parametrize("package", ["scratch_gpt", "reference", "parity"])
def test_importing_a_package_loads_no_torch(package: str, home_of: HomeOf) -> None:
    """So that a command answers `--help` at once."""
    home = home_of(package)
    if home is None:
        pytest.skip(f"not run: there is no package {package} here")
    assert not loads_torch(package, home.parent)


def test_a_package_that_loads_torch_is_found(tmp_path: Path) -> None:
    """The question above is answered with yes where a package does load it, however deep."""
    (tmp_path / "torch.py").touch()
    (tmp_path / "planted.py").write_text("import deeper", encoding="utf-8")
    (tmp_path / "deeper.py").write_text("from torch import *", encoding="utf-8")
    assert loads_torch("planted", tmp_path)


REFUSE_TRANSFORMERS = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "transformers":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Refuse())
"""


def test_the_model_works_where_transformers_is_not(home_of: HomeOf) -> None:
    """A tiny model gives logits in an interpreter that cannot import transformers."""
    forward = """
    import torch
    from scratch_gpt import GPT, GPTConfig

    config = GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
    model = GPT(GPTConfig.from_huggingface(config.to_huggingface())).eval()
    logits = model(torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]]))
    print(list(logits.shape), bool(logits.isfinite().all()))
    """
    expected = "[2, 5, 37] True"
    assert expected == run(REFUSE_TRANSFORMERS + forward, home_of("scratch_gpt").parent)


def test_transformers_is_refused_there() -> None:
    """In that interpreter an import of transformers does fail."""
    attempt = """
    try:
        from transformers import OpenAIGPTConfig
    except ModuleNotFoundError as refusal:
        print(refusal.name)
    """
    expected = "transformers"
    assert expected == run(REFUSE_TRANSFORMERS + attempt)
