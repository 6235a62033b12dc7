"""Reports of goldens: a table to paste for people, every field for programs."""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from parity.checks.golden.sections import sections
from parity.core.metrics import Status
from parity.core.results import Report
from parity.report.json import render
from reference.published import Goldens, published
from scratch_gpt import GPT

Ask = Callable[..., Report]


@pytest.fixture(scope="module")
def failed(ask: Ask, recorded: Goldens) -> Report:
    wrong: dict[str, dict[str, Any]] = {
        "last/argmax": {"expected": 3},
        "norms/rms-mean": {"expected": 0.5},
        "loss/1": {"inputs": {"token_ids": [9999]}},
    }
    rows = tuple(dataclasses.replace(row, **wrong.get(row.key, {})) for row in recorded.rows)
    return ask(goldens=dataclasses.replace(recorded, rows=rows))


def text(report: Report) -> str:
    return str(report)


def line(report: Report, key: str) -> list[str]:
    return next(words for words in map(str.split, text(report).splitlines()) if words[:1] == [key])


def test_a_row_has_every_column(passed: Report) -> None:
    row = next(row for row in passed.results if row.tap == "last/logit")
    numbers = [
        f"{row.details['expected']:.7g}",
        f"{row.details['got']:.7g}",
        f"{row.details['difference']:.1e}",
    ]
    assert line(passed, "last/logit") == ["last/logit", *numbers, "1e-04", "abs", "[1]", "ok"]


def test_ids_are_counted_where_they_agree(passed: Report) -> None:
    words = line(passed, "generate/greedy")
    assert words[:6] == ["generate/greedy", "12", "ids", "the", "same", "0.0e+00"]


def test_many_rows_are_one_line(passed: Report) -> None:
    folded = [row for row in passed.results if row.details["kind"] == "word_probabilities"]
    worst = max(row.details["difference"] or 0.0 for row in folded)
    printed = text(passed)
    words = next(s for s in printed.splitlines() if s.startswith("words (40), worst")).split()
    assert words[5] == f"{worst:.1e}"
    assert "words/007" not in printed


def test_an_exempt_golden_has_its_reason(passed: Report) -> None:
    printed = " ".join(text(passed).split())
    assert (
        "not compared, the search that made it may finish texts by other rules than ours" in printed
    )
    assert "generate/beam" in printed


def test_the_sources_are_listed(passed: Report) -> None:
    assert "\n[1] recorded from transformers\n" in text(passed)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("last/argmax", ["3", "82", "DIFFERS"]),
        ("norms/rms-mean", ["0.5", "0.3692598", "2.6e-01", "1e-05", "rel", "DIFFERS"]),
        ("loss/1", ["-", "NOT", "RUN"]),
    ],
)
def test_a_row_that_does_not_pass_is_marked(key: str, words: list[str], failed: Report) -> None:
    assert not set(words) - set(line(failed, key))


def test_a_difference_is_reported_in_detail(failed: Report) -> None:
    printed = text(failed)
    part = printed[printed.index("norms/rms-mean: fail") :]
    for fact in ("expected    0.5", "got         0.369259", "difference  0.2614", "(grade H)"):
        assert fact in part


def test_the_verdict_counts_numbers(passed: Report, failed: Report) -> None:
    assert text(passed).splitlines()[-1] == "PASS  65 of 65 published numbers compared"
    last = "FAIL  compared 64 of 65 published numbers; first divergence at last/argmax"
    assert text(failed).splitlines()[-1] == last


def test_nothing_is_cut_at_the_least_width(failed: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    printed = text(failed)
    table = printed[printed.index("golden ") : printed.index("\n[1] ")]
    cut = [word for word in table.split() if "…" in word]
    assert cut == ["81d919b098…"] * 2
    assert max(map(len, printed.splitlines())) <= 92


def test_a_published_key_is_one_word(passed: Report) -> None:
    longest = max((row.key for row in published().rows if "beam" not in row.key), key=len)
    rows = [dataclasses.replace(row, tap=longest) for row in passed.results[:5]]
    printed = text(dataclasses.replace(passed, sections=list(sections(rows, []))))
    assert printed.count(f"\n{longest} ") == 5


def test_another_digest_is_short(passed: Report) -> None:
    words = line(passed, "file/recorded.bin")
    assert words == ["file/recorded.bin", "81d919b098…", "81d919b098…", "exact", "[1]", "ok"]


def test_markup_and_control_characters_are_printed_as_text(passed: Report) -> None:
    row = passed.results[0]
    evil = "\x1b[31mred\x07[/red][bold]"
    details = {**row.details, "source": evil, "expected": evil, "got": "x"}
    other = dataclasses.replace(row, tap=evil, status=Status.FAIL, detail=evil, details=details)
    printed = text(dataclasses.replace(passed, sections=list(sections([other], []))))
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", printed)
    assert printed.count(r"\x1b[31mred\x07[/red][bold]") >= 4


def test_json_has_every_field(failed: Report, strictly: Callable[[str], Any]) -> None:
    document = strictly(render(failed))
    row = next(row for row in document["results"] if row["tap"] == "norms/rms-mean")
    common = {"mode": "published", "against": "published", "status": "fail", "bound": 1e-5}
    expected = {
        "kind": "matrix_norms",
        "grade": "H",
        "expected": 0.5,
        "tolerance": {"measure": "relative", "bound": 1e-5},
        "source": "recorded from transformers",
    }
    details = row["details"]
    assert common == {name: row[name] for name in common}
    assert expected == {name: details[name] for name in expected}
    assert details["got"] == row["value_ours"] == pytest.approx(0.36926, rel=1e-5)
    assert details["difference"] == row["error_ours"] == row["required_tolerance"]


def test_json_has_ids_and_reasons(failed: Report, passed: Report) -> None:
    document, right = (json.loads(render(report)) for report in (failed, passed))
    first, plan = document["first_divergence"], document["plan"]
    assert first["tap"] == "last/argmax"
    assert (first["row"]["details"]["got"], first["row"]["details"]["expected"]) == (82, 3)
    assert (document["exit_code"], plan["planned"], plan["compared"]) == (1, 65, 64)
    ids = next(row for row in right["results"] if row["tap"] == "generate/greedy")
    assert ids["details"]["got"] == ids["details"]["expected"]
    assert right["plan"]["exempt"][0]["tap"] == "generate/beam"


def test_a_value_that_is_not_finite_stays_strict(
    ours: GPT, ask: Ask, strictly: Callable[[str], Any]
) -> None:
    row = next(row for row in ask("last", model=ours).results if row.tap == "last/logit")
    infinite = {**row.details, "got": float("inf"), "difference": float("inf")}
    other = dataclasses.replace(row, details=infinite)
    report = dataclasses.replace(ask("last"), results=[other])
    found = strictly(render(report))["results"][0]
    assert (found["details"]["got"], found["details"]["difference"]) == ("inf", "inf")
