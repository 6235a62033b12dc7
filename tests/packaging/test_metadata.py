"""What the package index shows: complete, and true of what is packed."""

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from trove_classifiers import classifiers as known_classifiers  # comes with hatchling

README = Path(__file__).parents[2] / "README.md"
ONE_LINE = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "Keywords")
FILES = {
    "reference/goldens/LICENSE-Apache-2.0.txt": "Apache-2.0",
    "LICENSE": "MIT",
}
"""Each file of licences, and the expression's word for it."""


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


def test_no_system_is_claimed_but_what_was_tried(packed: Distribution) -> None:
    """Every row of tox.ini has run on Linux only."""
    found = packed.metadata.get_all("Classifier") or []
    expected = ["Operating System :: POSIX :: Linux"]
    assert expected == [line for line in found if line.startswith("Operating System")]


def test_the_oldest_python_is_the_first_classified(packed: Distribution) -> None:
    """What installers go by and what readers see is one version, and none is left out after it."""
    found = packed.metadata.get_all("Classifier") or []
    minors = [int(m[1]) for m in (re.search(r":: 3\.(\d+)$", line) for line in found) if m]
    assert packed.metadata["Requires-Python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[0] + len(minors)))


@pytest.mark.parametrize("name", FILES)
def test_a_licence_is_named_and_packed(name: str, packed: Distribution) -> None:
    assert set(packed.metadata.get_all("License-File") or []) == set(FILES)
    assert FILES[name] in packed.metadata["License-Expression"].split(" AND ")
    text = packed.read_text(f"licenses/{name}") or ""
    assert {"MIT": "Permission is hereby granted", "Apache-2.0": "Version 2.0"}[FILES[name]] in text


SCRIPTS = {
    "gpt1-check": "parity.check:main",
    "gpt1-convert": "parity.convert:main",
    "gpt1-train": "scratch_gpt.train:main",
    "gpt1-generate": "scratch_gpt.generate:main",
}


def test_console_scripts_start_the_commands(packed: Distribution) -> None:
    found = {point.name: point for point in packed.entry_points}
    assert {name: point.value for name, point in found.items()} == SCRIPTS
    assert all(callable(point.load()) for point in found.values())
