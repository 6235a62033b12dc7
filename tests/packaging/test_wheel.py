"""The wheel and the sdist: contents, metadata, and dependencies."""

import ast
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

import pytest
from trove_classifiers import classifiers as known_classifiers  # comes with hatchling

PACKAGES = {"scratch_gpt", "reference", "parity", "bench"}

DATA = {
    *(f"{package}/py.typed" for package in PACKAGES),
    "scratch_gpt/tokenizer/character_classes.txt",
    "reference/surrogate_digests.json",
    "parity/faults/faults.json",
    "parity/report/report.schema.json",
    *(
        f"parity/report/templates/{name}"
        for name in ("picture.css", "picture.svg", "report.css", "report.html")
    ),
    *(
        f"reference/goldens/{name}.json"
        for name in ("files", "generation", "losses", "matrices", "token_ids", "word_probabilities")
    ),
    "reference/goldens/LICENSE-Apache-2.0.txt",
}
"""Every file of the wheel that is no module. Add a new one here, or exclude it."""

SCRIPTS = {
    "gpt1-check": "parity.check:main",
    "gpt1-convert": "parity.convert:main",
    "gpt1-train": "scratch_gpt.train:main",
    "gpt1-generate": "scratch_gpt.generate:main",
}
"""Installers write these beside the interpreter and list them in RECORD; on Windows as .exe."""

NEEDED = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt", "tox.ini"),
    *("Makefile", "tests/conftest.py", "tests/small_text.txt", "tests/packaging/conftest.py"),
    *(f"{package}/__init__.py" for package in PACKAGES),
    *DATA,
}
"""What a source distribution needs to be built and tested."""


def of_packages(names: Iterable[str]) -> set[str]:
    """Return the files outside the folder of metadata, without the scripts an installer adds."""
    paths = (PurePosixPath(name) for name in names)
    inside = (path for path in paths if not path.parts[0].endswith(".dist-info"))
    return {str(path) for path in inside if not (path.parts[0] == ".." and path.stem in SCRIPTS)}


def unexpected(names: Iterable[str]) -> set[str]:
    """Return the files that do not belong into the wheel."""
    return {
        name
        for name in of_packages(names)
        if name.partition("/")[0] not in PACKAGES or (not name.endswith(".py") and name not in DATA)
    }


def test_nothing_unexpected_is_in_the_wheel(packed_files: frozenset[str]) -> None:
    assert len(of_packages(packed_files)) > 150
    assert not unexpected(packed_files)


@pytest.mark.parametrize(
    "name",
    [
        *("tests/conftest.py", "README.md", "bench/results/cpu.json", "parity/notes.txt"),
        *("../../../bin/other", "gpt1-check"),
    ],
)
def test_an_unexpected_file_is_found(name: str) -> None:
    assert unexpected([*DATA, "parity/check.py", "../../../bin/gpt1-check", name]) == {name}


def test_data_and_metadata_are_in_the_wheel(packed_files: frozenset[str]) -> None:
    """Without `py.typed` a package counts as having no types."""
    assert not DATA - packed_files
    metadata = {name.partition(".dist-info/")[2] for name in packed_files}
    assert not {"METADATA", "RECORD", "WHEEL"} - metadata


def test_every_module_is_in_the_wheel(packed_files: frozenset[str], checkout: Path) -> None:
    """No pattern of ignored files excludes one."""
    found = {
        file.relative_to(checkout).as_posix()
        for package in PACKAGES
        for file in (checkout / package).rglob("*.py")
    }
    assert found == {name for name in of_packages(packed_files) if name.endswith(".py")}


@pytest.fixture(scope="module")
def sdist(checkout: Path, built: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = built("sdist", checkout, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def test_the_sdist_can_be_built_and_tested(sdist: Path) -> None:
    names = {file.relative_to(sdist).as_posix() for file in sdist.rglob("*") if file.is_file()}
    assert not NEEDED - names
    left = {"__pycache__", ".git", ".venv", ".tox", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
    assert not {name for name in names if left & set(PurePosixPath(name).parts)}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_gives_the_wheel_of_the_checkout(
    sdist: Path, checkout: Path, built: Callable, tmp_path: Path
) -> None:
    expected = contents(built("wheel", checkout, tmp_path / "expected"))
    assert expected == contents(built("wheel", sdist, tmp_path / "found"))
    (sdist / "parity" / "check.py").unlink()
    wrong = contents(built("wheel", sdist, tmp_path / "wrong"))
    assert set(expected) - set(wrong) == {"parity/check.py"}


README = Path(__file__).parents[2] / "README.md"
ONE_LINE = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "Keywords")
LICENSES = {
    "reference/goldens/LICENSE-Apache-2.0.txt": ("Apache-2.0", "Version 2.0"),
    "LICENSE": ("MIT", "Permission is hereby granted"),
}
"""Each license's file, its name in the expression, and a part of its text."""


@pytest.mark.parametrize("field", ONE_LINE)
def test_a_field_says_something(field: str, packed: Distribution) -> None:
    (value,) = packed.metadata.get_all(field) or [""]
    assert value.strip()
    assert "UNKNOWN" not in value


def test_name_and_version_are_normal(packed: Distribution) -> None:
    assert packed.metadata["Name"] == "gpt1-parity"
    assert re.fullmatch(r"\d+\.\d+\.\d+", packed.version)
    assert len(packed.metadata["Summary"]) <= 512


def test_the_readme_is_the_description(packed: Distribution) -> None:
    assert packed.metadata["Description-Content-Type"] == "text/markdown"
    description = str(packed.metadata.get_payload())
    assert description.startswith("# ")
    expected = README.read_text(encoding="utf-8")
    assert expected.strip() == description.strip()


def test_every_classifier_is_one(packed: Distribution) -> None:
    found = packed.metadata.get_all("Classifier") or []
    assert len(found) > 5
    assert len(set(found)) == len(found)
    assert not set(found) - known_classifiers
    # Every row of tox.ini has run on Linux only.
    systems = [line for line in found if line.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]


def test_the_oldest_python_is_the_first_classified(packed: Distribution) -> None:
    """Installers read `Requires-Python`, users the classifiers; no later version is missing."""
    found = packed.metadata.get_all("Classifier") or []
    minors = [int(m[1]) for m in (re.search(r":: 3\.(\d+)$", line) for line in found) if m]
    assert packed.metadata["Requires-Python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[0] + len(minors)))


@pytest.mark.parametrize("file", LICENSES)
def test_a_license_is_named_and_packed(file: str, packed: Distribution) -> None:
    name, text = LICENSES[file]
    assert set(packed.metadata.get_all("License-File") or []) == set(LICENSES)
    assert name in packed.metadata["License-Expression"].split(" AND ")
    assert text in (packed.read_text(f"licenses/{file}") or "")


def test_console_scripts_start_the_commands(packed: Distribution) -> None:
    found = {point.name: point for point in packed.entry_points.select(group="console_scripts")}
    assert {name: point.value for name, point in found.items()} == SCRIPTS
    assert all(callable(point.load()) for point in found.values())


TOOLS = {"browser", "test", "docs", "dev"}
"""The extras whose packages are run rather than imported."""


def top_level(source: str) -> set[str]:
    """Return the top-level package of every import, without the standard library's and ours."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - PACKAGES


def declared(requirements: Iterable[str]) -> dict[str, set[str]]:
    """Return the modules of each extra; those of a plain install have the key ""."""
    found: dict[str, set[str]] = {"": set()}
    for line in requirements:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        module = name[0].replace("-", "_") if name else line
        found.setdefault(extra[1] if extra else "", set()).add(module)
    return found


def differences(imported: set[str], requirements: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return what is imported and comes with no install, and what comes and is not imported."""
    of = declared(requirements)
    wanted = (modules for extra, modules in of.items() if extra not in TOOLS)
    return imported - set().union(*of.values()), set().union(*wanted) - imported


def test_imports_and_dependencies_agree(packed: Distribution, packed_files: frozenset[str]) -> None:
    modules = [name for name in packed_files if name.endswith(".py")]
    sources = (packed.locate_file(name).read_text(encoding="utf-8") for name in modules)
    imported = set().union(*map(top_level, sources))
    assert "torch" in imported
    assert differences(imported, packed.requires or []) == (set(), set())


def test_every_extra_brings_something(packed: Distribution) -> None:
    extras = packed.metadata.get_all("Provides-Extra") or []
    assert {*extras, ""} == set(declared(packed.requires or []))
    assert set(extras) > TOOLS


REQUIRES = ["numpy>=2.0", "torch>=2.6", "matplotlib>=3.9; extra == 'plot'", "ruff; extra == 'dev'"]
SOURCE = "import numpy as np\nfrom torch import nn\ndef draw():\n    import matplotlib.figure"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SOURCE, (set(), set())),
        (f"{SOURCE}\n    from scipy import stats", ({"scipy"}, set())),
        ("import numpy, torch, parity, os\nfrom . import taps", (set(), {"matplotlib"})),
    ],
)
def test_a_difference_is_found(source: str, expected: tuple[set[str], set[str]]) -> None:
    assert expected == differences(top_level(source), REQUIRES)
