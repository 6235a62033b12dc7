"""What the packages hand on by name, and what the README imports."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("package", ["scratch_gpt", "parity"])
def test_every_name_is_there(package: str) -> None:
    """A name in `__all__` can be had, and is no module in its stead."""
    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert callable(getattr(module, name)), name


def test_what_the_readme_imports_is_there() -> None:
    """Every import of its Python blocks, in an interpreter that has imported nothing yet."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if " import " in line]
    imports = [line for line in lines if line.startswith("from ")]
    assert len(imports) >= 2
    source = "\n".join([*imports, "assert callable(layerwise) and callable(load_pretrained)"])
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
