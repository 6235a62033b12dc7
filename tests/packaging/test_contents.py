"""The contents of wheel and sdist: every module, its data, its licenses, and nothing else."""

import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pytest

PACKAGES = {"scratch_gpt", "reference", "parity", "bench"}

DATA = {
    *(f"{package}/py.typed" for package in PACKAGES),
    "scratch_gpt/tokenizer/character_classes.txt",
    "reference/surrogate_digests.json",
    *(
        f"reference/goldens/{name}.json"
        for name in (
            *("files", "generation", "losses", "matrices", "token_ids", "word_probabilities"),
        )
    ),
    "reference/goldens/LICENSE-Apache-2.0.txt",
}
"""Every file of the wheel that is no module. Add a new one here, or exclude it."""

LICENCES = {
    "licenses/LICENSE",
    "licenses/reference/goldens/LICENSE-Apache-2.0.txt",
}

CONSOLE_SCRIPTS = {"gpt1-check", "gpt1-convert", "gpt1-generate", "gpt1-train"}
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
    return {
        str(path) for path in inside if not (path.parts[0] == ".." and path.stem in CONSOLE_SCRIPTS)
    }


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


def test_every_data_file_is_in_the_wheel(packed_files: frozenset[str]) -> None:
    """Without `py.typed` a package counts as having no types."""
    assert not DATA - packed_files


def test_every_licence_is_in_the_wheel(packed_files: frozenset[str]) -> None:
    parts = (name.partition(".dist-info/") for name in packed_files)
    metadata = {inside for _, found, inside in parts if found}
    assert not {*LICENCES, "METADATA", "RECORD", "WHEEL"} - metadata


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
