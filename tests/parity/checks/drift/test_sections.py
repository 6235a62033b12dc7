"""The text of a drift report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.checks.drift.changes import TapChange
from parity.checks.drift.sections import format_change, format_short, side_name
from parity.core.fingerprints import ROUNDING
from parity.core.results import Report
from parity.report.text import render
from scratch_gpt.cli import render_rich

Made = Any
Document = dict[str, Any]
Compare = Callable[..., Report]
CHECKS = ("layerwise", "gradients", "training")


def shown(report: Report) -> str:
    return render_rich(lambda console: render(report, console), None)


def line_of(text: str, *words: str) -> str:
    (found,) = (line for line in text.splitlines() if all(word in line for word in words))
    return " ".join(found.split())


@pytest.fixture
def seven(made: Made, compare: Compare) -> Report:
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
    return compare(**rows)


@pytest.mark.parametrize(("columns", "widest"), [("100", 100), ("80", 92)])
def test_seven_runs_fit_the_page(
    columns: str, widest: int, seven: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(seven)
    assert max(map(len, text.splitlines())) <= widest
    wanted = {row.backend for row in seven.results} | {*CHECKS, "tokens", "generation"}
    assert ({name for name in wanted if name not in text}, "…" in text) == (set(), False)


@pytest.mark.parametrize("columns", ["100", "80"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_cell_is_cut(
    columns: str, dtype: str, made: Made, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    other: Document = {"verdict": "inconclusive", "reasons": [{"what": "x"}]}
    checks = (*CHECKS, "generation", "golden")
    mode = {"float64": "float64", "float32": "end-to-end"}[dtype]
    runs = [(subject, dtype, mode) for subject in ("ours/plain", "huggingface")]
    taps = ["embeddings.positions", "h.10.attn.query", "logits"]
    rows: dict[str, list[Document]] = {}
    for place in range(7):
        taken = [
            made.fingerprint(
                run, tap, digest=made.digest(place), sketch=made.sketch(2.0, place * 1e-17)
            )
            for tap in taps
            for run in runs
        ]
        rows[f"r{place}"] = [made.report(check, fingerprints=taken, **other) for check in checks]
    text = shown(compare(**rows))
    cells = sum(line.count("inconclusive 3e-12 1.25") for line in text.splitlines())
    blocks = sum(line.count("<1e-15/<1e-15") for line in text.splitlines())
    expected = (False, 7 * 5, 3 * 7 * 2, {"embeddings", "h.10", "logits"})
    names = {line.split()[0] for line in text.splitlines() if "<1e-15/" in line}
    assert expected == ("…" in text, cells, blocks, names)
    at = text.index("layerwise  ")
    verdicts = [line.split()[0] for line in text[at:].splitlines() if "inconclusive 3e-12" in line]
    assert [*"1234567"] * 2 == verdicts
    assert max(map(len, text.splitlines())) <= max(92, int(columns))


@pytest.mark.parametrize("columns", ["100", "80"])
def test_a_change_of_unknown_size_has_a_column(
    columns: str, made: Made, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    run = {"norm": None, "sketch": ""}
    taken = [[made.fingerprint(made.OURS, "logits", digest=d * 16, **run)] for d in "01"]
    rows = [made.report(fingerprints=found) for found in (*taken, [])]
    text = shown(compare(rows[0], rows[1], rows[2]))
    at = text.index("largest change")
    headed = [" ".join(line.split()) for line in text[at:].splitlines()[1:3]]
    assert headed == ["1→2", "logits ?/-"]
    assert "float32 logits ? 1/1 ?" in line_of(text, "ours (plain)")


def test_the_rows_have_their_versions(seven: Report) -> None:
    line = line_of(shown(seven), "py311-torch210-hf523")
    assert line == "5 py311-torch210-hf523 3.11.7 2.4.0+cu124 4.57.6"


def test_the_verdicts_have_their_worst_numbers(made: Made, compare: Compare) -> None:
    failed = made.report("training", verdict="error", results=[])
    text = shown(compare(a=[made.report(), made.report("training")], b=[failed]))
    assert line_of(text, "1  pass") == "1 pass 3e-12 1.25 pass 3e-12 1.25"
    assert line_of(text, "2  not run") == "2 not run ERROR"


def test_notes_name_their_pairs(made: Made, compare: Compare) -> None:
    last = made.on(made.report(), threads="2")
    text = shown(compare(made.report(), made.report(), last))
    assert "note on 2→3, 1→3: the rows have different threads" in text


def test_what_differs_has_a_line_a_value(made: Made, compare: Compare) -> None:
    code = [f"gpt1-parity 0.1.0, sha256 {digit * 16}" for digit in "ab"]
    named = [made.report()["identity"] | {"code": value} for value in (*code, "gpt1-parity 0.2.0")]
    rows = [made.on(made.report(identity=identity), threads="2") for identity in named]
    one = shown(compare(rows[0], rows[1], rows[0] | made.on(rows[0])))
    other = shown(compare(d=[rows[0]], e=[rows[2]]))
    at = one.index("other differences")
    assert [" ".join(line.split()) for line in one[at:].splitlines()[1:5]] == [
        "threads 2 in 1 2",
        "1 in 3",
        "code " + "a" * 16 + " in 1 3",
        "b" * 16 + " in 2",
    ]
    assert f"code  {code[0]}  in 1\n" in "\n".join(line.rstrip() for line in other.splitlines())


def test_blocks_stand_in_a_table(made: Made, compare: Compare) -> None:
    second = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    third = made.moved(second, made.THEIRS, "h.0.mlp.gelu", 3e-6)
    text = shown(compare(made.report(), made.report(), second, third))
    at = text.index("largest change")
    columns = [line for line in text[at:].splitlines()[1:] if line.strip()]
    assert [" ".join(line.split()) for line in columns[:3]] == [
        "2→3 3→4 1→4",
        "embeddings =/= =/= =/=",
        "h.0 1e-7/= =/3e-6 1e-7/3e-6",
    ]


def test_without_changes_there_is_no_table(made: Made, compare: Compare) -> None:
    assert "largest change" not in shown(compare(made.report(), made.report()))


def test_the_last_line_is_the_verdict(made: Made, compare: Compare) -> None:
    text = shown(compare(expect=("gone",), a=[made.report()], b=[made.report()]))
    assert (
        text.splitlines()[-1].strip()
        == "INCONCLUSIVE  2 of 3 reports compared, in 3 rows; 2 with fingerprints"
    )
    assert "not run: it has no report" in text
    assert (
        shown(compare(c=[made.report(fingerprints=[])])).splitlines()[-1].strip()
        == "INCONCLUSIVE  1 of 1 report compared, in 1 row; 0 with fingerprints"
    )


@pytest.mark.parametrize(
    ("number", "expected"), [(3e-7, "3e-7"), (1.26e-12, "1e-12"), (0.0, "0"), (float("inf"), "inf")]
)
def test_a_number_is_short(number: float, expected: str) -> None:
    assert expected == format_short(number)


@pytest.mark.parametrize(
    ("change", "expected"), [(None, "?"), (0.0, "="), (ROUNDING, "<1e-15"), (2e-15, "2e-15")]
)
def test_changes_have_signs(change: TapChange, expected: str) -> None:
    assert expected == format_change(change)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("ours/plain", "ours (plain)"),
        ("ours", "ours"),
        ("huggingface/tiled", "Hugging Face"),
        ("oracle", "oracle"),
        ("oracle/tiled", "oracle (tiled)"),
    ],
)
def test_a_side_has_its_name(subject: str, expected: str) -> None:
    assert expected == side_name(subject)


def test_no_text_of_a_report_reaches_the_terminal(
    made: Made, write: Callable[..., Path], check: Callable[..., Any]
) -> None:
    bad = made.report(verdict="fail", reasons=[{"what": "\x1b[31m[red]bad[/red]\n"}])
    rows = [
        write("[bold]a", made.on(bad, torch="[/]\x1b]0;x\x07")),
        write("b", made.moved(made.report("\x1b[2Jx"), made.OURS, "logits", 0.5)),
    ]
    result = check("drift", *map(str, rows))
    expected = (1, "", set())
    control = {c for c in result.stdout if not c.isprintable() and c != "\n"}
    assert expected == (result.exit_code, result.stderr, control)
    assert all(word in result.stdout for word in ("[bold]a", "[red]bad[/red]", "[/]"))


def test_a_pair_has_a_line_for_each_side_and_mode(made: Made, compare: Compare) -> None:
    other = made.moved(made.report(), made.THEIRS, "h.0.attn.query", 3e-7)
    other = made.moved(other, made.THEIRS, "logits", 4e-6)
    other = made.moved(other, made.ALONE, "h.0.attn.query", 2e-7)
    text = shown(compare(made.report(), made.on(other, torch="2.8.0")))
    assert line_of(text, "1→2  torch") == "1→2 torch 2.6.0 → 2.8.0"
    assert line_of(text, "ours", "no change") == "layerwise ours no change 0/12"
    assert line_of(text, "float32", "4e-6") == "Hugging Face float32 h.0.attn.query 3e-7 2/6 4e-6"
    assert line_of(text, "per-op ", "1/6") == "Hugging Face per-op by themselves: attn.query 1/6"
    assert str(text.count("changed: tensors that are not equal")) == "1"


def test_backends_with_different_changes_have_own_lines(made: Made, compare: Compare) -> None:
    tiled = made.moved(made.report(), made.TILED, "logits", 5e-7)
    both = made.moved(tiled, made.OURS, "h.0.attn.query", 1e-7)
    expected = (
        "layerwise ours (plain) float32 h.0.attn.query 1e-7 1/6 1e-7",
        "ours (tiled) float32 logits 5e-7 1/6 5e-7",
        "layerwise ours (plain) float32 no change 0/6",
    )
    differ, one = (shown(compare(made.report(), other)) for other in (both, tiled))
    assert expected == (
        line_of(differ, "ours (plain)"),
        line_of(differ, "ours (tiled)"),
        line_of(one, "ours (plain)"),
    )


def test_backends_with_equal_changes_share_a_line(made: Made, compare: Compare) -> None:
    other = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    both = made.moved(other, made.TILED, "h.0.attn.query", 5e-7)
    alone = [
        made.report(fingerprints=[f for f in found["fingerprints"] if "tiled" not in f["subject"]])
        for found in (made.report(), other)
    ]
    assert (
        line_of(shown(compare(made.report(), both)), "ours", "float32 ")
        == "layerwise ours float32 h.0.attn.query 5e-7 1/6 5e-7"
    )
    assert (
        line_of(shown(compare(c=[alone[0]], d=[alone[1]])), "ours (")
        == "layerwise ours (plain) float32 h.0.attn.query 1e-7 1/6 1e-7"
    )


@pytest.fixture
def beside_both(made: Made) -> Document:
    runs = [(f"{side}/plain", made.TAPS) for side in ("oracle", "huggingface", "ours")]
    coarse = [tap for tap in made.TAPS if "attn" not in tap]
    runs += [(f"{side}/tiled", coarse) for side in ("oracle", "huggingface", "ours")]
    taken = [
        made.fingerprint((subject, "float32", "per-op"), tap)
        for subject, taps in runs
        for tap in taps
    ]
    found: Document = made.report(fingerprints=taken)
    return found


def test_a_reference_is_reported_beside_the_backend_with_the_most_taps(
    beside_both: Document, made: Made, compare: Compare
) -> None:
    fused = made.moved(beside_both, ("huggingface/tiled", "float32", "per-op"), "logits", 1e-6)
    finest = made.moved(fused, ("huggingface/plain", "float32", "per-op"), "h.0.mlp.gelu", 1e-6)
    assert (
        line_of(shown(compare(beside_both, fused)), "Hugging Face ", "per-op ")
        == "Hugging Face per-op no operation by itself 0/6"
    )
    assert (
        line_of(shown(compare(c=[beside_both], d=[finest])), "Hugging Face ", "per-op ")
        == "Hugging Face per-op by themselves: mlp.gelu 1/6"
    )


def test_our_operations_are_reported_by_backend(
    beside_both: Document, made: Made, compare: Compare
) -> None:
    other = made.moved(beside_both, ("ours/tiled", "float32", "per-op"), "logits", 1e-6)
    given = made.moved(other, ("oracle/tiled", "float32", "per-op"), "logits", 1e-6)
    known, unknown = (shown(compare(beside_both, found)) for found in (other, given))
    assert (
        line_of(known, "ours (plain)") == "layerwise ours (plain) per-op no operation by itself 0/6"
    )
    assert line_of(known, "ours (tiled)") == "ours (tiled) per-op by themselves: logits 1/4"
    assert (
        line_of(unknown, "ours (tiled)")
        == "ours (tiled) per-op unknown: their input may have changed 1/4"
    )
    assert line_of(unknown, "oracle (tiled)") == "oracle (tiled) per-op logits 1e-6 1/4 1e-6"


def test_ids_have_one_line(made: Made, compare: Compare) -> None:
    one = made.ids("tokens", ("hand-picked", "corpus"))
    other = made.moved(one, made.IDS, "corpus", 0.0)
    numbers = made.report()
    pushed = made.moved(numbers, made.OURS, "logits", 1e-7)
    same = shown(compare(a=[one, numbers], b=[one, pushed]))
    moved = shown(compare(one, other))
    assert line_of(same, "the same ids") == "tokens ids the same ids 0/2"
    assert line_of(moved, "corpus") == "tokens Hugging Face ids corpus 1/2"


def test_a_pair_without_changes_is_one_line(made: Made, compare: Compare) -> None:
    both = [made.report(), made.ids()]
    assert line_of(shown(compare(a=both, b=both)), "no change") == "all no change 0/37"


def test_a_pair_with_the_lines_of_another_refers_to_it(made: Made, compare: Compare) -> None:
    later = [made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)]
    text = shown(compare(a=[made.report()], b=later, c=later))
    assert [line for line in text.splitlines() if "same lines" in line] == ["the same lines as 1→2"]
    assert text.index("1→3  nothing else differs") < text.index("the same lines")
    assert " ".join(text.split()).count("first change, largest: ") == 1


def test_unknown_changes_are_not_zero(made: Made, compare: Compare) -> None:
    text = shown(compare(made.report(), made.report(fingerprints=[])))
    assert "unknown: b was written without" in text
    assert "no change" not in text


def test_unknown_changes_show_beside_unchanged_checks(made: Made, compare: Compare) -> None:
    bare = made.report("training", fingerprints=[])
    text = shown(compare(a=[made.report(), bare], b=[made.report(), bare]))
    assert line_of(text, "no change") == "layerwise no change 0/36"
    assert "unknown: a was written without" in text
