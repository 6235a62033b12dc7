"""The plugin of the built wheel, in a project that has nothing but a test file and two models."""

import os
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

TESTS = """
from textbook_gpt import TextbookGPT


def test_green(parity_check):
    parity_check(TextbookGPT, seq_len=23)


def test_red(parity_check):
    parity_check("broken_gpt.py", seq_len=23)
"""

AT_START = """
import sys

def pytest_report_header(config):
    return f"LOADED {sorted({'torch', 'transformers'} & set(sys.modules))}"
"""


@pytest.fixture
def bare(wheel: Path, tmp_path: Path) -> Path:
    """Return the Python of an environment with the wheel; its dependencies are those of here."""
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    here = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(here), encoding="utf-8")
    return tmp_path / "env" / "bin" / "python"


@pytest.mark.slow  # torch is imported from another environment
@pytest.mark.timeout(900)
def test_a_bare_project_has_the_plugin(bare: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("textbook_gpt.py", "broken_gpt.py"):
        shutil.copy(EXAMPLES / name, project)
    (project / "test_my_gpt.py").write_text(TESTS, encoding="utf-8")
    (project / "conftest.py").write_text(AT_START, encoding="utf-8")
    ours = ("PYTEST", "COV", "PYTHON", "TOX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [bare, "-m", "pytest", "-rA", "-W", "error", "-p", "no:cacheprovider"]
    options = ["--junitxml", "tests.xml", "--parity-report", "reports"]
    ran = subprocess.run(
        [*command, *options], cwd=project, env=kept, capture_output=True, text=True, check=False
    )
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "LOADED []" in ran.stdout
    assert 'functional.gelu(x, approximate="tanh")' in ran.stdout
    (suite,) = ET.parse(project / "tests.xml").getroot()  # noqa: S314 - our own file
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    written = sorted(file.suffix for file in (project / "reports").iterdir())
    assert written == [".html", ".html", ".json", ".json", ".xml", ".xml"]
