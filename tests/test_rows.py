"""`tox.ini`: every row runs on the versions in its name, and drift requires its reports."""

import importlib.util
import itertools
import os
import platform
import re
import sysconfig
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
ROW = re.compile(r"py3\d+-torch\d+-hf\d+")
CHECKS = {"layerwise", "gradients", "training", "tokens", "generation"}
IN_MAKE = {"lint", "types"}
"""What `.ci/run` runs with make, and not with tox."""

PARTS = (
    ("testenv", "commands_pre", "{[reports]cleared}"),
    ("testenv", "commands", "{[tests]commands}"),
    ("testenv", "commands", "{[reports]commands}"),
    ("testenv", "commands", '-m "not slow and not packaging and not once and not fault"'),
    ("testenv:wheel", "commands", '-m "once and not slow and not packaging"'),
    ("testenv:drift", "depends", "py3*"),
    ("testenv:drift", "commands", "--same-code"),
    ("testenv:no-reference", "set_env", "GPT1_WITHOUT_TRANSFORMERS = 1"),
)
"""Section, key, and a required part: without it less would run, or older reports would count."""

LENIENT = ("ignore_outcome", "ignore_errors", "skip_missing_interpreters")
IGNORED = re.compile(r"^\s*-[^-]", re.MULTILINE)
"""tox ignores the failure of a command that begins with a dash."""


def parsed(text: str) -> ConfigParser:
    config = ConfigParser(interpolation=None)
    config.read_string(text)
    return config


def expanded(names: str) -> list[str]:
    """Return the names of environments, with every alternative of `{a, b}`."""
    made = []
    for line in filter(None, map(str.strip, names.splitlines())):
        parts = [part.split(",") for part in re.split(r"[{}]", line)]
        made += ["".join(map(str.strip, choice)) for choice in itertools.product(*parts)]
    return made


def pins(deps: str) -> list[tuple[str, str, str]]:
    """Return (factor, package, version) of every line of dependencies that pins one."""
    return re.findall(r"^(?:(\w+): )?(\w+)==(\S+)$", deps, re.MULTILINE)


def problems(text: str) -> list[str]:
    """Return how a row could run other versions or less, or pass although it failed."""
    config = parsed(text)
    names, named = expanded(config["tox"]["env_list"]), pins(config["versions"]["deps"])
    rows = [name for name in names if ROW.fullmatch(name)]
    expected = re.findall(r"--require\s+(\S+)", config["testenv:drift"]["commands"])
    chosen = {factor for row in rows for factor in row.split("-")[1:]}
    pinned = {factor for factor, _, _ in named}
    digits = {factor: re.sub(r"\D", "", factor) for factor in pinned}  # torch26: 2.6.0
    labelled = filter(ROW.fullmatch, re.split(r"[\s,]+", config["tox"]["labels"]))
    own = [name for name in rows if config.has_option(f"testenv:{name}", "commands")]
    fields = [(name, *field) for name, section in config.items() for field in section.items()]
    return [
        *([] if rows else ["no row at all"]),
        *(f"{row} is not expected by drift" for row in rows if row not in expected),
        *(f"{name} is expected by drift, and no row" for name in expected if name not in rows),
        *(f"{factor} has no version" for factor in sorted(chosen - pinned)),
        *(f"{factor} is pinned for no row" for factor in sorted(pinned - chosen)),
        *(f"{name} has a label, and is no row" for name in labelled if name not in rows),
        *(f"{factor} is not {pin}" for factor, _, pin in named
          if digits[factor] != "".join(pin.split(".")[:2])),
        *(f"{part} is gone" for name, key, part in PARTS if part not in config[name][key]),
        *(f"{name} has commands of its own" for name in own),
        *(f"{name} is neither row nor section" for name in names
          if name not in rows and f"testenv:{name}" not in config),
        *(f"a failure of {name}.{key} is ignored" for name, key, value in fields
          if "command" in key and IGNORED.search(value)),
        *(f"{name} has {key} = {value}" for name, key, value in fields
          if key in LENIENT and value != "false"),
    ]  # fmt: skip


def read(name: str) -> str:
    """Return a file of the checkout; in a row of tox it has to be there."""
    path = HOME / name
    if not path.is_file() and "TOX_ENV_NAME" not in os.environ:
        pytest.skip(f"not run: there is no {name} beside the tests")
    return path.read_text(encoding="utf-8")


def test_every_row_has_its_versions_and_is_expected_by_drift() -> None:
    """A row that `drift` does not expect could be skipped without a message."""
    assert not problems(read("tox.ini"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("py311-torch28-hf52", "py311-torch29-hf52", "py311-torch29-hf52 is not expected by drift"),
        ("    torch215: torch==2.15.0\n", "", "torch215 has no version"),
        ("{457, 523}", "523", "py311-torch26-hf457 is expected by drift, and no row"),
        ("torch26: torch==2.6.0", "torch26: torch==2.13.0", "torch26 is not 2.13.0"),
        ("hf52: transformers==5.2.0", "hf52: transformers==5.23.0", "hf52 is not 5.23.0"),
        ("py313-torch215-hf524\n    drift", "3.13-torch215-hf524\n    drift",
         "3.13-torch215-hf524 is neither row nor section"),
        ("    {[tests]commands} -m", "    python -m pytest -m", "{[tests]commands} is gone"),
        ("    {[reports]commands}\n", "", "{[reports]commands} is gone"),
        ("not packaging and not once", "not reference",
         '-m "not slow and not packaging and not once and not fault" is gone'),
        ('-m "once and', '-m "not once and', '-m "once and not slow and not packaging" is gone'),
        ("    {[reports]cleared}\n", "", "{[reports]cleared} is gone"),
        ("--same-code ", "", "--same-code is gone"),
        ("depends = py3*", "depends = wheel", "py3* is gone"),
        ("    GPT1_WITHOUT_TRANSFORMERS = 1\n", "", "GPT1_WITHOUT_TRANSFORMERS = 1 is gone"),
        ("interpreters = false", "interpreters = true",
         "tox has skip_missing_interpreters = true"),
        ("extras = test\n", "extras = test\nignore_outcome = true\n",
         "testenv has ignore_outcome = true"),
        ("commands = python -m pytest -n", "commands = - python -m pytest -n",
         "a failure of tests.commands is ignored"),
        ("    python -m parity.check training", "    - python -m parity.check training",
         "a failure of reports.commands is ignored"),
        ("[testenv:py311-torch213-hf523]\n",
         "[testenv:py311-torch213-hf523]\ncommands = python -c pass\n",
         "py311-torch213-hf523 has commands of its own"),
    ],
)  # fmt: skip
def test_an_injected_problem_is_found(old: str, new: str, problem: str) -> None:
    before = read("tox.ini")
    assert old in before
    assert problem in problems(before.replace(old, new, 1))


def test_names_are_expanded() -> None:
    found = expanded("lint\npy{311, 312}-torch26-hf{457, 523}\n")
    rows = [f"py{python}-torch26-hf{hf}" for python in (311, 312) for hf in (457, 523)]
    assert ["lint", *rows] == found


def test_every_check_writes_a_report() -> None:
    commands = parsed(read("tox.ini"))["reports"]["commands"]
    command = re.compile(r"parity\.check (\w+) .*--fingerprints .*[}](\w+)\.json$", re.MULTILINE)
    assert {(name, name) for name in CHECKS} == set(command.findall(commands))


def test_ci_runs_what_has_its_label() -> None:
    if not (HOME / ".ci").is_dir():
        pytest.skip("not run: these tests are outside a checkout")
    (label,) = re.findall(r"^ci = (.*)$", parsed(read("tox.ini"))["tox"]["labels"], re.MULTILINE)
    (run,) = re.findall(r'^rows="(.*)"$', read(".ci/run"), re.MULTILINE)
    assert set(re.split(r",\s*", label)) - IN_MAKE == set(run.split())


def wanted(name: str, config: ConfigParser) -> dict[str, str]:
    """Return the version of each package that an environment is for, Python's among them."""
    deps = config.get(f"testenv:{name}", "deps", fallback=config["versions"]["deps"])
    deps = deps.replace("{[pinned]deps}", config["pinned"]["deps"])
    factors = ["", *name.split("-")]
    chosen = {package: pin for factor, package, pin in pins(deps) if factor in factors}
    python = re.match(r"py(\d)(\d+)-", name)
    return chosen | ({"python": ".".join(python.groups())} if python else {})


def others(promised: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Return what is installed in another version than promised; `+cpu` is the same one."""
    return [
        f"{name} is {installed[name]}, and {pinned} is promised"
        for name, pinned in promised.items()
        if not f"{installed[name].partition('+')[0]}.".startswith(f"{pinned}.")
    ]


def the_environment() -> str:
    if "TOX_ENV_NAME" not in os.environ:
        pytest.skip("not run: this is no environment of tox")
    return os.environ["TOX_ENV_NAME"]


def test_an_environment_has_what_it_promises() -> None:
    """Otherwise the verdict would be about another version of torch."""
    name = the_environment()
    config = parsed(read("tox.ini"))
    assert name in expanded(config["tox"]["env_list"]), "the name does not fix all versions"
    promised = wanted(name, config)
    assert {"torch", "transformers"} <= set(promised) or name == "lowest"
    installed = {package: version(package) for package in set(promised) - {"python"}}
    assert not others(promised, installed | {"python": platform.python_version()})


def test_an_environment_has_the_wheel() -> None:
    the_environment()
    home = Path(sysconfig.get_path("purelib"))
    for package in ("scratch_gpt", "reference", "parity", "bench"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin).parent == home / package


@pytest.mark.parametrize(
    ("name", "promised"),
    [
        ("py311-torch21-hf523", {"python": "3.11", "torch": "2.1", "transformers": "5.23.0"}),
        ("wheel", {"torch": "2.13.0"}),
    ],
)
def test_what_a_name_promises_is_read(name: str, promised: dict[str, str]) -> None:
    text = """
[versions]
deps =
    torch21: torch==2.1
    torch210: torch==2.10.0
    hf52: transformers==5.2.0
    hf523: transformers==5.23.0
[pinned]
deps =
    torch==2.13.0
[testenv:wheel]
deps =
    {[pinned]deps}
    uv
"""
    assert promised == wanted(name, parsed(re.sub(r"^    ", "\t", text, flags=re.MULTILINE)))


def test_another_version_than_promised_is_found() -> None:
    """2.1 is not 2.10; a build for the CPU is the same version."""
    promised = {"python": "3.11", "torch": "2.1"}
    assert not others(promised, {"python": "3.11.7", "torch": "2.1.2+cpu"})
    (found,) = others(promised, {"python": "3.11.7", "torch": "2.10.0"})
    assert "2.10.0" in found
    assert others(promised, {"python": "3.1.1", "torch": "2.1.2"})
