"""The page without a browser: its parts, its size, and names that try to be more than text."""

import base64
import dataclasses
import hashlib
import math
import re
import runpy
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from parity.core.metrics import Status
from parity.core.results import Mode, Plan, Report, Row, Section, WrongOperation, finish
from parity.errors import EnvironmentUnfitError
from parity.report import html
from parity.report.html import render, render_picture

pytestmark = pytest.mark.once

Renamed = Callable[[Callable[[str], str]], Report]

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title></svg></desc><img src=x onerror=alert(1)>",
    "\"'><b onmouseover=alert(1)>`",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;&amp;&#60;script",
    "\x00\x07\x1b[31mred\r\n\u2028",
    "\u202egnp.exe\u2066\u200f",
    "name" * 2_500,
    "]]>--><!--",
    "javascript:alert(1)",
    "\ud800",
]


class Tags(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_full_size_failure_fits_in_a_megabyte(full_size: Report) -> None:
    page = render(full_size)
    assert len(full_size.results) > 2_000
    assert len(page.encode()) < 1_000_000
    assert all(tap in page for tap in {row.tap for row in full_size.results})


def test_more_rows_than_a_page_has_space_for(full_size: Report) -> None:
    """Rows that differ stay, and the page has the number of the others."""
    rows = [
        dataclasses.replace(row, tap=f"adamw.{step}.{row.tap}", status=status)
        for step in range(20)
        for row in full_size.results
        for status in [row.status if step == 19 else Status.PASS]
    ]
    page = render(dataclasses.replace(full_size, results=rows))
    assert len(page.encode()) < 1_000_000
    failing = {row.tap for row in rows if row.status is Status.FAIL}
    assert all(f">{tap}<" in page for tap in failing)
    lines = len({(row.tap, row.backend) for row in rows})
    assert f"{lines - html._LINES:,} further lines are in the JSON report" in page


def test_every_number_of_a_line_is_there(full_size: Report) -> None:
    page = render(full_size)
    line = re.search(r'<tr id="r\d+" class="bad guilty[^\n]*', page)
    assert line is not None
    first = full_size.first_divergence
    assert first is not None
    for shown in (first.tap, first.row.backend, f"{first.row.error_ours:.2e}", "[0, 511, "):
        assert shown in line[0]


def test_nothing_runs_and_nothing_is_loaded(full_size: Report) -> None:
    page = Tags(render(full_size))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {
        tag for tag, _ in page.found
    }
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
        assert "src" not in attributes
    assert not re.search(r"url\(|@import|https?:", render(full_size))


def test_the_policy_allows_the_style_sheet_alone(full_size: Report) -> None:
    page = render(full_size)
    sheets = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert len(sheets) == 1
    digest = base64.b64encode(hashlib.sha256(sheets[0].encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        in page
    )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_stays_text(name: str, renamed: Renamed) -> None:
    """In every place where a report has a string, the elements are those of a kind name."""
    tame, wild = (
        dataclasses.replace(
            renamed(lambda old, new=new: f"{old}{new}"),  # type: ignore[misc]
            sections=[],
            appendix=[Section(title=new, columns=["a", new], rows=[["b", new]], note=new)],
            wrong=[WrongOperation(tap=new, place=new, code=new, fault="", diagnosis=new, fix=new)],
        )
        for new in ("x", name)
    )
    expected, page = Tags(render(tame)), render(wild)
    found = Tags(page)
    shape = [(tag, sorted(attributes)) for tag, attributes in expected.found]
    assert shape == [(tag, sorted(attributes)) for tag, attributes in found.found]
    assert not re.search("[\x00-\x09\x0b-\x1f\u2028\u202a-\u202e\u2066-\u2069\ud800]", page)
    assert len(page.encode()) < 1_000_000
    svg = render_picture(wild)
    assert svg.count("<script") == svg.count("<img") == svg.count("<b ") == 0


def report_of(*rows: Row) -> Report:
    """Return a report of some rows."""
    return finish("layerwise", rows=rows, plan=Plan.of({"plain": (len(rows), len(rows))}))


@pytest.mark.parametrize("error", [None, 0.0, math.nan, math.inf, -0.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("mode", [Mode.FLOAT64, Mode.END_TO_END, Mode.PER_OP])
def test_any_number_can_be_drawn(renamed: Renamed, mode: Mode, error: float | None) -> None:
    """Every coordinate is finite, whatever the errors are."""
    report = renamed(str)
    chosen = [row for row in report.results if row.mode is mode]
    changes: list[dict[str, Any]] = [
        {"error_ours": error, "required_tolerance": error, "status": Status.NONFINITE},
        {"error_reference": error, "bound": error or 0.0},
        {"error_ours": error, "error_reference": error, "ratio": error},
    ]
    for change in changes:
        rows = [dataclasses.replace(row, **change) for row in chosen]
        page = render(dataclasses.replace(report, results=rows))
        svg = page[page.index("<svg") : page.rindex("</svg>")]
        drawn = " ".join(re.findall(r' (?:d|x|y|cx|cy|width|height)="([^"]*)"', svg))
        assert not re.search("nan|inf|e[+-]", drawn)


def test_the_picture_marks_the_operation_at_fault(full_size: Report) -> None:
    """One named line across all plots, and a point on each of our lines."""
    svg = render_picture(full_size)
    assert svg.count(">h.3.mlp.gelu</text>") == 1
    assert svg.count('class="guide"') == 3
    assert 'role="img"' in svg
    assert "a difference starts at h.3.mlp.gelu." in svg


def test_blocks_may_have_any_name(renamed: Renamed) -> None:
    """As in a comparison with another architecture; operations are in their blocks."""
    other = renamed(lambda name: re.sub(r"^h\.(\d+)\.(.*)", r"model.layers.\1: \2", name))
    expected, page = render(renamed(str)), render(other)
    assert expected.count('<td class="s s-') == page.count('<td class="s s-') == 12 * 14
    assert '<th scope="row">model.layers.11</th>' in page
    assert render_picture(other).count(">11</text>") == 1


def test_steps_are_no_depth(renamed: Renamed) -> None:
    """Names with more than one kind of number, as in training, have neither picture nor map."""
    report = renamed(str)
    rows = [
        dataclasses.replace(row, tap=f"{'adam' if n % 2 else 'sgd'}.{n}.{row.tap}")
        for n, row in enumerate(report.results)
    ]
    page = render(dataclasses.replace(report, results=rows))
    assert "<svg" not in page
    assert 'class="map"' not in page


def test_a_report_without_depth_has_no_picture(full_size: Report) -> None:
    rows = [dataclasses.replace(row, tap=f"text {n}") for n, row in enumerate(full_size.results)]
    other = dataclasses.replace(full_size, check="tokens", results=rows[:9])
    with pytest.raises(ValueError, match="tokens has no errors by depth"):
        render_picture(other)
    assert "<svg" not in render(other)


def test_a_report_of_nothing_is_a_page() -> None:
    page = render(report_of())
    assert "INCONCLUSIVE" in Tags(page).text


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_symbol(renamed: Renamed, status: Status) -> None:
    """A square has a symbol beside its colour, and a line the word."""
    report = renamed(str)
    rows = [
        dataclasses.replace(row, status=status, detail="a reason", worst_index=())
        if row.tap == "h.5.attn"
        else dataclasses.replace(row, status=Status.PASS)
        for row in report.results
    ]
    page = render(dataclasses.replace(report, results=rows, first_divergence=None))
    square = re.search(r'<td class="s s-(\w+)" title="h\.5\.attn: [^"]*">([^<]*)</td>', page)
    assert square is not None
    kind, symbol = square.groups()
    assert symbol == html._SYMBOLS[kind][0] != ""
    assert (kind == "pass") is (status is Status.PASS)
    line = re.search(r"<tr id=[^\n]*>h\.5\.attn<[^\n]*", page)
    assert line is not None
    assert f"<td>{symbol} {html._SYMBOLS[kind][1]}<td" in line[0]
    assert "<td>a reason" in line[0]


def test_a_broken_template_is_an_error_with_a_fix(
    full_size: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import jinja2

    for text in ("{% if %}", "{{ missing.value }}", "{{ report.nothing }}"):
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        (tmp_path / "report.css").write_text("", encoding="utf-8")
        monkeypatch.setattr(
            jinja2, "PackageLoader", lambda _package: jinja2.FileSystemLoader(tmp_path)
        )
        with pytest.raises(EnvironmentUnfitError, match="the page cannot be made"):
            render(full_size)


def test_a_missing_jinja2_is_an_error_with_a_fix(
    full_size: Report,
    monkeypatch: pytest.MonkeyPatch,
    stand_in: Callable[[object], None],
    check: Callable[..., Any],
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(EnvironmentUnfitError, match=r"the page cannot be made.*jinja2"):
        render(full_size)
    stand_in(full_size)
    result = check("weights", "--format", "html")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith("error: the page cannot be made")
    assert "Traceback" not in result.stderr


HOME = Path(__file__).parents[3]


@pytest.mark.skipif(
    not (HOME / "tests" / "example_reports.py").is_file()
    or not (HOME / "docs" / "reports").is_dir(),
    reason="not run: the tests are not beside the documents",
)
def test_the_example_pages_are_current() -> None:
    """They are committed as rendered from their JSON; `make example-reports` renders them."""
    made = runpy.run_path(str(HOME / "tests" / "example_reports.py"))["rendered"]()
    committed = {name: (HOME / "docs" / "reports" / name).read_text("utf-8") for name in made}
    stale = [name for name, text in made.items() if committed[name] != text]
    assert stale == []
    verdicts = {name: re.findall("<title>(.*)</title>", text)[:1] for name, text in made.items()}
    assert verdicts["pass.html"] == ["PASS: layerwise"]
    assert verdicts["failure.html"] == ["FAIL: layerwise"]
    assert verdicts["drift.html"] == ["PASS: drift"]
    assert max(len(text.encode()) for text in made.values()) < 1_000_000
    assert "examples/broken_gpt.py:65" in made["failure.html"]
