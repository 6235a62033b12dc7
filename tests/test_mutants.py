"""The record of mutants: current, fair and with a reason for every survivor."""

import importlib.util
import json
import runpy
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOME = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(HOME / "tests" / "mutants.py"))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HOME / "docs" / "mutants.json").read_bytes())
    return found


def test_the_page_is_current(script: dict[str, Any], record: dict[str, Any]) -> None:
    page = (HOME / "docs" / "mutants.md").read_text(encoding="utf-8")
    assert page == script["page"](record), "run make mutants ARGS=--page"


def test_97_percent_are_killed_and_each_survivor_has_a_reason(record: dict[str, Any]) -> None:
    """An equivalent mutant computes the same, so that no test can find it."""
    total = Counter[str]()
    for row in record["modules"].values():
        total.update(row)
    alive = [one for one in record["survivors"] if not one["reason"].startswith("equivalent")]
    assert total["killed"] > 0.97 * (total["killed"] + len(alive)) > 0
    survivors = Counter(one["module"] for one in record["survivors"])
    assert {m: row["survived"] for m, row in record["modules"].items()} == {
        module: survivors[module] for module in record["modules"]
    }
    assert all(one["reason"] for one in record["survivors"])


def test_the_tests_of_every_module_are_there(
    script: dict[str, Any], record: dict[str, Any]
) -> None:
    assert list(script["TESTS"]) == list(record["modules"])
    for module in script["TESTS"]:
        assert importlib.util.find_spec(script["name_of"](module)) is not None
        assert all((HOME / name).exists() for name in script["files_of"](module))


def test_every_prefix_of_the_sample_has_its_share_of_each_module(script: dict[str, Any]) -> None:
    sizes = {"a": 700, "b": 250, "c": 50}
    sample = script["in_turn"](sizes, 5)
    assert sorted(sample) == [(name, i) for name, size in sizes.items() for i in range(size)]
    assert sample == script["in_turn"](sizes, 5) != script["in_turn"](sizes, 6)
    for count in (20, 100, 301):
        found = Counter(name for name, _ in sample[:count])
        for name, size in sizes.items():
            assert abs(found[name] - count * size / 1000) <= 2


def test_the_function_of_a_mutant_is_changed_in_place(script: dict[str, Any]) -> None:
    code = "class A:\n    @classmethod\n    def f(cls, x=1):\n        return x + 1\n\nY = 3\n"
    module = ModuleType("one")
    module.__file__ = "one.py"
    exec(compile(code, "one.py", "exec"), vars(module))  # noqa: S102 - written above
    function = module.A.f

    def changed(source: str, function: str) -> bool:
        mutant = script["Mutant"](module="", line=1, change="", source=source, function=function)
        return bool(script["replace_code"](module, mutant))

    assert not changed(code.replace("3", "4"), "")
    assert not changed(code.replace("x=1", "x=2"), "A.f")  # a default is not in the body
    assert function() == 2
    assert changed(code.replace("x + 1", "x - 1"), "A.f")
    assert function() == 0
