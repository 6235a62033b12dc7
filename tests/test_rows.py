"""What `tox.ini` promises: every row has its versions, leaves its evidence, and is waited for."""

import configparser
import itertools
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import pytest

TOX = Path(__file__).parents[1] / "tox.ini"
ROW = re.compile(r"py3\d+-torch\d+-hf\d+")
CHECKS = {"layerwise", "gradients", "training", "tokens", "generation"}


def parsed(text: str) -> configparser.ConfigParser:
    """Return the sections, `%` meaning nothing."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(text)
    return config


def expanded(names: str) -> list[str]:
    """Return the names of environments, each `{a, b}` written out."""
    made = []
    for line in filter(None, map(str.strip, names.splitlines())):
        parts = [part.split(",") for part in re.split(r"[{}]", line)]
        made += ["".join(map(str.strip, choice)) for choice in itertools.product(*parts)]
    return made


def problems(text: str) -> list[str]:
    """Return what is not as promised."""
    config = parsed(text)
    rows = [name for name in expanded(config["tox"]["env_list"]) if ROW.fullmatch(name)]
    expected = re.findall(r"--expect\s+(\S+)", config["testenv:drift"]["commands"])
    pinned = set(re.findall(r"^(\w+):", config["versions"]["deps"], re.MULTILINE))
    chosen = {factor for row in rows for factor in row.split("-")[1:]}
    labelled = filter(ROW.fullmatch, re.split(r"[\s,]+", config["tox"]["labels"]))
    return [
        *([] if rows else ["no row at all"]),
        *(f"{row} is not expected by drift" for row in rows if row not in expected),
        *(f"{name} is expected by drift, and no row" for name in expected if name not in rows),
        *(f"{factor} has no version" for factor in sorted(chosen - pinned)),
        *(f"{factor} is pinned for no row" for factor in sorted(pinned - chosen)),
        *(f"{name} has a label, and is no row" for name in labelled if name not in rows),
    ]


def text() -> str:
    """Return `tox.ini`, if the tests stand beside it."""
    if not TOX.is_file():
        pytest.skip("not run: there is no tox.ini beside the tests")
    return TOX.read_text(encoding="utf-8")


def test_every_row_has_its_versions_and_is_waited_for() -> None:
    """A row that `drift` does not expect could be skipped, and nobody would say so."""
    assert not problems(text())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("py311-torch28-hf52", "py311-torch29-hf52", "py311-torch29-hf52 is not expected by drift"),
        ("    torch215: torch==2.15.0\n", "", "torch215 has no version"),
        ("{457, 523}", "523", "py311-torch26-hf457 is expected by drift, and no row"),
    ],
)
def test_a_broken_promise_is_found(old: str, new: str, said: str) -> None:
    """A new row that is nowhere else, a version left out, a row gone."""
    before = text()
    assert old in before
    assert said in problems(before.replace(old, new, 1))


def test_names_are_written_out() -> None:
    """As tox does it."""
    found = expanded("lint\npy{311, 312}-torch26-hf{457, 523}\n")
    rows = [f"py{python}-torch26-hf{hf}" for python in (311, 312) for hf in (457, 523)]
    assert ["lint", *rows] == found


def test_every_check_leaves_evidence() -> None:
    """The five reports that `drift` reads, each under its verb's name."""
    commands = parsed(text())["evidence"]["commands"]
    command = re.compile(r"parity\.check (\w+) .*--fingerprints .*[}](\w+)\.json$", re.MULTILINE)
    assert {(name, name) for name in CHECKS} == set(command.findall(commands))


PYTHON = re.compile(r"py(\d)(\d+)-")


def wanted(row: str, pins: str) -> dict[str, str]:
    """Return the version of each package that a row's name stands for, Python's among them."""
    python = PYTHON.match(row)
    lines = re.findall(r"^(\w+): (\w+)==(\S+)$", pins, re.MULTILINE)
    return {
        **({"python": ".".join(python.groups())} if python else {}),
        **{package: pinned for factor, package, pinned in lines if factor in row.split("-")},
    }


def others(promised: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Return what is installed in another version than promised; `+cpu` is the same one."""
    return [
        f"{name} is {installed[name]}, and the row's name says {pinned}"
        for name, pinned in promised.items()
        if not f"{installed[name].partition('+')[0]}.".startswith(f"{pinned}.")
    ]


def test_a_row_runs_on_what_its_name_says() -> None:
    """A resolver that took another torch would make the verdict one about that."""
    row = os.environ.get("TOX_ENV_NAME", "")
    if not ROW.fullmatch(row):
        pytest.skip("not run: this is no row of tox")
    promised = wanted(row, parsed(text())["versions"]["deps"])
    assert {"python", "torch", "transformers"} == set(promised)
    installed = {name: version(name) for name in ("torch", "transformers")}
    assert not others(promised, installed | {"python": platform.python_version()})


def test_another_version_than_the_names_is_found() -> None:
    """2.1 is not 2.10, nor 2.13.0 another for being built for the CPU."""
    pins = "torch21: torch==2.1\nhf523: transformers==5.23.0\nhf52: transformers==5.2.0"
    promised = wanted("py311-torch21-hf523", pins)
    assert promised == {"python": "3.11", "torch": "2.1", "transformers": "5.23.0"}
    installed = {"python": "3.11.7", "torch": "2.1.2+cpu", "transformers": "5.23.0"}
    assert not others(promised, installed)
    (found,) = others(promised, installed | {"torch": "2.10.0"})
    assert "2.10.0" in found
    assert others(promised, installed | {"python": "3.1.1"})
