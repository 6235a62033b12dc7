"""Nobody asks for a version but `reference.compat`: what differs stands there, or nowhere."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HomeOf = Callable[[str], Path | None]

PACKAGES = ("scratch_gpt", "reference", "parity", "bench", "tests")

OTHERS = {
    "torch",
    "transformers",
    "tokenizers",
    "triton",
    "safetensors",
    "huggingface_hub",
    "numpy",
}
"""Packages of others whose versions differ. To feel for what one of them has is to ask."""

ASKED_OF = {
    "importlib.metadata",
    "packaging",
    "pkg_resources",
    "torch.version",
    "torch.torch_version",
}
"""Modules that are there to be asked for versions."""

ASKING = {
    *("__version__", "version_info", "hexversion", "python_version", "python_version_tuple"),
    *("TorchVersion", "torch_version"),
}
"""Names under which a version is had, whoever's attribute they are."""

MAY_ASK = {
    "reference/compat.py": "the table",
    "tests/reference/test_compat.py": "holds it against what is installed, without its help",
    "tests/packaging/": "the metadata that are asked for are those of this project's own wheel",
}
"""Files and folders in which anything may be asked, and why."""

RECORDED: dict[str, tuple[set[str], str]] = {
    "bench/machine.py": (
        {"importlib.metadata", "platform.python_version", "torch.__version__"},
        "ratios of two installations are not compared",
    ),
    "parity/code.py": ({"importlib.metadata"}, "a report names this project's own version"),
    "parity/knobs.py": (
        {"platform.python_version", "torch.__version__"},
        "a report says what it was made on",
    ),
    "parity/sources/drawn.py": ({"numpy.__version__"}, "a refusal names the NumPy that drew"),
    "reference/character_classes.py": (
        {"importlib.metadata"},
        "its file says whose answers it has",
    ),
    "scratch_gpt/training/circumstances.py": (
        {"torch.__version__"},
        "a run says what it was made on",
    ),
    "tests/parity/test_code.py": ({"importlib.metadata"}, "held against what a report says"),
    "tests/parity/test_doctor.py": (
        {"numpy.__version__", "torch.__version__"},
        "held against what a report says",
    ),
    "tests/parity/test_knobs.py": ({"torch.__version__"}, "held against what a report says"),
    "tests/test_rows.py": (
        {"importlib.metadata", "platform.python_version"},
        "held against the name of the row that runs",
    ),
}
"""Who writes a version down, and decides nothing by it."""

ASKS_ITSELF: dict[str, tuple[set[str], str]] = {
    "scratch_gpt/attention_triton.py": (
        {"triton.__version__"},
        "the model's package imports nothing of ours: see docs/versions.md",
    ),
}
"""Who decides by a version elsewhere, and why it cannot be in the table."""


REFUSES: dict[str, tuple[set[str], str]] = {
    "reference/huggingface_generation.py": (
        {"hasattr(transformers.GenerationConfig())"},
        "a setting that would be ignored is refused, whatever the version",
    ),
    "tests/test_from_scratch.py": (
        {"hasattr(torch.Tensor)"},
        "what a tensor has is what the model may not use unlisted",
    ),
}
"""Who feels for something and takes no other way where it is missing."""

LISTED = {**RECORDED, **ASKS_ITSELF, **REFUSES}


def meanings(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def full_name(node: ast.expr, known: dict[str, str]) -> str:
    """Return what an expression is called in full, `?` where it is no imported name's."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "?")
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, known)}.{node.attr}"
    return full_name(node.func, known) + "()" if isinstance(node, ast.Call) else "?"


def of_modules(name: str) -> Iterator[str]:
    """Give the module that is asked for versions of which a full name is, or is in."""
    yield from (module for module in ASKED_OF if f"{name}.".startswith(f"{module}."))


def felt_for(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    """Give what a call of `hasattr`, or of `getattr` with something to fall back on, feels for."""
    called = node.func.id if isinstance(node.func, ast.Name) else ""
    least = {"hasattr": 2, "getattr": 3}.get(called, len(node.args) + 1)
    if len(node.args) >= least:
        owner = full_name(node.args[0], known)
        if owner.split(".")[0].removesuffix("()") in OTHERS:
            yield f"{called}({owner})"
    if called in {"hasattr", "getattr"} and len(node.args) > 1:
        literal = node.args[1]
        if isinstance(literal, ast.Constant) and literal.value in ASKING:
            yield f"{full_name(node.args[0], known)}.{literal.value}"


def questions(source: str) -> set[str]:
    """Return every question about a version that `source` asks."""
    tree = ast.parse(source)
    known = meanings(tree)
    found = {module for name in known.values() for module in of_modules(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {module for alias in node.names for module in of_modules(alias.name)}
        elif isinstance(node, ast.Call):
            found |= set(felt_for(node, known))
        elif isinstance(node, ast.Attribute):
            name = full_name(node, known)
            found |= set(of_modules(name)) | ({name} if node.attr in ASKING else set())
    return found | {name for name in known.values() if name.split(".")[-1] in ASKING}


def sources(home_of: HomeOf) -> Iterator[tuple[str, str]]:
    """Give path and text of every module, the tests' too."""
    for package in PACKAGES:
        home = Path(__file__).parent if package == "tests" else home_of(package)
        if home is None:
            continue
        for file in sorted(home.rglob("*.py")):
            path = f"{package}/{file.relative_to(home).as_posix()}"
            yield path, file.read_text(encoding="utf-8")


def test_nobody_else_asks_for_a_version(home_of: HomeOf) -> None:
    """Who writes one down is listed with what it is and why, and no list is longer than it must."""
    free = tuple(MAY_ASK)
    asked = {path: questions(text) for path, text in sources(home_of) if not path.startswith(free)}
    assert len(asked) > 300, "nearly nothing was looked at"
    expected = {path: names for path, (names, _why) in LISTED.items()}
    assert {path: names for path, names in asked.items() if names} == expected
    assert len(LISTED) == len(RECORDED) + len(ASKS_ITSELF) + len(REFUSES)


def test_the_table_does_ask(home_of: HomeOf) -> None:
    """The one place is one where the search finds something."""
    asking = [path for path, text in sources(home_of) if questions(text)]
    assert not [free for free in MAY_ASK if not any(path.startswith(free) for path in asking)]


@pytest.mark.parametrize(
    ("source", "question"),
    [
        ("import torch\nif torch.__version__ > '2': ...", "torch.__version__"),
        ("import torch as t\nt.__version__.split('.')", "torch.__version__"),
        ("from torch import __version__", "torch.__version__"),
        ("def f(module):\n    return module.__version__", "?.__version__"),
        ("import torch\ngetattr(torch, '__version__')", "torch.__version__"),
        ("import torch\ntorch.version.cuda", "torch.version"),
        ("import torch.version", "torch.version"),
        ("from torch.torch_version import __doc__", "torch.torch_version"),
        ("from torch import TorchVersion", "torch.TorchVersion"),
        ("from importlib.metadata import version", "importlib.metadata"),
        ("from importlib import metadata\nmetadata.version('torch')", "importlib.metadata"),
        ("import importlib.metadata as m", "importlib.metadata"),
        ("import importlib.metadata", "importlib.metadata"),
        ("def f():\n    from importlib.metadata import distribution", "importlib.metadata"),
        ("from packaging.version import Version", "packaging"),
        ("from packaging import version", "packaging"),
        ("import pkg_resources", "pkg_resources"),
        ("import sys\nsys.version_info >= (3, 12)", "sys.version_info"),
        ("from sys import version_info as v", "sys.version_info"),
        ("import platform\nplatform.python_version_tuple()", "platform.python_version_tuple"),
        ("import torch\nhasattr(torch, 'compile')", "hasattr(torch)"),
        ("import torch\nhasattr(torch.backends.mkldnn, 'x')", "hasattr(torch.backends.mkldnn)"),
        ("from torch import nn\ngetattr(nn, 'Buffer', None)", "getattr(torch.nn)"),
        (
            "from transformers import GenerationConfig as G\nhasattr(G(), 'x')",
            "hasattr(transformers.GenerationConfig())",
        ),
        (
            "from transformers.utils import is_torch_greater_or_equal, torch_version",
            "transformers.utils.torch_version",
        ),
    ],
)
def test_a_planted_question_is_found(source: str, question: str) -> None:
    """However and wherever it stands, it is named."""
    expected = {question}
    assert expected == questions(source)


@pytest.mark.parametrize(
    "source",
    [
        "from reference import compat\ncompat.unpickles_safely()",
        "import os\nhasattr(os, 'fork')",
        "import torch\ngetattr(torch, 'float64')",
        "def f(model):\n    return hasattr(model, 'h')",
        "schema_version = 3\nversion = schema_version",
    ],
)
def test_what_is_no_question_is_left_alone(source: str) -> None:
    """The table's own answers, other things that may be missing, other versions."""
    assert not questions(source)


@pytest.mark.parametrize(
    ("path", "planted"),
    [
        ("parity/knobs.py", "if hasattr(torch.backends.mkldnn, 'matmul'): ..."),
        ("parity/sources/torch_file.py", "int(torch.__version__.split('.')[1]) < 10"),
        ("reference/huggingface.py", "import transformers\ntransformers.__version__ < '5'"),
    ],
)
def test_a_question_planted_into_a_module_is_found(
    path: str, planted: str, home_of: HomeOf
) -> None:
    """Behind all that stands there: the list no longer fits."""
    text = dict(sources(home_of))[path]
    allowed = RECORDED.get(path, (set(), ""))[0]
    assert questions(text) == allowed
    assert questions(f"{text}\n{planted}\n") > allowed
