"""The model needs neither transformers nor tokenizers: none of its modules loads them.

Tests with the mark `reference` compare with those two. If they are not installed, run the others
with `-m "not reference"` and `GPT1_WITHOUT_TRANSFORMERS=1`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scratch_gpt
from scratch_gpt.kernels.triton_attention import unavailable

HOME = Path(scratch_gpt.__path__[0])
REFERENCES = ("transformers", "tokenizers")

LOAD_ALL = """
import importlib, os, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("ftfy", "spacy", "triton", "matplotlib"):  # what extras bring
            raise
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def modules_of(home: Path) -> list[str]:
    paths = (file.relative_to(home.parent).with_suffix("") for file in home.rglob("*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(name for name in names if not name.endswith(".__main__"))


def loaded_with(names: list[str], folder: Path) -> set[str]:
    """Return the packages that a fresh interpreter holds when it has imported these modules."""
    result = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *names],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not result.returncode, result.stderr
    return set(result.stdout.split())


def test_the_row_without_transformers_is_without() -> None:
    if os.environ.get("GPT1_WITHOUT_TRANSFORMERS") != "1":
        pytest.skip("not run: GPT1_WITHOUT_TRANSFORMERS is not 1, so transformers may be installed")
    found = [name for name in REFERENCES if importlib.util.find_spec(name) is not None]
    assert not found, f"installed where it is to be absent: {', '.join(found)}"


def can_load(name: str) -> bool:
    """Return whether a module can be imported: the kernels not beside a Triton that is too old."""
    reason = unavailable(torch.device("cpu")) or ""
    return "or newer" not in reason or name != "scratch_gpt.kernels.triton_kernels"


def test_no_module_of_the_model_loads_a_reference() -> None:
    names = list(filter(can_load, modules_of(HOME)))
    assert {"scratch_gpt.model", "scratch_gpt.training.run"} < set(names)
    loaded = loaded_with(names, HOME.parent)
    assert {"scratch_gpt", "torch", "numpy"} < loaded
    assert not loaded & {*REFERENCES, "huggingface_hub", "reference", "parity"}


@pytest.mark.parametrize("against", REFERENCES)
def test_a_module_that_loads_a_reference_is_found(against: str, tmp_path: Path) -> None:
    home = tmp_path / "outside"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "module.py").write_text(f"import {against}", encoding="utf-8")
    (tmp_path / f"{against}.py").touch()
    assert modules_of(home) == ["outside.deep.module"]
    assert against in loaded_with(modules_of(home), tmp_path)
