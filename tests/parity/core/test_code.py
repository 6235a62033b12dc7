"""Which code gave a verdict: four packages in 16 digits, wherever they are installed."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from parity.core import code
from parity.core.code import PACKAGES, code_digest, digest, package_folders

Change = Callable[[Path], object]


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name in ("one", "two"):
        made[name] = tmp_path / name
        (made[name] / "inner").mkdir(parents=True)
        (made[name] / "__init__.py").write_bytes(b"")
        (made[name] / "inner" / "part.py").write_bytes(f"NAME = {name!r}\n".encode())
        (made[name] / "inner.py").write_bytes(b"# beside it\n")
    return made


def test_a_copy_elsewhere_is_the_same_code(tmp_path: Path) -> None:
    """Byte code and markers that an installer writes beside the source do not count."""
    found = package_folders()
    assert found is not None
    moved = {}
    for name, home in found.items():
        moved[name] = tmp_path / name
        shutil.copytree(home, moved[name], ignore=shutil.ignore_patterns("__pycache__"))
        (moved[name] / "__pycache__").mkdir()
        (moved[name] / "__pycache__" / "taps.cpython-311.pyc").write_bytes(b"compiled")
        (moved[name] / "py.typed").touch()
    backwards = dict(reversed(moved.items()))
    assert digest(found) == digest(moved) == digest(backwards)


CHANGES: dict[str, Change] = {
    "a byte": lambda home: (home / "inner" / "part.py").write_bytes(b"NAME = 'onf'\n"),
    "a line end": lambda home: (home / "inner" / "part.py").write_bytes(b"NAME = 'one'\r\n"),
    "a name": lambda home: (home / "inner.py").rename(home / "outer.py"),
    "another place": lambda home: (home / "inner.py").rename(home / "inner" / "inner.py"),
    "an empty file more": lambda home: (home / "inner" / "__init__.py").touch(),
    "a file less": lambda home: (home / "inner.py").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_another_code(change: str, copies: dict[str, Path]) -> None:
    before = digest(copies)
    CHANGES[change](copies["one"])
    assert before != digest(copies)


def test_what_moves_from_file_to_file_is_a_change(tmp_path: Path) -> None:
    found = set()
    for number, (first, second) in enumerate([("ab", "c"), ("a", "bc"), ("", "abc")]):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "a.py").write_text(first, encoding="utf-8")
        (home / "b.py").write_text(second, encoding="utf-8")
        found.add(digest({"package": home}))
    assert len(found) == 3


def test_a_name_in_a_file_is_no_file(tmp_path: Path) -> None:
    """Lengths are hashed too: contents that look like the next file's name change the digest."""
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    (tmp_path / "b.py").write_text("2", encoding="utf-8")
    two = digest({"package": tmp_path})
    (tmp_path / "b.py").unlink()
    for between in ("package/b.py\n", "package/b.py\n1\n"):
        (tmp_path / "a.py").write_text(f"1{between}2", encoding="utf-8")
        assert digest({"package": tmp_path}) != two


def test_all_four_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = package_folders()
    assert found is not None
    assert ("bench", "parity", "reference", "scratch_gpt") == PACKAGES == tuple(found)
    without = [{n: home for n, home in found.items() if n != name} for name in found]
    assert len({digest(found), *map(digest, without)}) == 5
    monkeypatch.setattr(code, "PACKAGES", (*PACKAGES, "no_such_package"))
    assert package_folders() is None


def test_another_project_of_the_name_is_not_it(tmp_path: Path) -> None:
    """A folder `bench` in the working directory is not read."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("OTHER = 1\n", encoding="utf-8")
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import parity.core.code as c; print(c.code_digest())"
    )
    command = [sys.executable, "-c", program, str(Path(code.__file__).parents[2])]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == code_digest()


def test_it_is_said_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = package_folders()
    assert found is not None
    monkeypatch.setattr(code, "version", lambda _name: "1.2.3")
    assert code_digest() == f"gpt1-parity 1.2.3, sha256 {digest(found)}"

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(code, "version", missing)
    monkeypatch.setattr(code, "package_folders", lambda: None)
    assert code_digest() == "gpt1-parity not installed, source not known"


def test_nothing_is_imported_for_it() -> None:
    program = "import sys, parity.core.code; parity.core.code.code_digest(); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert {"bench", "reference", "torch", "numpy"}.isdisjoint(ran.stdout.split())
    assert "parity.core.code" in ran.stdout.split()


@pytest.mark.slow  # torch is imported once more
def test_packages_in_an_archive_have_no_files(
    command: Callable[..., Any], archive: Path, strictly: Callable[[str], Any]
) -> None:
    arguments = ["weights", "--weights", "tiny", "--format", "json"]
    ran = command(*arguments, python=["-P", str(archive)])
    said = strictly(ran.stdout)["identity"]["code"]
    assert (ran.returncode, said.split(", ")[1]) == (0, "source not known")
