"""Fixtures of the wheel: the installed one, or one built from an editable checkout."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

CHECKOUT = Path(__file__).parents[2]
NAME = "gpt1-parity"


def build(target: str, source: Path, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        target,
        "--directory",
        folder,
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def built() -> Callable[[str, Path, Path], Path]:
    return build


def origin(installed: Distribution) -> dict[str, object]:
    return json.loads(installed.read_text("direct_url.json") or "{}")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the folder of the whole checkout, or skip: rows of tox run the tests outside it."""
    if not (CHECKOUT / "scratch_gpt").is_dir():
        pytest.skip("not run: these tests are outside a checkout")
    return CHECKOUT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel's file: the installed one if it still exists, otherwise a new one."""
    source = urlsplit(str(origin(distribution(NAME)).get("url", "")))
    path = Path(url2pathname(source.path))
    if path.suffix == ".whl" and path.is_file():
        return path
    if not (CHECKOUT / "scratch_gpt").is_dir():
        pytest.fail(f"neither the installed wheel {path} nor a checkout is here to be examined")
    return build("wheel", CHECKOUT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def packed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Distribution:
    """Return the distribution to examine: the installed wheel, or a built one unpacked."""
    installed = distribution(NAME)
    if not dict(origin(installed).get("dir_info", {})).get("editable"):
        return installed
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(request.getfixturevalue("wheel")) as archive:
        archive.extractall(folder)
    (metadata,) = folder.glob("*.dist-info")
    return Distribution.at(metadata)


@pytest.fixture(scope="session")
def packed_files(packed: Distribution) -> frozenset[str]:
    """Return the path of every file that the wheel brings, without what installers add."""
    names = (file.as_posix() for file in packed.files or ())
    return frozenset(name for name in names if not name.endswith(".pyc"))
