"""`tox.ini`: every row runs on the versions that its name says, and drift requires its reports."""

import configparser
import importlib.util
import itertools
import os
import platform
import re
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
ROW = re.compile(r"py3\d+-torch\d+-hf\d+")
CHECKS = {"layerwise", "gradients", "training", "tokens", "generation"}
IN_MAKE = {"lint", "types"}
"""What `.ci/run` asks make for, and not tox."""

Config = configparser.ConfigParser


def parsed(text: str) -> Config:
    """Return the sections, `%` meaning nothing."""
    config = Config(interpolation=None)
    config.read_string(text)
    return config


def expanded(names: str) -> list[str]:
    """Return the names of environments, each `{a, b}` written out."""
    made = []
    for line in filter(None, map(str.strip, names.splitlines())):
        parts = [part.split(",") for part in re.split(r"[{}]", line)]
        made += ["".join(map(str.strip, choice)) for choice in itertools.product(*parts)]
    return made


def rows_of(config: Config) -> list[str]:
    """Return the names of the rows."""
    return [name for name in expanded(config["tox"]["env_list"]) if ROW.fullmatch(name)]


def pins(deps: str) -> list[tuple[str, str, str]]:
    """Return (factor, package, version) of every line of dependencies that pins one."""
    return re.findall(r"^(?:(\w+): )?(\w+)==(\S+)$", deps, re.MULTILINE)


def of_names(config: Config) -> list[str]:
    """Return where a name and what it stands for part."""
    rows, named = rows_of(config), pins(config["versions"]["deps"])
    expected = re.findall(r"--require\s+(\S+)", config["testenv:drift"]["commands"])
    chosen = {factor for row in rows for factor in row.split("-")[1:]}
    pinned = {factor for factor, _, _ in named}
    labelled = filter(ROW.fullmatch, re.split(r"[\s,]+", config["tox"]["labels"]))
    return [
        *([] if rows else ["no row at all"]),
        *(f"{row} is not expected by drift" for row in rows if row not in expected),
        *(f"{name} is expected by drift, and no row" for name in expected if name not in rows),
        *(f"{factor} has no version" for factor in sorted(chosen - pinned)),
        *(f"{factor} is pinned for no row" for factor in sorted(pinned - chosen)),
        *(f"{name} has a label, and is no row" for name in labelled if name not in rows),
        *(f"{factor} is not {pin}" for factor, _, pin in named if not says(factor, pin)),
    ]


def says(factor: str, pin: str) -> bool:
    """Return whether a factor's digits are a version's first two numbers: torch26 and 2.6.0."""
    return re.sub(r"\D", "", factor) == "".join(pin.split(".")[:2])


PARTS = (
    ("testenv", "commands_pre", "{[reports]cleared}"),
    ("testenv", "commands", "{[tests]commands}"),
    ("testenv", "commands", "{[reports]commands}"),
    ("testenv:drift", "depends", "py3*"),
    ("testenv:drift", "commands", "--same-code"),
    ("testenv:no-reference", "set_env", "GPT1_WITHOUT_TRANSFORMERS = 1"),
)
"""Section, key, and a required part: without it less would run, or older reports would count."""


def of_parts(config: Config) -> list[str]:
    """Return what would let a row pass that ran less."""
    names = expanded(config["tox"]["env_list"])
    own = [name for name in rows_of(config) if "commands" in section_of(config, name)]
    unknown = [
        name for name in names if not ROW.fullmatch(name) and f"testenv:{name}" not in config
    ]
    return [
        *(f"{part} is gone" for name, key, part in PARTS if part not in config[name][key]),
        *(f"{name} has commands of its own" for name in own),
        *(f"{name} is neither row nor section" for name in unknown),
    ]


LENIENT = ("ignore_outcome", "ignore_errors", "skip_missing_interpreters")


def of_failures(config: Config) -> list[str]:
    """Return where a row that failed would be counted as passed."""
    unheard = re.compile(r"^\s*-[^-]", re.MULTILINE)  # tox lets a command fail that begins so
    said = [
        (name, key, value) for name, section in config.items() for key, value in section.items()
    ]
    return [
        *(f"a failure of {name}.{key} is let pass" for name, key, value in said
          if "command" in key and unheard.search(value)),
        *(f"{name} has {key} = {value}" for name, key, value in said
          if key in LENIENT and value != "false"),
    ]  # fmt: skip


def section_of(config: Config, name: str) -> dict[str, str]:
    """Return what an environment's own section says; nothing where it has none."""
    section = f"testenv:{name}"
    return dict(config.items(section)) if config.has_section(section) else {}


def problems(text: str) -> list[str]:
    """Return what is not as promised."""
    config = parsed(text)
    return [*of_names(config), *of_parts(config), *of_failures(config)]


def read(name: str) -> str:
    """Return a file of the checkout; in a row of tox it has to be there."""
    path = HOME / name
    if not path.is_file() and "TOX_ENV_NAME" not in os.environ:
        pytest.skip(f"not run: there is no {name} beside the tests")
    return path.read_text(encoding="utf-8")


def test_every_row_has_its_versions_and_is_waited_for() -> None:
    """A row that `drift` does not expect could be skipped, and nobody would say so."""
    assert not problems(read("tox.ini"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("py311-torch28-hf52", "py311-torch29-hf52", "py311-torch29-hf52 is not expected by drift"),
        ("    torch215: torch==2.15.0\n", "", "torch215 has no version"),
        ("{457, 523}", "523", "py311-torch26-hf457 is expected by drift, and no row"),
        ("torch26: torch==2.6.0", "torch26: torch==2.13.0", "torch26 is not 2.13.0"),
        ("hf52: transformers==5.2.0", "hf52: transformers==5.23.0", "hf52 is not 5.23.0"),
        ("py313-torch215-hf524\n    drift", "3.13-torch215-hf524\n    drift",
         "3.13-torch215-hf524 is neither row nor section"),
        ("commands =\n    {[tests]commands}\n    {[re", "commands =\n    {[re",
         "{[tests]commands} is gone"),
        ("    {[tests]commands}\n    {[reports]commands}\n", "    {[tests]commands}\n",
         "{[reports]commands} is gone"),
        ("    {[reports]cleared}\n", "", "{[reports]cleared} is gone"),
        ("--same-code ", "", "--same-code is gone"),
        ("depends = py3*", "depends = wheel", "py3* is gone"),
        ("    GPT1_WITHOUT_TRANSFORMERS = 1\n", "", "GPT1_WITHOUT_TRANSFORMERS = 1 is gone"),
        ("interpreters = false", "interpreters = true",
         "tox has skip_missing_interpreters = true"),
        ("extras = test\n", "extras = test\nignore_outcome = true\n",
         "testenv has ignore_outcome = true"),
        ("commands = python -m pytest -n", "commands = - python -m pytest -n",
         "a failure of tests.commands is let pass"),
        ("    python -m parity.check training", "    - python -m parity.check training",
         "a failure of reports.commands is let pass"),
        ("[testenv:py311-torch213-hf523]\n",
         "[testenv:py311-torch213-hf523]\ncommands = python -c pass\n",
         "py311-torch213-hf523 has commands of its own"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_found(old: str, new: str, said: str) -> None:
    """However a row could come to run less than it says, or to be counted though it failed."""
    before = read("tox.ini")
    assert old in before
    assert said in problems(before.replace(old, new, 1))


def test_names_are_written_out() -> None:
    """As tox does it."""
    found = expanded("lint\npy{311, 312}-torch26-hf{457, 523}\n")
    rows = [f"py{python}-torch26-hf{hf}" for python in (311, 312) for hf in (457, 523)]
    assert ["lint", *rows] == found


def test_every_check_writes_a_report() -> None:
    """The five reports that `drift` reads, each under its verb's name."""
    commands = parsed(read("tox.ini"))["reports"]["commands"]
    command = re.compile(r"parity\.check (\w+) .*--fingerprints .*[}](\w+)\.json$", re.MULTILINE)
    assert {(name, name) for name in CHECKS} == set(command.findall(commands))


def test_ci_runs_what_has_its_label() -> None:
    """The list that a person reads, and the one that runs."""
    if not (HOME / ".ci").is_dir():
        pytest.skip("not run: these tests stand outside a checkout")
    (label,) = re.findall(r"^ci = (.*)$", parsed(read("tox.ini"))["tox"]["labels"], re.MULTILINE)
    (run,) = re.findall(r'^rows="(.*)"$', read(".ci/run"), re.MULTILINE)
    assert set(re.split(r",\s*", label)) - IN_MAKE == set(run.split())


def wanted(name: str, config: Config) -> dict[str, str]:
    """Return the version of each package that an environment is for, Python's among them."""
    section = section_of(config, name)
    deps = section.get("deps", config["versions"]["deps"]).replace(
        "{[pinned]deps}", config["pinned"]["deps"]
    )
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
    """Return the name of the environment that tox runs these tests in."""
    if "TOX_ENV_NAME" not in os.environ:
        pytest.skip("not run: this is no environment of tox")
    return os.environ["TOX_ENV_NAME"]


def test_an_environment_has_what_it_promises() -> None:
    """A resolver that took another torch would make the verdict one about that."""
    name = the_environment()
    config = parsed(read("tox.ini"))
    assert name in expanded(config["tox"]["env_list"]), "half a name leaves versions to chance"
    promised = wanted(name, config)
    assert {"torch", "transformers"} <= set(promised) or name == "lowest"
    installed = {package: version(package) for package in set(promised) - {"python"}}
    assert not others(promised, installed | {"python": platform.python_version()})


def test_an_environment_has_the_wheel() -> None:
    """Every package of ours is imported from where packages are installed, and not edited there."""
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
    """From its factors, or from its own section."""
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
    """2.1 is not 2.10, nor is a version another for being built for the CPU."""
    promised = {"python": "3.11", "torch": "2.1"}
    assert not others(promised, {"python": "3.11.7", "torch": "2.1.2+cpu"})
    (found,) = others(promised, {"python": "3.11.7", "torch": "2.10.0"})
    assert "2.10.0" in found
    assert others(promised, {"python": "3.1.1", "torch": "2.1.2"})
