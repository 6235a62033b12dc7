"""Reports for people: readable at every width, in every color, whatever names they hold."""

import dataclasses
import io
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from parity import verbs
from parity.core.metrics import Status
from parity.core.results import (
    Mode,
    Plan,
    Reason,
    Report,
    Row,
    Section,
    WrongOperation,
    finish,
)
from parity.errors import ExitCode
from parity.options import WeightsOptions
from parity.report.json import render as render_json
from parity.report.text import PAGE, render, table
from parity.session import run
from scratch_gpt.cli import render_rich

pytestmark = pytest.mark.once

Check = Callable[..., Any]
Stand = Callable[[object], None]

ANSI = re.compile(r"\x1b\[[0-9;]*m")
COLORED = re.compile(r"\x1b\[(?:[0-9]+;)*[349][0-7]m")


@pytest.fixture
def printed(check: Check, stand_in: Stand, report: Report) -> Callable[..., str]:
    def show(other: Report = report, **env: str) -> str:
        stand_in(other)
        result = check("weights", env=env)
        assert (int(other.exit_code), "") == (result.exit_code, result.stderr)
        text: str = result.stdout
        return text

    return show


Printed = Callable[..., str]


@pytest.mark.parametrize("columns", ["40", "80", "300", "1", "0", "-4", "", "wide"])
def test_no_name_is_lost_at_any_width(columns: str, report: Report, printed: Printed) -> None:
    """Taps, backends and marks are whole words, however narrow the terminal is."""
    words = printed(COLUMNS=columns).split()
    wrong = [row.tap for row in report.results if row.status is not Status.PASS]
    wanted = {wrong[0], "h.3.mlp", "ln_2", "logits", "loss", "plain"}
    wanted |= {"WRONG", "follows", "ok", "FAIL"}
    assert set() == wanted - set(words)


def test_what_was_not_run_is_said_with_the_reason(report: Report, printed: Printed) -> None:
    inputs = {**report.inputs, "not_run": {"triton": "no [GPU] here"}}
    lines = printed(dataclasses.replace(report, inputs=inputs)).splitlines()
    assert "not run      triton: no [GPU] here" in [line.rstrip() for line in lines]
    assert "not_run" not in next(line for line in lines if line.startswith("inputs"))


def test_a_wide_terminal_is_used(printed: Printed) -> None:
    narrow, wide = printed(COLUMNS="100"), printed(COLUMNS="300")
    assert max(map(len, narrow.splitlines())) <= 100 < max(map(len, wide.splitlines())) <= 300
    assert len(wide.splitlines()) < len(narrow.splitlines())
    assert wide.split() == narrow.split()
    assert printed(COLUMNS="40") == printed(COLUMNS=str(PAGE))
    assert all(printed(COLUMNS=text) == narrow for text in ("wide", "10000"))


@pytest.mark.parametrize(
    ("env", "styled", "colored"),
    [
        pytest.param({}, False, False, id="no terminal"),
        pytest.param({"NO_COLOR": "1"}, False, False, id="NO_COLOR"),
        pytest.param({"FORCE_COLOR": "1"}, True, True, id="FORCE_COLOR"),
        pytest.param({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False, id="both"),
        pytest.param({"TERM": "dumb"}, False, False, id="dumb terminal"),
    ],
)
def test_colors_are_the_users_choice(
    env: dict[str, str],
    styled: bool,  # noqa: FBT001 - a case
    colored: bool,  # noqa: FBT001 - a case
    printed: Printed,
) -> None:
    text = printed(**env)
    assert (bool(ANSI.search(text)), bool(COLORED.search(text))) == (styled, colored)


def test_colors_change_no_word(printed: Printed) -> None:
    plain, colored = printed(COLUMNS="100"), printed(COLUMNS="100", FORCE_COLOR="1")
    lines = ANSI.sub("", colored).splitlines()
    assert plain.splitlines() == [line.rstrip() for line in lines]


def test_an_ascii_output_is_enough(
    report: Report, stand_in: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(report)
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii"))
    code = run(WeightsOptions(), name="weights", load=lambda: verbs.weights)
    assert (code, kept.getvalue().decode("ascii").split()[-1]) == (1, "h.3.mlp.gelu")


@pytest.mark.slow  # torch is imported once more
def test_an_ascii_locale_is_enough(command: Callable[..., Any]) -> None:
    arguments = ["--weights", "tiny", "--seq-len", "5", "--backend", "plain", "--dtype", "float64"]
    ran = command(
        "layerwise",
        *arguments,
        "--inject-fault",
        "final-norm",
        env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    last = ran.stdout.splitlines()[-1]
    assert ran.returncode == 1
    assert not ran.stderr
    assert last.split()[0] == "FAIL"
    assert ran.stdout.isascii()


def test_others_names_are_shown_and_not_obeyed(report: Report, printed: Printed) -> None:
    evil = "\x1b[31mred\x07[/red][bold]\u202e\r\nnext\x9b"
    shown = ascii(evil)[1:-1]
    row = dataclasses.replace(report.results[0], tap=evil, status=Status.EXTRA, detail=evil)
    assert report.first_divergence is not None
    first = dataclasses.replace(report.first_divergence, tap=evil, why=evil, suspects=evil, row=row)
    text = printed(
        dataclasses.replace(
            report,
            results=[row, *report.results[1:]],
            first_divergence=first,
            reasons=[Reason(what=evil, where=evil, fix=evil, code=ExitCode.FAIL)],
            identity={"weights": {"source": evil, "revision": evil, "sha256": "0" * 64}},
        )
    )
    assert text.replace("\n", "").isprintable()
    assert text.count(shown) >= 10


def test_the_heading_has_weights_inputs_and_versions(report: Report, printed: Printed) -> None:
    heading = printed().split("tap")[0]
    for words in ("tiny", "0" * 16, "time 5", report.environment["torch"]):
        assert words in heading


def test_only_the_first_block_that_differs_is_written_out(printed: Printed) -> None:
    lines = [line.split() for line in printed().splitlines()]
    folded = [line[:4] for line in lines if line[1:2] == ["to"] and "h.3." not in line[0]]
    assert folded == [["h.0", "to", "h.2", "(42)"], ["h.4", "to", "h.11", "(112)"]]
    written = [line for line in lines if line and line[0].startswith("h.3.")]
    assert written[0][:4] == ["h.3.attn.query", "to", "mlp.c_fc", "(10)"]
    assert written[2][:4] == ["h.3.mlp", "to", "ln_2", "(3)"]
    assert [line[-1] for line in written][:3] == ["ok", "WRONG", "follows"]


def test_a_failure_comes_before_the_table(printed: Printed) -> None:
    text = printed()
    assert text.index("first divergence: h.3.mlp.gelu") < text.index("\ntap ") < text.index("FAIL")


def test_the_first_divergence_is_opened_up(report: Report, printed: Printed) -> None:
    assert report.first_divergence is not None
    row = report.first_divergence.row
    for theirs in (1.25e-14, None):
        changed = [
            dataclasses.replace(r, error_reference=theirs) if r.tap == row.tap else r
            for r in report.results
        ]
        text = " ".join(printed(dataclasses.replace(report, results=changed)).split())
        errors = f"errors ours {row.error_ours:#.3g}, Hugging Face's 1.25e-14 "
        assert (errors in text) == (theirs is not None)
        for words in (
            "first divergence: h.3.mlp.gelu backend plain, float64, against oracle found in",
            f"worst at {list(row.worst_index)}: ours {str(row.value_ours)[:6]}",
            f"its error is {row.amplification:#.3g} times that of its inputs",
            "likely cause GPT-1 uses",
        ):
            assert words in text


def test_the_next_step_is_a_command(report: Report) -> None:
    plain = dataclasses.replace(
        report,
        explanation=None,
        command="python -m parity.check layerwise --quiet --output 'a b.json' --format=json "
        "--weights tiny",
    )
    step = "layerwise --weights tiny --explain h.3.mlp.gelu"
    assert f"{step} FAIL" in " ".join(str(plain).split())
    where = {"code": "", "fault": "", "diagnosis": "", "fix": ""}
    taps = {"h.3.mlp.gelu, and in blocks 4": "blocks.3.act, my.py:7, gelu", "h.5.mlp": "blocks.5"}
    wrong = [WrongOperation(tap=tap, place=place, **where) for tap, place in taps.items()]
    text = " ".join(str(dataclasses.replace(plain, wrong=wrong)).split())
    assert f"{step} h.3.mlp.gelu is made in blocks.3.act, my.py:7, gelu FAIL" in text
    for other in (
        dataclasses.replace(plain, command=""),
        dataclasses.replace(plain, explanation=report.explanation),
    ):
        assert "\nnext" not in str(other)


def test_the_verdict_is_the_last_line(printed: Printed, tap_counts: dict[str, int]) -> None:
    last = printed(COLUMNS="300").splitlines()[-1]
    count = tap_counts["plain"]
    assert last.startswith(f"FAIL  compared {count} of {count} ")
    assert last.split()[-1] == "h.3.mlp.gelu"


def test_an_explanation_looks_closely(printed: Printed) -> None:
    part = printed().split("errors at h.3.mlp.gelu", 1)[1]
    assert len(re.findall(r"^ +1e-\d\d +[\d,]+ +#+", part, re.MULTILINE)) >= 2
    worst = re.findall(r"\[0, \d, \d+\] +ours \S+ +oracle \S+ +difference \S+", part)
    assert len(worst) == 2 * 5
    number = r"\d\.\d+(e[+-]\d+)?"
    for against in ("oracle", "huggingface"):
        line = rf"plain, float64 float64 against {against}: error {number}, {number} times that of"
        assert re.search(line, " ".join(part.split()))


def test_a_reason_has_what_where_and_fix(report: Report, printed: Printed) -> None:
    reason = Reason(what="dead", where="h.3", fix="train it", code=ExitCode.INCONCLUSIVE)
    text = printed(dataclasses.replace(report, reasons=[reason]))
    assert "dead\n  where  h.3\n  fix    train it\n" in text


def test_the_effect_on_the_logits_is_shown(report: Report, printed: Printed) -> None:
    numbers = {
        "loss_ours": 5.25,
        "loss_oracle": 5.5,
        "log_softmax_largest": 0.0625,
        "kl_largest": 0.03125,
        "top1_agreement": 0.75,
        "top5_agreement": 0.875,
        "rank_change_largest": 17.0,
    }
    text = printed(dataclasses.replace(report, consequences={"plain": numbers}))
    words = text.split("effect on the logits")[1].split()
    shown = "5.25 5.5 0.0625 0.0312 75 % 87.5 % 17"
    assert [word for word in words if word[0].isdigit() or word == "%"][:9] == shown.split()


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PASS])
def test_a_status_is_shown_in_its_place(status: Status, report: Report, printed: Printed) -> None:
    rows = [
        dataclasses.replace(row, status=status, required_tolerance=None)
        if row.tap == "logits"
        else row
        for row in report.results
    ]
    text = printed(dataclasses.replace(report, results=rows))
    line = next(line.split() for line in text.splitlines() if line.startswith("logits"))
    assert (line[2], line[-1] == "ok") == (status.value, False)


@pytest.mark.parametrize(("verb", "counted"), [("weights", "146 of 146"), ("doctor", " of ")])
def test_the_other_verbs_end_in_a_verdict_too(verb: str, counted: str, check: Check) -> None:
    last = check(verb, "--weights", "tiny", env={"COLUMNS": "300"}).stdout.splitlines()[-1]
    assert last.startswith("PASS ")
    assert counted in last


def line_of(tap: str, mode: Mode, number: float, bound: float, *, fails: bool = False) -> Row:
    return Row(
        tap=tap,
        backend="plain",
        dtype="float32",
        mode=mode,
        against="oracle",
        status=Status.FAIL if fails else Status.PASS,
        bound=bound,
        required_tolerance=number,
    )


@pytest.fixture
def small() -> Report:
    """A report of three taps in three modes; the loss has no row in mode per-op."""
    rows = [
        line_of("embeddings", Mode.FLOAT64, 0.0, 0.0),
        line_of("logits", Mode.FLOAT64, 2e-12, 1e-9),
        line_of("logits", Mode.FLOAT64, 5e-12, 1e-9),
        line_of("logits", Mode.END_TO_END, 1.25, 4.0),
        line_of("logits", Mode.PER_OP, 0.5, 3.0),
        line_of("loss", Mode.FLOAT64, 3e-12, 1e-9),
        line_of("loss", Mode.END_TO_END, 6.5, 4.0, fails=True),
    ]
    file = {"name": "a.bin", "size": 12_345, "sha256": "0123456789abcdef" * 4, "standing": "known"}
    return finish(
        "layerwise",
        rows=rows,
        plan=Plan.of({"plain": (3, 3)}),
        identity={"weights": {"source": "mine", "files": [file]}},
        environment={"torch": "2.6", "transformers": "5.1", "threads": "1"},
    )


def test_every_mode_has_its_numbers_bound_and_meaning(small: Report) -> None:
    lines = [
        line.split()
        for line in render_rich(lambda console: render(small, console), None).splitlines()
    ]
    at = lines.index(["tap", "backend", "float64", "end-to-end", "per-op"])
    assert lines[at + 1 : at + 5] == [
        ["embeddings", "plain", "0.00e+00", "ok"],
        ["logits", "plain", "5.00e-12", "1.25", "0.500", "ok"],
        ["loss", "plain", "3.00e-12", "6.50!", "WRONG"],
        ["bound", "1e-09", "4", "3"],
    ]
    note = (
        "float64: largest error / RMS; end-to-end, per-op: error / Hugging Face's error; ! beyond"
    )
    assert note.split() == [word for line in lines[at + 5 : at + 7] for word in line][:14]
    assert ["a.bin", "12,345", "bytes,", "sha256", "0123456789abcdef…,", "as", "published"] in lines


def in_color(draw: Callable[[Console], None]) -> str:
    stream = io.StringIO()
    draw(Console(file=stream, force_terminal=True, color_system="standard", width=100))
    return stream.getvalue()


def test_the_numbers_that_fail_are_red(small: Report) -> None:
    text = in_color(lambda console: render(small, console))
    assert re.findall(r"\x1b\[1;31m *([^\x1b]+)", text) == ["6.50!", "WRONG", "FAIL"]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("ok", "\x1b[32mok\x1b[0m"),
        ("ok then", "\x1b[32mok then\x1b[0m"),
        ("DIFFERS much", "\x1b[1;31mDIFFERS much\x1b[0m"),
        ("FAIL at 3", "\x1b[1;31mFAIL\x1b[0m at 3"),
        ("not run here", "\x1b[1;33mnot run\x1b[0m here"),
        ("okay", "okay"),
        ("is ok", "is ok"),
    ],
)
def test_a_status_has_its_color(cell: str, shown: str) -> None:
    made = table(Section(rows=[[cell]]))
    assert in_color(lambda console: console.print(made)).rstrip() == shown


# Sections.


def report_of(*sections: Section) -> Report:
    return finish("some-new-check", rows=[], plan=Plan.of({"plain": (2, 2)}), sections=sections)


def text_of(*sections: Section) -> list[str]:
    text = render_rich(lambda console: render(report_of(*sections), console), None)
    return [line.rstrip() for line in text.splitlines()][:-2]


def test_a_table_has_its_columns_note_and_lines() -> None:
    section = Section(
        title="sizes",
        columns=("name", "size"),
        rows=[["a", "1"], ["b", "1,000"]],
        right=(1,),
        note="in bytes",
        lines=["and no more"],
    )
    expected = ["sizes", "name   size", "a         1", "b     1,000", "in bytes", "and no more"]
    assert text_of(section) == expected
    assert text_of(Section(lines=["a"]), Section(lines=["b"])) == ["a", "", "b"]


def test_facts_have_no_header() -> None:
    assert text_of(Section(rows=[("source", "a [b]"), ("got", "1")])) == [
        "source  a [b]",
        "got     1",
    ]


def test_tables_of_a_group_are_equally_wide() -> None:
    first, second = (
        Section(columns=("x", "y"), rows=[[name, "1"]], group="pairs") for name in ("a", "longer")
    )
    lines = text_of(first, second)
    assert {line.index(mark) for line in lines if line for mark in "1y" if mark in line} == {8}


def test_a_table_wider_than_a_page_is_split() -> None:
    names = [f"column-{number:02d}" for number in range(12)]
    section = Section(columns=("", *names), rows=[["line", *(n[-2:] for n in names)]], splits=True)
    lines = text_of(section)
    headers = [line for line in lines if "column" in line]
    assert len(headers) > 1
    assert names == [word for line in headers for word in line.split()]
    assert [line.split()[0] for line in lines if line and "column" not in line] == ["line"] * len(
        headers
    )
    assert max(map(len, lines)) <= 100


def test_an_unknown_check_has_a_last_line() -> None:
    report = report_of(Section(lines=["a"]))
    other = dataclasses.replace(report, summary="two things")
    lines = [
        render_rich(lambda console, one=one: render(one, console), None).splitlines()[-1]
        for one in (report, other)
    ]
    assert lines == ["PASS  2 of 2 comparisons on plain compared", "PASS  two things"]


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Section)])
def test_json_has_every_field(key: str) -> None:
    assert f'"{key}"' in render_json(report_of(Section(right=range(2))))
