"""What is imported is declared, and what is declared is imported."""

import ast
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution

import pytest

PACKAGES = ("scratch_gpt", "reference", "parity", "bench")
TOOLS = {"test", "dev"}
"""The extras whose packages are run rather than imported."""

Declared = dict[str, set[str]]


def top_level(source: str) -> set[str]:
    """Return the top-level package of every import, without the standard library's and ours."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - set(PACKAGES)


def declared(requirements: Iterable[str]) -> Declared:
    """Return the modules of each extra; those of a plain install have the key ""."""
    found: Declared = {"": set()}
    for line in requirements:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        module = name[0].replace("-", "_") if name else line
        found.setdefault(extra[1] if extra else "", set()).add(module)
    return found


def undeclared(imported: set[str], of: Declared) -> set[str]:
    return imported - set().union(*of.values())


def idle(imported: set[str], of: Declared) -> set[str]:
    """Return what an install brings and nothing imports, without tools."""
    wanted = (modules for extra, modules in of.items() if extra not in TOOLS)
    return set().union(*wanted) - imported


@pytest.fixture(scope="module")
def imported(packed: Distribution, packed_files: frozenset[str]) -> set[str]:
    modules = [name for name in packed_files if name.endswith(".py")]
    sources = (packed.locate_file(name).read_text(encoding="utf-8") for name in modules)
    return set().union(*map(top_level, sources))


def test_every_import_is_declared(imported: set[str], packed: Distribution) -> None:
    assert "torch" in imported
    assert not undeclared(imported, declared(packed.requires or []))


def test_every_dependency_is_imported(imported: set[str], packed: Distribution) -> None:
    assert not idle(imported, declared(packed.requires or []))


def test_every_extra_brings_something(packed: Distribution) -> None:
    extras = packed.metadata.get_all("Provides-Extra") or []
    assert {*extras, ""} == set(declared(packed.requires or []))
    assert set(extras) > TOOLS


REQUIRES = ["numpy>=2.0", "torch>=2.6", "matplotlib>=3.9; extra == 'plot'", "ruff; extra == 'dev'"]
SOURCE = "import numpy as np\nfrom torch import nn\ndef draw():\n    import matplotlib.figure"


def test_what_is_wrong_is_found() -> None:
    of = declared(REQUIRES)
    assert (undeclared(top_level(SOURCE), of), idle(top_level(SOURCE), of)) == (set(), set())
    more = top_level(f"{SOURCE}\n    from scipy import stats")
    assert undeclared(more, of) == {"scipy"}
    less = top_level("import numpy, torch, parity, os\nfrom . import taps")
    assert idle(less, of) == {"matplotlib"}
