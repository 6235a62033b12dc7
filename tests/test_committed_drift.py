"""The committed table of the last full run: every row passed; docs/versions.md shows an excerpt."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from parity.core.tolerances import Bounds

HOME = Path(__file__).parents[1]
SECTION = "## Last full run"
VERSIONS = ("python", "torch", "transformers")

Document = dict[str, Any]

# The rows of tox make this table; they run the tests before a new row is in it.
pytestmark = pytest.mark.skipif(
    not (HOME / "scratch_gpt").is_dir(), reason="not run: these tests stand outside a checkout"
)


def committed(name: str) -> str:
    """Return a file that stands beside the tests, wherever these are run."""
    return (HOME / name).read_text(encoding="utf-8")


def single(text: str) -> list[str]:
    """Return the lines of a text, their blanks single."""
    return [" ".join(line.split()) for line in text.splitlines()]


def cell(result: Document) -> str:
    """Return what the table says of a report: verdict, float64 error to a digit, ratio."""
    identity, ratio = result["error_ours"], result["ratio"]
    exponent = f"{identity or 0.0:.0e}".replace("e-0", "e-")
    return " ".join(
        [
            result["details"]["verdict"],
            *([exponent] if identity is not None else []),
            *([f"{ratio:.2f}"] if ratio is not None else []),
        ]
    )


def verdicts(document: Document) -> list[str]:
    """Return the lines about rows and their verdicts, and the last one."""
    rows, results = document["details"]["rows"], document["results"]
    each = [[cell(r) for r in results if r["backend"] == row["label"]] for row in rows]
    versions = [[row["label"], *(row["environment"][name] for name in VERSIONS)] for row in rows]
    plan, known = document["plan"], sum(r["details"]["fingerprints"] > 0 for r in results)
    reports = f"{plan['compared']} of {plan['planned']} reports compared"
    return [
        *(f"{n} {' '.join(words)}" for n, words in enumerate(versions, 1)),
        *(f"{n} {' '.join(cells)}" for n, cells in enumerate(each, 1)),
        f"PASS {reports}, in {len(rows)} rows; {known} with fingerprints",
    ]


def arrow(document: Document, pair: Document) -> str:
    """Return `1→2`."""
    labels = [row["label"] for row in document["details"]["rows"]]
    return "→".join(str(labels.index(pair[end]) + 1) for end in ("first", "second"))


@pytest.fixture(scope="module")
def drift() -> Document:
    """Return the report."""
    document: Document = json.loads(committed("docs/drift.json"))
    return document


def test_every_row_of_tox_is_in_it(drift: Document) -> None:
    """In the order of `drift`'s expectations, which another test holds against the rows."""
    expected = re.findall(r"--require\s+(\S+)", committed("tox.ini"))
    assert expected == [row["label"] for row in drift["details"]["rows"]]


def test_it_passed(drift: Document) -> None:
    """Every report of every row, and none was missing."""
    assert (drift["check"], drift["verdict"], drift["exit_code"]) == ("drift", "pass", 0)
    assert {row["status"] for row in drift["results"]} == {"pass"}
    rows = len(drift["details"]["rows"])
    checks = {row["tap"] for row in drift["results"]}
    assert {"layerwise", "gradients", "training", "tokens", "generation"} <= checks
    assert len(drift["results"]) == rows * len(checks)


def test_float64_holds_in_every_row(drift: Document) -> None:
    """In float64 both sides are the same function on every version."""
    errors = [row["error_ours"] for row in drift["results"] if row["tap"] != "tokens"]
    assert max(errors) <= Bounds().float64
    assert min(errors) > 0.0


def test_one_code_made_all_of_it(drift: Document) -> None:
    """Else what moved might be the code's doing."""
    codes = {row["environment"]["code"] for row in drift["details"]["rows"]}
    assert codes == {drift["identity"]["code"]}


def test_the_text_says_what_the_report_says(drift: Document) -> None:
    """Rows, versions, verdicts and their numbers, and the closing line."""
    whole = single(committed("docs/drift.txt"))
    assert [line for line in verdicts(drift) if line not in whole] == []


def test_the_text_counts_what_moved(drift: Document) -> None:
    """Of every pair of rows, in its part, as many tensors as the report says.

    Mode per-op lists several backends in one row.
    """
    pairs = drift["details"]["pairs"]
    parts = re.split(r"^(?=\d→\d )", committed("docs/drift.txt"), flags=re.MULTILINE)[1:]
    assert [arrow(drift, pair) for pair in pairs] == [part.split()[0] for part in parts]
    found = drift["details"]["moves"]
    moves = [move for move in found if move["moved"] and move["mode"] != "per-op"]
    counted = [(move["pair"], f"{move['moved']:,}/{move['compared']:,}") for move in moves]
    assert counted
    assert [c for c in counted if c[1] not in parts[c[0]].split()] == []


def test_the_excerpt_is_part_of_it(drift: Document) -> None:
    """Every line of the excerpt is a line of the table, in its order; no verdict is left out."""
    section = committed("docs/versions.md").partition(SECTION)[2]
    shown = section.split("```")[1].removeprefix("text").strip("\n").splitlines()
    rest = iter([line.rstrip() for line in committed("docs/drift.txt").splitlines()])
    missing = [line for line in shown if line not in ("", "…") and line.rstrip() not in rest]
    assert missing == []
    assert [line for line in verdicts(drift) if line not in single("\n".join(shown))] == []
