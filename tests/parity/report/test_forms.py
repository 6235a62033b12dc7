"""Every form of a report has the same verdict, counts and first divergence, and obeys no name."""

import dataclasses
import html
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from parity.core.metrics import Status
from parity.core.results import (
    FirstDivergence,
    Mode,
    ParityFailedError,
    Plan,
    Reason,
    Report,
    Section,
    Verdict,
    WrongOperation,
    difference_found,
    error_report,
)
from parity.errors import EnvironmentUnfitError, ExitCode, InputRejectedError, UsageError
from parity.report import FORMS, form_of, rendered, replace_file
from parity.report import json as json_form
from parity.report.markdown import text as markdown_text

pytestmark = pytest.mark.once

Check = Callable[..., Any]
Stand = Callable[[object], None]

WRONG = WrongOperation(
    tap="h.3.mlp.gelu, and in blocks 4 to 11",
    place="blocks.3.mlp, my_gpt.py:57, functional.gelu",
    code="x = functional.gelu(x)",
    fault="erf-gelu",
    diagnosis="the erf form of GELU; GPT-1 has the tanh form",
    fix='functional.gelu(x, approximate="tanh")',
    file="my_gpt.py",
    line=57,
)


@pytest.fixture
def reports(report: Report) -> dict[str, Report]:
    """Return six reports of different kinds; `report` has a fault in block 3."""
    passing = [dataclasses.replace(row, status=Status.PASS) for row in report.results]
    done = {"first_divergence": None, "explanation": None, "exit_code": ExitCode.PASS}
    passed = dataclasses.replace(report, results=passing, verdict=Verdict.PASS, **done)
    reason = Reason(what="it is dead", where="h.3", fix="train it", code=ExitCode.INCONCLUSIVE)
    counted = Plan.of({"plain": (173, 171), "fused": (9, 9)})
    error = InputRejectedError("no such file", where="a.bin", fix="name another")
    unsure = {"verdict": Verdict.INCONCLUSIVE, "exit_code": ExitCode.INCONCLUSIVE}
    return {
        "fault": report,
        "pass": passed,
        "candidate": dataclasses.replace(report, wrong=[WRONG]),
        "inconclusive": dataclasses.replace(passed, reasons=[reason], plan=counted, **unsure),
        "own sections": dataclasses.replace(
            passed, check="tokens", sections=[Section(title="strings", rows=[("a", "1")])]
        ),
        "error": error_report(error, "layerwise"),
    }


def words(form: str, report: Report) -> str:
    """Return a report's words in one form, without markup."""
    made = rendered(report, form)
    if form == "json":
        # The counts are numbers there.
        found = json.loads(made)
        counts = " ".join(f"{a} of {b}" for b, a in found["plan"]["per_backend"].values())
        return f"{made} {found['verdict'].upper()} {counts}"
    if form == "junit":
        return html.unescape(made)
    if form == "html":
        return html.unescape(re.sub(r"<[^>]*>", " ", made))
    if form == "markdown":
        made = html.unescape(re.sub(r"<!-- -->", "", made))
        return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", made)
    return made.replace("%0A", "\n").replace("%25", "%")


def counts_of(report: Report) -> list[tuple[int, int]]:
    return list(report.plan.per_backend.values())


KINDS = ("fault", "pass", "candidate", "inconclusive", "own sections", "error")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_facts(form: str, kind: str, reports: dict[str, Report]) -> None:
    report = reports[kind]
    found = " ".join(words(form, report).split())
    assert report.verdict.value.upper() in found
    for planned, done in counts_of(report):
        assert f"{done} of {planned}" in found
    if report.first_divergence is not None:
        assert report.first_divergence.tap in found
    for wrong in report.wrong:
        assert wrong.diagnosis in found
        assert "57" in found
    for reason in report.reasons:
        assert all(part in found for part in (reason.what, reason.where, reason.fix))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("status", [one for one in Status if one is not Status.PASS])
def test_every_status_has_every_form(status: Status, mode: Mode, form: str, report: Report) -> None:
    """A row that was not compared has no numbers, and one of a check of its own may lack some."""
    bare = dataclasses.replace(
        report.results[0],
        status=status,
        mode=mode,
        detail="it is so",
        error_ours=None if status is not Status.FAIL else 3.0,
        error_reference=None,
        ratio=None,
        required_tolerance=None if status is not Status.FAIL else 3.0,
        value_ours=1.7e308,
        value_against=-1.7e308,
    )
    first = FirstDivergence(tap=bare.tap, why=difference_found(bare), suspects="", row=bare)
    made = rendered(dataclasses.replace(report, results=[bare], first_divergence=first), form)
    assert bare.tap in made
    word = "skipped" if (form, status) == ("junit", Status.NOT_RUN) else status.value
    assert word in made.replace("\\", "") or form == "github" or status is Status.FAIL


def test_a_long_command_is_whole(report: Report) -> None:
    ids = ";".join(map(str, range(3_000)))
    command = f"python -m parity.check layerwise --token-ids '{ids}'"
    long = dataclasses.replace(report, command=command, explanation=None)
    for form in FORMS:
        made = rendered(long, form)
        assert form in ("junit", "github") or ids in html.unescape(made).replace("\n", "")


HOSTILE = (
    "\x1b[31m<script>alert(1)</script>\x07|`*_[x](http://a.b)@you #12 ::error::%0A"
    "\u202e\r\n&amp;\ufffe"
)


@pytest.fixture
def hostile(report: Report) -> Report:
    row = dataclasses.replace(report.results[0], tap=HOSTILE, status=Status.EXTRA, detail=HOSTILE)
    return dataclasses.replace(
        report,
        check="layerwise",
        command=HOSTILE,
        summary=HOSTILE,
        results=[row, *report.results[1:]],
        first_divergence=FirstDivergence(tap=HOSTILE, why=HOSTILE, suspects=HOSTILE, row=row),
        wrong=[WrongOperation(**{**vars(WRONG), "tap": HOSTILE, "file": HOSTILE, "fix": HOSTILE})],
        reasons=[Reason(what=HOSTILE, where=HOSTILE, fix=HOSTILE, code=ExitCode.FAIL)],
        sections=[Section(title=HOSTILE, rows=[[HOSTILE] * 2], note=HOSTILE, lines=[HOSTILE])],
        inputs={HOSTILE: HOSTILE, "not_run": {HOSTILE: HOSTILE}},
        identity={"weights": {"source": HOSTILE, "notes": [HOSTILE]}},
        environment={**report.environment, "torch": HOSTILE},
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_name_stays_text(form: str, hostile: Report) -> None:
    made = rendered(hostile, form)
    shown = re.sub("[\n]", "", made)
    assert "script" in made
    assert shown.isprintable() or form == "junit"
    if form == "markdown":  # a fence keeps its lines as they are
        made = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", made)
    if form in ("html", "markdown", "junit"):
        assert not re.search(r"<script|<img|\son\w+=", made)
    if form == "junit":
        cases = list(ET.fromstring(made).iter("testcase"))  # noqa: S314 - our own
        assert any("<script>" in case.get("name", "") for case in cases)
    if form == "github":
        commands = [line for line in made.splitlines() if line.startswith("::")]
        assert len(commands) == 2  # the wrong operation and the reason
        assert all(line.count("::") >= 2 and line.split("::")[1] for line in commands)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("h.3.attn_x*y", r"h.3.attn\_x\*y"),
        ("a|b`c`", r"a\|b\`c\`"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](y)", r"\[x\](y)"),
        ("@you", "@<!-- -->you"),
        ("see #12", "see \\#<!-- -->12"),
        ("http://a", "http:/<!-- -->/a"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("0.5", "0.5"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_escapes(words: str, shown: str) -> None:
    assert markdown_text(words) == shown


def test_long_tables_of_markdown_are_folded(report: Report) -> None:
    rows = [[str(number)] for number in range(50)]
    made = rendered(
        dataclasses.replace(report, sections=[Section(title="t", rows=rows)]), "markdown"
    )
    assert made.count("<details>") == made.count("</details>") == 1
    assert made.index("<details>") < made.index("| 49 |") < made.index("</details>")


# JUnit.


def test_junit_has_a_case_per_tap_and_backend(report: Report) -> None:
    exempt = [{"backend": "plain", "tap": "h.0.mlp", "reason": "it is not formed"}]
    inputs = {**report.inputs, "not_run": {"triton": "no GPU"}}
    planned = dataclasses.replace(report.plan, exempt=exempt)
    made = rendered(dataclasses.replace(report, plan=planned, inputs=inputs, seconds=1.5), "junit")
    top = ET.fromstring(made)  # noqa: S314 - our own
    cases = {(case.get("classname"), case.get("name")): case for case in top.iter("testcase")}
    failing = {row.tap for row in report.results if row.status is not Status.PASS}
    failed = {name for (_, name), case in cases.items() if case.find("failure") is not None}
    assert failed == failing | {"verdict"}
    taps = {row.tap for row in report.results}
    assert {name for (of, name) in cases if of == "parity.layerwise.plain"} == taps | {"h.0.mlp"}
    skipped = {
        case.find("skipped").get("message")
        for case in cases.values()
        if case.find("skipped") is not None
    }  # type: ignore[union-attr]
    assert skipped == {"no GPU", "it is not formed"}
    assert (top.get("tests"), top.get("failures")) == (
        str(len(list(top.iter("testcase")))),
        str(len(failed)),
    )
    assert top.get("time") == "1.500"


def test_a_report_without_failing_rows_fails_junit_by_its_verdict(
    reports: dict[str, Report],
) -> None:
    top = ET.fromstring(rendered(reports["inconclusive"], "junit"))  # noqa: S314 - our own
    (found,) = top.iter("error")
    assert "it is dead" in (found.text or "")


# GitHub.


def test_an_annotation_has_file_and_line(
    reports: dict[str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    for file in ("my_gpt.py", str(tmp_path / "my_gpt.py")):
        other = dataclasses.replace(WRONG, file=file)
        lines = rendered(
            dataclasses.replace(reports["fault"], wrong=[other]), "github"
        ).splitlines()
        assert lines[0].startswith("::error file=my_gpt.py,line=57,title=parity layerwise::h.3.mlp")
        assert lines[0].endswith('%0Afix: functional.gelu(x, approximate="tanh")')
    assert rendered(reports["inconclusive"], "github").startswith("::warning title=")
    assert rendered(reports["pass"], "github").startswith("::notice title=parity layerwise::PASS")


def test_an_annotation_cannot_be_ended_by_a_name(reports: dict[str, Report]) -> None:
    """GitHub ends a field at a comma, the fields at a colon, and reads codes after a percent."""
    other = dataclasses.replace(WRONG, file="a,line=9:b::c%0A.py", fix="100 % ::warning::x")
    made = rendered(dataclasses.replace(reports["fault"], wrong=[other]), "github").splitlines()[0]
    assert made.startswith("::error file=a%2Cline=9%3Ab%3A%3Ac%250A.py,line=57,title=")
    assert made.endswith("%0Afix: 100 %25 ::warning::x")


def test_the_summary_is_appended(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    stand_in(report)
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    result = check("weights", "--format", "github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    assert result.exit_code == 1
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- gpt1-parity -->\n## FAIL: layerwise\n")
    missing = check(
        "weights", "--format", "github", env={"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "x")}
    )
    assert (missing.exit_code, "no" in missing.stderr) == (5, True)


def test_annotations_are_as_many_as_github_shows(reports: dict[str, Report]) -> None:
    for count in (10, 11, 35):
        wrong = [dataclasses.replace(WRONG, tap=f"h.{n}.mlp.gelu") for n in range(count)]
        made = rendered(dataclasses.replace(reports["candidate"], wrong=wrong), "github")
        lines = [line for line in made.splitlines() if line.startswith("::error ")]
        assert len(lines) == 10
        assert "h.0.mlp.gelu" in lines[0]
        assert ("h.9.mlp.gelu" in lines[9]) == (count == 10)
        assert lines[9].endswith(f"{count - 9} more are in the report") == (count > 10)


@pytest.mark.parametrize(
    ("before", "size", "kept", "left_out"),
    [(0, 900, True, False), (500_000, 900, True, True), ((1 << 20) - 200, 1, False, False)],
    ids=["whole", "without its table", "cut off"],
)
def test_a_summary_is_never_larger_than_github_takes(  # noqa: PLR0913
    before: int,
    size: int,
    kept: bool,  # noqa: FBT001
    left_out: bool,  # noqa: FBT001
    check: Check,
    stand_in: Stand,
    report: Report,
    tmp_path: Path,
) -> None:
    """GitHub would drop the whole of it, and the verdict with it."""
    rows = [[f"row {n}", size * "\u00e9"] for n in range(400)]
    table = [Section(title="long", rows=rows), Section(title="short", rows=[["last", "1"]])]
    stand_in(dataclasses.replace(report, sections=table))
    summary = tmp_path / "summary.md"
    summary.write_text(before * "x", encoding="utf-8")
    check("weights", "--format", "github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    found = summary.read_bytes()
    assert len(found) <= 1 << 20
    text = found[before:].decode("utf-8", errors="ignore")
    assert text.startswith("<!-- gpt1-parity -->\n## FAIL: layerwise\n")
    assert ("| last | 1 |" in text) is kept
    assert ("A long table is left out" in text) is left_out
    assert ("row 399" in text) is (kept and not left_out)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_an_annotation(verdict: Verdict, report: Report) -> None:
    """Also where neither a tap nor a reason explains it, as with an unfit setting."""
    bare = dataclasses.replace(report, verdict=verdict, first_divergence=None, results=[])
    lines = rendered(bare, "github").splitlines()
    level = {"pass": "notice", "inconclusive": "warning"}.get(verdict.value, "error")
    assert lines[0].startswith(f"::{level} title=parity layerwise::{verdict.value.upper()}  ")


def test_an_error_is_in_the_summary(check: Check, stand_in: Stand, tmp_path: Path) -> None:
    stand_in(InputRejectedError("bad \u202e file", where="m\udcff.npz", fix="another"))
    summary = tmp_path / "summary.md"
    result = check("weights", "--format", "github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    text = summary.read_text(encoding="utf-8")
    assert (result.exit_code, "ERROR: weights" in text) == (4, True)
    assert text.replace("\n", "").isprintable()


# JSON.


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_read_back(kind: str, reports: dict[str, Report], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    reports[kind].save(path)
    again = json_form.read_report(path)
    assert json_form.render(again) == path.read_text(encoding="utf-8")
    assert str(again) == str(reports[kind])
    assert again.verdict is reports[kind].verdict


@pytest.mark.parametrize("kind", KINDS)
def test_json_fits_its_schema(kind: str, reports: dict[str, Report]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    document = json.loads(json_form.render(reports[kind]))
    jsonschema.validate(document, json_form.schema())
    for broken in ({"verdict": "maybe"}, {"results": [{}]}, {"plan": None}, {"schema_version": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **broken}, json_form.schema())


def test_the_published_schema_is_current() -> None:
    published = Path(json_form.__file__).with_name("report.schema.json")
    assert json.loads(published.read_text(encoding="utf-8")) == json_form.schema()


def test_a_row_is_a_line(report: Report) -> None:
    lines = json_form.render(report).splitlines()
    rows = [line for line in lines if line.startswith(' {"tap": ') and '"mode"' in line]
    assert len(rows) == len(report.results)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "schema_version is none"),
        ('{"schema_version": 99}', "schema_version is 99"),
        ('{"schema_version": 2}', "no report"),
        ('{"schema_version": 2, "check": 5}', "no report"),
    ],
)
def test_what_is_no_report_is_rejected(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputRejectedError, match=why) as raised:
        json_form.read_report(path)
    assert raised.value.where == str(path)


# In Python.


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_saved_by_suffix(kind: str, reports: dict[str, Report], tmp_path: Path) -> None:
    report = reports[kind]
    for suffix in (".html", ".md", ".json", ".xml", ".txt"):
        path = tmp_path / f"report{suffix}"
        report.save(path)
        first = path.read_text(encoding="utf-8")
        report.save(str(path))  # an older report may be replaced
        assert path.read_text(encoding="utf-8") == first == rendered(report, form_of(path))


OTHERS = [
    "my own words",
    "main.c:3: error: expected ;\nmake: *** [all] Error 1\n",
    "notes\nerror: a build error\n  where  here\nand more\n",
    '{"schema_version": "1.0", "theme": "dark"}',
    '{\n "schema_version": 3,\n "rows": []\n}',
    "# Notes\n<!-- gpt1-parity -->\n",
    "FAIL  was the verdict\n\nand this is my letter about it\n",
    '<html><body><meta name="generator" content="gpt1-parity"></body></html>',
    '<testsuites name="mine"><testsuite name="gpt1-parity"/></testsuites>',
]


@pytest.mark.parametrize("words", OTHERS)
def test_other_files_are_kept(words: str, report: Report, tmp_path: Path) -> None:
    for name in ("notes.md", "notes.html", "notes.json", "notes.xml", "notes.txt"):
        path = tmp_path / name
        path.write_text(words, encoding="utf-8")
        with pytest.raises(UsageError):
            report.save(path)
        assert path.read_text(encoding="utf-8") == words


def test_unwritable_reports(report: Report, tmp_path: Path) -> None:
    for name in ("a.pdf", ".pdf"):
        with pytest.raises(UsageError, match="pdf"):
            report.save(tmp_path / name)
    report.save(tmp_path / ".html")
    assert (tmp_path / ".html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(UsageError, match="'-' is no file"):
        report.save("-")
    with pytest.raises(EnvironmentUnfitError):
        report.save(tmp_path / "no folder" / "a.json")


def test_of_two_runs_that_write_one_report_each_leaves_a_whole_one(
    reports: dict[str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is in the middle of its file when the second writes all of its own."""
    path = tmp_path / "report.json"
    with replace_file(path, "--output") as partial:
        partial.write_text(rendered(reports["pass"], "json")[:50], encoding="utf-8")
        with monkeypatch.context() as another:
            another.setattr(os, "getpid", lambda: -7)
            reports["fault"].save(path)
        assert json_form.read_report(path).verdict is Verdict.FAIL
        partial.write_text(rendered(reports["pass"], "json"), encoding="utf-8")
    assert json_form.read_report(path).verdict is Verdict.PASS
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_ten_thousand_blocks_are_a_report(form: str, report: Report) -> None:
    """The one that differs is in it, and the report is no larger than can be opened."""
    assert report.first_divergence is not None
    wrong = dataclasses.replace(report.first_divergence.row, tap="h.9999.mlp")
    right = dataclasses.replace(wrong, status=Status.PASS, error_ours=1e-15)
    rows = [dataclasses.replace(right, tap=f"h.{n}.mlp") for n in range(9_999)]
    first = dataclasses.replace(report.first_divergence, tap=wrong.tap, row=wrong)
    many = dataclasses.replace(report, results=[*rows, wrong], first_divergence=first)
    made = rendered(many, form)
    assert "h.9999.mlp" in made
    assert len(made) < 5_000_000


def test_a_report_raises_for_its_verdict(reports: dict[str, Report]) -> None:
    reports["pass"].raise_for_verdict()
    for kind in ("fault", "inconclusive", "error"):
        with pytest.raises(ParityFailedError) as raised:
            reports[kind].raise_for_verdict()
        assert raised.value.report is reports[kind]
        assert str(reports[kind]) in str(raised.value)


def test_a_notebook_shows_the_page(report: Report) -> None:
    shown = report._repr_html_()
    assert shown.startswith("<iframe sandbox")
    assert rendered(report, "html") in html.unescape(shown)
    assert shown.count("<") == 2


def test_every_file_is_written_even_if_one_fails(
    check: Check, stand_in: Stand, reports: dict[str, Report], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    reports["pass"].save(second)

    def verb() -> Report:
        first.mkdir()  # after the paths were checked
        return reports["fault"]

    stand_in(verb)
    result = check("weights", "--output", str(first), "--output", str(second))
    assert (result.exit_code, "FAIL" in result.stdout) == (5, True)
    assert json.loads(second.read_text(encoding="utf-8"))["verdict"] == "fail"


def test_an_error_replaces_a_report_that_cannot_be_rendered(
    check: Check, stand_in: Stand, reports: dict[str, Report], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    reports["pass"].save(path)
    stand_in(dataclasses.replace(reports["fault"], inputs={"seed": object()}))
    assert check("weights", "--output", str(path), "--quiet").exit_code == 70
    assert json.loads(path.read_text(encoding="utf-8"))["verdict"] == "error"


def test_the_command_and_its_time_are_reported(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    stand_in(report)
    path = tmp_path / "a.json"
    check("weights", "--output", str(path))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["command"]
    assert type(found["seconds"]) is float
    assert found["version"]
    assert set(found["commit"]) <= set("0123456789abcdef-dirty")
