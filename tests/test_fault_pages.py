"""The pages of docs/faults: complete, current, small, and without a broken link."""

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from parity.checks.gradients.faults import BACKWARD_FAULTS
from parity.faults.forward import FORWARD_FAULTS
from parity.faults.registry import Fault, faults_of

pytestmark = pytest.mark.once

HOME = Path(__file__).parents[1]
FOLDER = HOME / "docs" / "faults"


@pytest.fixture(scope="module", autouse=True)
def script() -> dict[str, Any]:
    """Return the script's names; it imports the faults of every kind."""
    return runpy.run_path(str(HOME / "tests" / "fault_pages.py"))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "measured.json").read_bytes())
    return found


def test_the_pages_are_current(script: dict[str, Any], record: dict[str, Any]) -> None:
    """`make fault-pages` writes these files and no others."""
    expected = script["pages"](record)
    found = {path.name for path in FOLDER.iterdir()} - {"measured.json"}
    assert found == set(expected)
    old = [n for n, text in expected.items() if (FOLDER / n).read_text(encoding="utf-8") != text]
    assert old == [], "run make fault-pages"


def test_the_errors_are_those_of_a_whole_run(record: dict[str, Any]) -> None:
    """Of single operations on right inputs, only the wrong ones would differ."""
    logits = record["layerwise"]["tensors"].index("logits")
    at_the_end = [fault["errors"][logits] for fault in record["layerwise"]["faults"].values()]
    assert [error for error in at_the_end if error is not None and error < -90] == []


def test_every_fault_has_a_page_in_the_index() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((.*)\.md\)", index)) == sorted(faults_of(Fault))


def test_the_record_has_every_fault_that_has_a_depth(record: dict[str, Any]) -> None:
    """Each differs first where its registry entry says, and everything before is right."""
    for check, faults in (("layerwise", FORWARD_FAULTS), ("gradients", BACKWARD_FAULTS)):
        live = [name for name, fault in faults.items() if not fault.proof]
        assert sorted(record[check]["faults"]) == sorted(live)
        for name, fault in record[check]["faults"].items():
            assert fault["first"] == faults[name].first_seen(3)
            assert len(fault["errors"]) == len(record[check]["tensors"])
            first = record[check]["tensors"].index(fault["first"])
            assert all(error < -90 for error in fault["errors"][:first])
            assert fault["errors"][first] is None or fault["errors"][first] > -90


def test_the_commands_have_known_options() -> None:
    unknown = runpy.run_path(str(HOME / "tests" / "test_documents.py"))["unknown"]
    pages = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")]
    commands = {
        line for page in pages for line in re.findall(r"^python -m .*$", page, re.MULTILINE)
    }
    assert len(commands) == len(faults_of(Fault))
    assert [line for line in commands if unknown(line)] == []


def test_a_change_of_the_registry_or_the_record_changes_the_page(
    script: dict[str, Any], record: dict[str, Any]
) -> None:
    fault, measured = FORWARD_FAULTS["erf-gelu"], record["layerwise"]["faults"]["erf-gelu"]
    page = script["page"](fault, measured)
    for field in ("what", "right", "fix"):
        changed = dataclasses.replace(fault, **{field: "another"})
        assert script["page"](changed, measured) != page
    assert script["page"](fault, measured | {"error": "off by 1.0e+00"}) != page
    tensors, right = record["layerwise"]["tensors"], record["layerwise"]["right"]
    other = {**measured, "errors": [0, *measured["errors"][1:]]}
    assert script["picture"](tensors, right, other) != script["picture"](tensors, right, measured)


def test_pictures_are_small_and_well_formed() -> None:
    pictures = list(FOLDER.glob("*.svg"))
    drawn = [one for one in (*FORWARD_FAULTS.values(), *BACKWARD_FAULTS.values()) if not one.proof]
    assert len(pictures) == len(drawn)
    for path in pictures:
        assert path.stat().st_size < 4_096
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314


@pytest.mark.skipif(not (HOME / "bench").exists(), reason="only a checkout has every linked file")
def test_links_lead_somewhere() -> None:
    for path in FOLDER.glob("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        assert links
        assert [link for link in links if not (FOLDER / link).exists()] == []
