"""`python -m parity.check drift`: of real runs, and with a movement that was planted."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.core.fingerprints import BUCKETS, decoded, encoded

Check = Callable[..., Any]
Strictly = Callable[[str], Any]
Document = dict[str, Any]

RUN = ["layerwise", "--weights", "tiny", "--seq-len", "9", "--fingerprints", "--quiet"]
PLACE = ("huggingface", "float32", "end-to-end", "h.3.mlp.gelu")


@pytest.fixture(scope="module")
def real(check: Check, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "real"
    folder.mkdir()
    assert check(*RUN, "--output", str(folder / "layerwise.json")).exit_code == 0
    return folder


@pytest.fixture
def copied(real: Path, tmp_path: Path) -> Callable[..., Path]:
    document = json.loads((real / "layerwise.json").read_text(encoding="utf-8"))

    def put(change: Callable[[Document], object] = lambda _: None) -> Path:
        other = copy.deepcopy(document)
        change(other)
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "layerwise.json").write_text(json.dumps(other), encoding="utf-8")
        return folder

    return put


def _push(document: Document) -> None:
    taps = {PLACE: 3e-5, (*PLACE[:3], "h.7.ln_1"): 7e-5}
    for entry in document["fingerprints"]:
        key = (entry["subject"], entry["dtype"], entry["mode"], entry["tap"])
        if key in taps:
            direction = np.ones(BUCKETS) / np.sqrt(BUCKETS)
            entry["sketch"] = encoded(
                decoded(entry["sketch"]) + taps[key] * entry["norm"] * direction
            )
            entry["digest"] = "0" * 16  # no other tensor's


def test_a_planted_movement_is_found(
    check: Check, strictly: Strictly, real: Path, copied: Callable[..., Path]
) -> None:
    result = check("drift", str(real), str(copied(_push)), "--format", "json")
    drift = strictly(result.stdout)["details"]
    (move,) = (move for move in drift["moves"] if move["moved"])
    expected = (0, *PLACE, 2, 173, "h.7.ln_1")
    assert expected == (
        result.exit_code,
        *(move[name] for name in ("subject", "dtype", "mode", "first")),
        *(move[name] for name in ("moved", "compared", "largest")),
    )
    changes = (move["first_change"], move["largest_change"])
    assert (pytest.approx(3e-5, rel=1e-3), pytest.approx(7e-5, rel=1e-3)) == changes
    assert sum(entry["compared"] for entry in drift["moves"]) > 1_000


def test_another_run_of_the_same_has_not_moved(check: Check, real: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    assert check(*RUN, "--output", str(again)).exit_code == 0
    result = check("drift", str(real), str(again))
    expected = (0, 1, False)
    assert expected == (
        result.exit_code,
        result.stdout.count("no change"),
        "h.0" in result.stdout,
    )


def test_a_planted_fault_moves_and_fails(check: Check, real: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    assert check(*RUN, "--inject-fault", "erf-gelu@3", "--output", str(other)).exit_code == 1
    result = check("drift", str(real), str(other))
    expected = (1, True, True)
    assert expected == (
        result.exit_code,
        "fail in other" in result.stdout,
        'inputs.inject_fault is not stated in real, "erf-gelu@3" in other'
        in " ".join(result.stdout.split()),
    )


def test_a_report_cut_off_is_refused(check: Check, real: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text((real / "layerwise.json").read_text(encoding="utf-8")[:5_000])
    result = check("drift", str(real), str(cut))
    expected = (4, "", True)
    assert expected == (result.exit_code, result.stdout, str(cut) in result.stderr)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["gone"], 2, id="missing"),
        pytest.param(["gone", "--require", "gone"], 3, id="missing, expected"),
        pytest.param([], 3, id="alone"),
    ],
)
def test_a_row_that_is_missing_has_its_code(
    arguments: list[str], code: int, check: Check, real: Path
) -> None:
    expected = code
    assert expected == check("drift", str(real), *arguments).exit_code


def test_no_row_is_a_usage_error(check: Check) -> None:
    result = check("drift")
    expected = (2, 3, True)
    lines = result.stderr.splitlines()
    assert expected == (result.exit_code, len(lines), "drift A B" in result.stderr)


def test_the_report_is_strict_and_whole(
    check: Check, strictly: Strictly, real: Path, copied: Callable[..., Path]
) -> None:
    document = strictly(check("drift", str(real), str(copied(_push)), "--format", "json").stdout)
    rows = [(row["tap"], row["backend"], row["details"]["verdict"]) for row in document["results"]]
    expected = ("drift", [("layerwise", "real", "pass"), ("layerwise", "other", "pass")])
    assert expected == (document["check"], rows)
    (theirs,) = (
        entry
        for entry in document["details"]["largest"]
        if (entry["side"], entry["mode"]) == ("huggingface", "end-to-end")
    )
    expected_taps = {"h.3.mlp.gelu", "h.7.ln_1"}
    assert expected_taps == set(theirs["taps"])
    assert ["embeddings", *(f"h.{i}" for i in range(12)), "logits", "loss"] == list(
        theirs["blocks"]
    )


def test_its_own_report_is_no_evidence(check: Check, real: Path, tmp_path: Path) -> None:
    own = tmp_path / "drift.json"
    check("drift", str(real), "--output", str(own), "--quiet")
    result = check("drift", str(real), str(own))
    expected = (4, True)
    assert expected == (result.exit_code, "answer of drift" in result.stderr)
