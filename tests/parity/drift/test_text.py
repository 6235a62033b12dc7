"""A drift for a person: readable beside seven rows, and nothing in it reaches a terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.drift.changes import Change
from parity.report.text import render
from parity.report.text_drift_numbers import short, side, told
from parity.results import Report
from parity.sketch import ROUNDING
from scratch_gpt.command.output import drawn

Made = Any
Document = dict[str, Any]
Laid = Callable[..., Report]
CHECKS = ("layerwise", "gradients", "training")


def shown(report: Report) -> str:
    """Return the text of a report, as a file gets it."""
    return drawn(lambda console: render(report, console), None)


def line_of(text: str, *words: str) -> str:
    """Return the one line that has all of some words, its blanks single."""
    (found,) = (line for line in text.splitlines() if all(word in line for word in words))
    return " ".join(found.split())


@pytest.fixture
def seven(made: Made, laid: Laid) -> Report:
    """Return the drift of seven rows of five checks, in which nearly everything moves."""
    rows: dict[str, list[Document]] = {}
    names = [f"py311-torch{number}-hf523" for number in (26, 27, 28, 29, 210, 213, 215)]
    reports = [made.report(check) for check in (*CHECKS, "generation")] + [made.ids("tokens")]
    for place, name in enumerate(names):
        reports = [
            made.moved(report, run, tap, 1e-7 * (place + 1))
            for report in reports
            for run, tap in [(made.OURS, "h.0.mlp.gelu")]
        ]
        reports = [made.moved(r, made.THEIRS, "h.1.attn.query", 2e-7 * place) for r in reports]
        reports = [made.moved(r, made.ALONE, "h.1.mlp.gelu", 3e-7 * place) for r in reports]
        rows[name] = [made.on(report, torch=f"2.{place}.0+cu124") for report in reports]
    return laid(**rows)


@pytest.mark.parametrize(("columns", "widest"), [("100", 100), ("80", 92)])
def test_seven_rows_have_room(
    columns: str, widest: int, seven: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer than a page is wide, and no name and no number is cut."""
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(seven)
    assert max(map(len, text.splitlines())) <= widest
    wanted = {row.attention for row in seven.results} | {*CHECKS, "tokens", "generation"}
    expected = (set(), False)
    assert expected == ({name for name in wanted if name not in text}, "…" in text)


def test_the_rows_have_their_versions(seven: Report) -> None:
    """A line a row, numbered as it is called further on."""
    line = line_of(shown(seven), "py311-torch210-hf523")
    expected = "5 py311-torch210-hf523 3.11.7 2.4.0+cu124 4.57.6"
    assert expected == line


def test_the_verdicts_have_their_worst_numbers(made: Made, laid: Laid) -> None:
    """A line a row, a cell a check; what failed or is missing stands out."""
    failed = made.report("training", verdict="error", results=[])
    text = shown(laid(a=[made.report(), made.report("training")], b=[failed]))
    expected = ("1 pass 3e-12 1.25 pass 3e-12 1.25", "2 not run ERROR")
    assert expected == (line_of(text, "1  pass"), line_of(text, "2  not run"))


def test_a_pair_is_told_in_lines(made: Made, laid: Laid) -> None:
    """What differs; then where each side moved first, by how much, how many, and the most."""
    other = made.moved(made.report(), made.THEIRS, "h.0.attn.query", 3e-7)
    other = made.moved(other, made.THEIRS, "logits", 4e-6)
    other = made.moved(other, made.ALONE, "h.0.attn.query", 2e-7)
    text = shown(laid(a=[made.report()], b=[made.on(other, torch="2.8.0")]))
    expected = (
        "1→2 torch 2.6.0 → 2.8.0",
        "layerwise ours nothing moved 0/12",
        "Hugging Face float32 h.0.attn.query 3e-7 2/6 4e-6",
        "Hugging Face isolated by themselves: attn.query 1/6",
    )
    assert expected == (
        line_of(text, "1→2  torch"),
        line_of(text, "ours", "nothing"),
        line_of(text, "float32", "4e-6"),
        line_of(text, "isolated"),
    )


def test_the_path_that_moved_furthest_is_told(made: Made, laid: Laid) -> None:
    """Of several of ours, by its name."""
    other = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    other = made.moved(other, made.TILED, "logits", 5e-7)
    line = line_of(shown(laid(a=[made.report()], b=[other])), "ours (")
    expected = "layerwise ours (tiled) float32 logits 5e-7 1/6 5e-7"
    assert expected == line


def test_ids_are_told_in_a_line(made: Made, laid: Laid) -> None:
    """The same, or the first text that moved."""
    one = made.ids("tokens", ("hand-picked", "corpus"))
    other = made.moved(one, made.IDS, "corpus", 0.0)
    numbers = made.report()
    pushed = made.moved(numbers, made.OURS, "logits", 1e-7)
    same = shown(laid(a=[one, numbers], b=[one, pushed]))
    moved = shown(laid(a=[one], b=[other]))
    expected = ("tokens ids the same ids 0/2", "tokens Hugging Face ids corpus 1/2")
    assert expected == (line_of(same, "the same ids"), line_of(moved, "corpus"))


def test_a_pair_that_did_not_move_is_one_line(made: Made, laid: Laid) -> None:
    """With the number of tensors and texts that were compared."""
    both = [made.report(), made.ids()]
    expected = "all nothing moved 0/31"
    assert expected == line_of(shown(laid(a=both, b=both)), "nothing moved")


def test_a_pair_that_moved_as_another_did_says_so(made: Made, laid: Laid) -> None:
    """What changed once and stayed is told once."""
    later = [made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)]
    text = shown(laid(a=[made.report()], b=later, c=later))
    expected = ["the same lines as 1→2"]
    assert expected == [line for line in text.splitlines() if "same lines" in line]
    assert text.index("1→3  nothing else differs") < text.index("the same lines")


def test_what_is_not_known_is_not_nought(made: Made, laid: Laid) -> None:
    """A report without fingerprints says so where its movement would stand."""
    text = shown(laid(a=[made.report()], b=[made.report(fingerprints=[])]))
    assert "not known: b was written without" in text
    assert "nothing moved" not in text


def test_what_is_not_known_shows_beside_what_did_not_move(made: Made, laid: Laid) -> None:
    """One check of which nobody knows keeps a pair from being told as one that did not move."""
    bare = made.report("training", fingerprints=[])
    text = shown(laid(a=[made.report(), bare], b=[made.report(), bare]))
    expected = "layerwise nothing moved 0/30"
    assert expected == line_of(text, "nothing moved")
    assert "not known: a was written without" in text


def test_blocks_stand_in_a_table(made: Made, laid: Laid) -> None:
    """A column a pair that moved, ours beside Hugging Face's."""
    second = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    third = made.moved(second, made.THEIRS, "h.0.mlp.gelu", 3e-6)
    text = shown(laid(a=[made.report()], b=[made.report()], c=[second], d=[third]))
    at = text.index("largest change")
    columns = [line for line in text[at:].splitlines()[1:] if line.strip()]
    expected = ["2→3 3→4 1→4", "embeddings =/= =/= =/=", "h.0 1e-7/= =/3e-6 1e-7/3e-6"]
    assert expected == [" ".join(line.split()) for line in columns[:3]]


def test_where_nothing_moved_there_is_no_table(made: Made, laid: Laid) -> None:
    """Its columns would all be alike."""
    assert "largest change" not in shown(laid(a=[made.report()], b=[made.report()]))


def test_the_last_line_is_the_verdict(made: Made, laid: Laid) -> None:
    """With the reports that it is of."""
    text = shown(laid(("gone",), a=[made.report()], b=[made.report()]))
    expected = "INCONCLUSIVE  2 of 3 reports laid side by side, in 3 rows"
    assert expected == text.splitlines()[-1].strip()
    assert "not run: it has no report" in text


@pytest.mark.parametrize(
    ("number", "expected"), [(3e-7, "3e-7"), (1.26e-12, "1e-12"), (0.0, "0"), (float("inf"), "inf")]
)
def test_a_number_is_short(number: float, expected: str) -> None:
    """One digit and its exponent."""
    assert expected == short(number)


@pytest.mark.parametrize(
    ("change", "expected"), [(None, "?"), (0.0, "="), (ROUNDING, "<1e-15"), (2e-15, "2e-15")]
)
def test_a_change_is_told(change: Change, expected: str) -> None:
    """What is not known, what is the same, and what is below a sketch's rounding have signs."""
    assert expected == told(change)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("ours/plain", "ours (plain)"),
        ("ours", "ours"),
        ("huggingface/tiled", "Hugging Face"),
        ("oracle", "oracle"),
    ],
)
def test_a_side_has_its_name(subject: str, expected: str) -> None:
    """Ours with its path."""
    assert expected == side(subject)


def test_no_text_of_a_report_reaches_the_terminal(
    made: Made, write: Callable[..., Path], check: Callable[..., Any]
) -> None:
    """Escapes become blanks; what looks like markup is printed as it is."""
    bad = made.report(verdict="fail", reasons=[{"what": "\x1b[31m[red]bad[/red]\n"}])
    rows = [
        write("[bold]a", made.on(bad, torch="[/]\x1b]0;x\x07")),
        write("b", made.moved(made.report("\x1b[2Jx"), made.OURS, "logits", 0.5)),
    ]
    result = check("drift", *map(str, rows))
    expected = (1, "", set())
    control = {c for c in result.stdout if not c.isprintable() and c != "\n"}
    assert expected == (result.exit_code, result.stderr, control)
    assert all(said in result.stdout for said in ("[bold]a", "[red]bad[/red]", "[/]"))
