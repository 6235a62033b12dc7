"""Every extra installs alone and beside the others, agrees with what is there, and works.

Each test makes an environment of its own with uv, from the package index: `tox -e extras`, or
`pytest -m packaging` in a checkout. Versions are those of the file that `UV_CONSTRAINT` names, or
of constraints.txt. Each extra is also resolved without constraints, and not installed.
"""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # comes with pytest

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1_800)]  # an index may be slow

HERE = Path(__file__).parents[2]
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])

IMPORT_ALL = """
import importlib, pathlib
for package in ("scratch_gpt", "reference", "parity", "bench"):
    home = pathlib.Path(importlib.import_module(package).__path__[0])
    for file in sorted(home.rglob("*.py")):
        name = ".".join(file.relative_to(home.parent).with_suffix("").parts)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name not in ("matplotlib", "triton", "ftfy", "spacy", "pytest"):
                raise
print("imported")
"""
"""Imports every module. What an extra brings may be missing; a dependency may not."""

KERNEL = """
import torch
from scratch_gpt.kernels.triton_attention import unavailable
reason = unavailable(torch.device("cuda"))
print(reason if reason and "GPU" not in reason else "new enough")
"""

WORDS = """
from scratch_gpt.tokenizer.pretokenizers import pretokenizer_named
print(pretokenizer_named("original").words("I can't."))
"""

CURVE = """
from pathlib import Path
from scratch_gpt.training.log import draw_loss_curve
draw_loss_curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], Path("curve.png"))
print(Path("curve.png").read_bytes()[1:4].decode())
"""

BROWSER = "import axe_playwright_python, playwright.sync_api; print('imported')"

SAMPLE = HERE / "tests" / "reference" / "test_published.py"
HELP = ("-m", "parity.check", "doctor", "--help")
PLUGINS = ("-n", "1", "--no-cov", "--benchmark-disable", "-p", "no:cacheprovider")

Command = tuple[str, ...]

WORK: dict[str, tuple[tuple[Command, str], ...]] = {
    "": (
        (("-c", IMPORT_ALL), "imported"),
        (("-m", "bench.ratios", "--list"), "core/forward"),
    ),
    "triton": ((("-c", KERNEL), "new enough"),),
    "original-text": ((("-c", WORDS), "['i', 'ca', \"n't\", '.']"),),
    "plot": ((("-c", CURVE), "PNG"),),
    "browser": ((("-c", BROWSER), "imported"),),
    "test": (
        (("-m", "pytest", "-c", str(HERE / "pyproject.toml"), *PLUGINS, str(SAMPLE)), " passed"),
    ),
    "docs": ((("-m", "mkdocs", "--version"), "mkdocs"),),
    "dev": tuple((("-m", tool, "--version"), tool) for tool in ("mypy", "ruff", "tox")),
}
"""What each extra is for, as commands of its Python and what they print; "" is a plain install."""

CASES = {"plain": [""], **{extra: [extra] for extra in EXTRAS}, "all": ["", *EXTRAS]}


def brought(extra: str, **elsewhere: str) -> set[str]:
    """Return the packages that an extra needs on this machine, or on one with these markers."""
    lines = map(Requirement, PROJECT["optional-dependencies"].get(extra, PROJECT["dependencies"]))
    return {
        line.name for line in lines if line.marker is None or line.marker.evaluate({**elsewhere})
    }


def settings() -> dict[str, str]:
    """Return the environment without the variables of the running tests."""
    ours = ("PYTEST", "COV", "PYTHON", "VIRTUAL_ENV", "TOX", "UV_CONSTRAINT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    wheels = kept.get("UV_FIND_LINKS") or kept.get("PIP_FIND_LINKS", "")
    return kept | {"UV_FIND_LINKS": wheels}


def constraints() -> tuple[str, str]:
    """Return the option with the constraints; uv splits the paths in its variable at spaces."""
    source = Path(os.environ.get("UV_CONSTRAINT", HERE / "constraints.txt"))
    assert source.is_file(), f"no versions to keep to: {source}"
    return "--constraints", str(source)


def run(*command: str, folder: Path) -> str:
    result = subprocess.run(
        command,
        cwd=folder,
        env=settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert not result.returncode, f"{' '.join(command)}\n{result.stdout}"
    return result.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which("uv", path=beside)
    assert found is not None, "these tests need uv"
    return found


def requirement(wheel: Path, extras: list[str]) -> str:
    return f"gpt1-parity[{','.join(filter(None, extras))}] @ {wheel.as_uri()}"


def installed(uv: str, wheel: Path, extras: list[str], folder: Path) -> str:
    run(uv, "venv", "--python", sys.executable, "env", folder=folder)
    homes = os.pathsep.join(str(folder / "env" / home) for home in ("bin", "Scripts"))
    python = str(shutil.which("python", path=homes))
    install = (uv, "pip", "install", "--python", python, *constraints())
    run(*install, requirement(wheel, extras), folder=folder)
    return python


def resolved(uv: str, *wanted: str, options: tuple[str, ...] = (), folder: Path) -> dict[str, str]:
    """Return the version of each package that uv would install."""
    (folder / "wanted.in").write_text("\n".join(wanted), encoding="utf-8")
    plain = ("--python", sys.executable, "--no-header", "--no-annotate", "--quiet")
    lines = run(uv, "pip", "compile", *plain, *options, "wanted.in", folder=folder).splitlines()
    pairs = (line.partition(" ;")[0].split("==") for line in lines if "==" in line)
    return {name.replace("-", "_"): version for name, version in pairs}


def test_every_extra_is_tried(packed: Distribution) -> None:
    assert sorted(packed.metadata.get_all("Provides-Extra") or []) == EXTRAS
    assert {*EXTRAS, ""} == set(WORK)


@pytest.mark.parametrize("case", CASES)
def test_an_extra_installs_and_works(case: str, uv: str, wheel: Path, tmp_path: Path) -> None:
    useful = [extra for extra in CASES[case] if brought(extra)]
    if not useful:
        pytest.skip(f"not run: on {platform.system()} the extra {case} brings nothing")
    python = installed(uv, wheel, CASES[case], tmp_path)
    run(uv, "pip", "check", "--python", python, folder=tmp_path)
    assert "Usage: python -m parity.check doctor" in run(python, *HELP, folder=tmp_path)
    for extra in useful:
        for command, expected in WORK[extra]:
            assert expected in run(python, *command, folder=tmp_path)


def test_without_its_extra_the_work_is_not_done(uv: str, wheel: Path, tmp_path: Path) -> None:
    """So a pass above depends on the extra; `pip check` finds a missing dependency."""
    python = installed(uv, wheel, [], tmp_path)
    for extra in ("original-text", "plot", "test", "docs", "dev"):
        (command, _), *_ = WORK[extra]
        with pytest.raises(AssertionError, match=r"No module named|is not installed"):
            run(python, *command, folder=tmp_path)
    run(uv, "pip", "uninstall", "--python", python, "safetensors", folder=tmp_path)
    with pytest.raises(AssertionError, match="safetensors"):
        run(uv, "pip", "check", "--python", python, folder=tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_an_extra_resolves_unconstrained(case: str, uv: str, wheel: Path, tmp_path: Path) -> None:
    """To the newest versions of the index, as when a user installs it."""
    found = resolved(uv, requirement(wheel, CASES[case]), folder=tmp_path)
    wanted = set().union(*(brought(extra) for extra in ("", *CASES[case])))
    assert {name.replace("-", "_") for name in wanted} <= set(found)


def test_what_contradicts_the_wheel_is_found(uv: str, wheel: Path, tmp_path: Path) -> None:
    plain = requirement(wheel, [])
    with pytest.raises(AssertionError, match="No solution found"):
        resolved(uv, plain, "typer==0.25.1", folder=tmp_path)
    assert resolved(uv, plain, "typer==0.26.0", folder=tmp_path)["typer"] == "0.26.0"


def test_a_path_with_a_space_constrains(
    uv: str, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "my own" / "versions.txt"
    other.parent.mkdir()
    other.write_text("typer==0.26.0\n", encoding="utf-8")
    monkeypatch.setenv("UV_CONSTRAINT", str(other))
    found = resolved(uv, requirement(wheel, []), options=constraints(), folder=tmp_path)
    assert found["typer"] == "0.26.0"


def test_what_an_extra_brings_goes_by_the_system() -> None:
    assert brought("triton", platform_system="Linux") == {"triton"}
    nothing = [extra for extra in ("", *EXTRAS) if not brought(extra, platform_system="Darwin")]
    assert nothing == ["triton"]
