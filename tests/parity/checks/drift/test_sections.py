"""A drift for a person: readable beside seven rows, and nothing in it reaches a terminal."""

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
Laid = Callable[..., Report]
CHECKS = ("layerwise", "gradients", "training")


def shown(report: Report) -> str:
    return render_rich(lambda console: render(report, console), None)


def line_of(text: str, *words: str) -> str:
    (found,) = (line for line in text.splitlines() if all(word in line for word in words))
    return " ".join(found.split())


@pytest.fixture
def seven(made: Made, laid: Laid) -> Report:
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
    monkeypatch.setenv("COLUMNS", columns)
    text = shown(seven)
    assert max(map(len, text.splitlines())) <= widest
    wanted = {row.backend for row in seven.results} | {*CHECKS, "tokens", "generation"}
    expected = (set(), False)
    assert expected == ({name for name in wanted if name not in text}, "…" in text)


@pytest.mark.parametrize("columns", ["100", "80"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_cell_is_cut(
    columns: str, dtype: str, made: Made, laid: Laid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    said: Document = {"verdict": "inconclusive", "reasons": [{"what": "x"}]}
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
        rows[f"r{place}"] = [made.report(check, fingerprints=taken, **said) for check in checks]
    text = shown(laid(**rows))
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
def test_what_moved_without_a_size_has_a_column(
    columns: str, made: Made, laid: Laid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    run = {"norm": None, "sketch": ""}
    taken = [[made.fingerprint(made.OURS, "logits", digest=d * 16, **run)] for d in "01"]
    rows = [made.report(fingerprints=found) for found in (*taken, [])]
    text = shown(laid(a=[rows[0]], b=[rows[1]], c=[rows[2]]))
    at = text.index("largest change")
    headed = [" ".join(line.split()) for line in text[at:].splitlines()[1:3]]
    expected = ["1→2", "logits ?/-"]
    assert expected == headed
    assert "float32 logits ? 1/1 ?" in line_of(text, "ours (plain)")


def test_the_rows_have_their_versions(seven: Report) -> None:
    line = line_of(shown(seven), "py311-torch210-hf523")
    expected = "5 py311-torch210-hf523 3.11.7 2.4.0+cu124 4.57.6"
    assert expected == line


def test_the_verdicts_have_their_worst_numbers(made: Made, laid: Laid) -> None:
    failed = made.report("training", verdict="error", results=[])
    text = shown(laid(a=[made.report(), made.report("training")], b=[failed]))
    expected = ("1 pass 3e-12 1.25 pass 3e-12 1.25", "2 not run ERROR")
    assert expected == (line_of(text, "1  pass"), line_of(text, "2  not run"))


def test_notes_name_their_pairs(made: Made, laid: Laid) -> None:
    last = made.on(made.report(), threads="2")
    text = shown(laid(a=[made.report()], b=[made.report()], c=[last]))
    assert "note on 2→3, 1→3: the rows have different threads" in text


def test_what_differs_has_a_line_a_value(made: Made, laid: Laid) -> None:
    code = [f"gpt1-parity 0.1.0, sha256 {digit * 16}" for digit in "ab"]
    named = [made.report()["identity"] | {"code": said} for said in (*code, "gpt1-parity 0.2.0")]
    rows = [made.on(made.report(identity=said), threads="2") for said in named]
    one = shown(laid(a=[rows[0]], b=[rows[1]], c=[rows[0] | made.on(rows[0])]))
    other = shown(laid(d=[rows[0]], e=[rows[2]]))
    at = one.index("other differences")
    expected = ["threads 2 in 1 2", "1 in 3", "code " + "a" * 16 + " in 1 3", "b" * 16 + " in 2"]
    assert expected == [" ".join(line.split()) for line in one[at:].splitlines()[1:5]]
    assert f"code  {code[0]}  in 1\n" in "\n".join(line.rstrip() for line in other.splitlines())


def test_blocks_stand_in_a_table(made: Made, laid: Laid) -> None:
    second = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    third = made.moved(second, made.THEIRS, "h.0.mlp.gelu", 3e-6)
    text = shown(laid(a=[made.report()], b=[made.report()], c=[second], d=[third]))
    at = text.index("largest change")
    columns = [line for line in text[at:].splitlines()[1:] if line.strip()]
    expected = ["2→3 3→4 1→4", "embeddings =/= =/= =/=", "h.0 1e-7/= =/3e-6 1e-7/3e-6"]
    assert expected == [" ".join(line.split()) for line in columns[:3]]


def test_where_nothing_moved_there_is_no_table(made: Made, laid: Laid) -> None:
    assert "largest change" not in shown(laid(a=[made.report()], b=[made.report()]))


def test_the_last_line_is_the_verdict(made: Made, laid: Laid) -> None:
    text = shown(laid(("gone",), a=[made.report()], b=[made.report()]))
    expected = "INCONCLUSIVE  2 of 3 reports compared, in 3 rows; 2 with fingerprints"
    assert expected == text.splitlines()[-1].strip()
    assert "not run: it has no report" in text
    expected = "INCONCLUSIVE  1 of 1 report compared, in 1 row; 0 with fingerprints"
    assert expected == shown(laid(c=[made.report(fingerprints=[])])).splitlines()[-1].strip()


@pytest.mark.parametrize(
    ("number", "expected"), [(3e-7, "3e-7"), (1.26e-12, "1e-12"), (0.0, "0"), (float("inf"), "inf")]
)
def test_a_number_is_short(number: float, expected: str) -> None:
    assert expected == format_short(number)


@pytest.mark.parametrize(
    ("change", "expected"), [(None, "?"), (0.0, "="), (ROUNDING, "<1e-15"), (2e-15, "2e-15")]
)
def test_a_change_is_told(change: TapChange, expected: str) -> None:
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
    assert all(said in result.stdout for said in ("[bold]a", "[red]bad[/red]", "[/]"))
