"""The page in Chromium: nothing but the file is loaded, and it is usable on every screen."""
# ruff: noqa: ANN401 - the types are those of a package that may be missing

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.core.results import Report
from parity.report.html import render

playwright = pytest.importorskip(
    "playwright.sync_api", reason="not run: playwright is not installed (extra `browser`)"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="not run: there is no chromium on the path"
)

DOCS = Path(__file__).parents[3] / "docs" / "reports"
EXAMPLES = sorted(path.name for path in DOCS.glob("*.html"))
WIDTHS = {"phone": 320, "large phone": 360, "screen": 1280}

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a network."""
    offline = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-gpu"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=offline)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Open a report's page, or one of the examples; any message or request is an error."""
    contexts: list[Any] = []
    found: list[str] = []

    def start(report: Report | str, *, width: int = 1280, **settings: Any) -> Any:
        if isinstance(report, str):
            file = DOCS / report
        else:
            file = tmp_path / f"report{len(contexts)}.html"
            file.write_text(render(report), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.on("request", lambda request: found.append(f"request: {request.url}"))
        page.on("dialog", lambda dialog: found.append(f"dialog: {dialog.message}"))
        page.goto(file.as_uri())
        assert found == [f"request: {file.as_uri()}"]
        found.clear()
        return page

    yield start
    for context in contexts:
        context.close()
    assert found == []


@pytest.fixture
def wild(renamed: Callable[..., Report]) -> Report:
    """A report whose names try to run, to load and to break out."""
    add = "</style></title><script>alert(1)</script><img src=http://x/y>\"' onload='alert(1)"
    return renamed(lambda name: f"{name}{add}{'long' * 500}")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_only_boxes_scroll_sideways(
    full_size: Report, wild: Report, opened: Opened, width: int, scheme: str
) -> None:
    for report in (full_size, wild, *EXAMPLES):
        page = opened(report, width=width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_are_text(wild: Report, opened: Opened) -> None:
    """They are in the page as they are in the report; opening it above found no request."""
    page = opened(wild)
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    assert "<script>alert(1)</script>" in page.inner_text("header")


def test_both_colour_schemes_and_paper(full_size: Report, opened: Opened) -> None:
    """A dark page has a dark background; a printed one has a white one."""
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(full_size, color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(background) == "rgb(255, 255, 255)"
    assert max(map(int, dark.evaluate(background)[4:-1].split(","))) < 40
    dark.emulate_media(media="print")
    assert dark.evaluate(background) == "rgb(255, 255, 255)"


def test_a_printed_page_has_everything(full_size: Report, opened: Opened) -> None:
    """Closed parts are open, no box hides rows, and what needs a screen is gone."""
    folded = dataclasses.replace(full_size, sections=full_size.appendix or [])
    page = opened(folded)
    page.emulate_media(media="print")
    assert page.locator(".choices").is_hidden()
    assert page.locator("#all tbody tr").last.is_visible()
    box = page.locator(".tall")
    assert box.evaluate("it => getComputedStyle(it).overflow") == "visible"
    assert page.locator(".wide svg").is_visible()
    assert page.locator(".narrow svg").is_hidden()


def shown(page: Any) -> list[list[str]]:
    """Return the words of every visible line of the table, from top to bottom."""
    script = """lines => lines.filter(it => it.checkVisibility())
        .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
        .map(it => [...it.cells].map(cell => cell.innerText.trim()))"""
    lines: list[list[str]] = page.locator("#all tbody tr").evaluate_all(script)
    return lines


def test_the_table_filters(full_size: Report, opened: Opened) -> None:
    """By result, mode, backend, block and operation, together and back again; without scripts."""
    page = opened(full_size)
    every = shown(page)
    assert len(every) == len({(row.tap, row.backend) for row in full_size.results})
    pick = page.select_option
    pick("#show", index=1)
    differ = shown(page)
    assert differ == [line for line in every if not line[2].endswith("ok")]
    pick("#show", index=2)
    assert {line[0] for line in shown(page)} == {"h.3.mlp.gelu"}
    pick("#show", label="differs in per-op float32 from oracle")
    assert {line[0] for line in shown(page)} == {"h.3.mlp.gelu"}
    pick("#show", index=0)
    for choice, at, match in (
        ("#backend", "fused", lambda line: line[1] == "fused"),
        ("#block", "h.11", lambda line: line[0].startswith("h.11.")),
        ("#operation", "mlp.gelu", lambda line: line[0] == "h.11.mlp.gelu"),
    ):
        before = shown(page)
        pick(choice, label=at)
        assert shown(page) == [line for line in before if match(line)] != before
    for choice in ("#backend", "#block", "#operation"):
        pick(choice, index=0)
    assert shown(page) == every


def test_the_table_sorts(full_size: Report, opened: Opened) -> None:
    """By the numbers of every column, the largest first; columns stay aligned."""
    page = opened(full_size)
    every = shown(page)
    orders = page.locator("#order option").count()
    assert orders == 5
    for order in range(1, orders):
        page.select_option("#order", index=order)
        lines = shown(page)
        assert sorted(lines) == sorted(every)
        numbers = [float(line[2 + order].replace(",", "")) for line in lines]
        assert numbers == sorted(numbers, reverse=True)
        edges = page.evaluate("""[...document.querySelectorAll('#all tr')].slice(0, 5)
            .map(row => [...row.cells].map(it => Math.round(it.getBoundingClientRect().right)))""")
        assert all(edge == edges[0] for edge in edges)
    page.select_option("#order", index=0)
    assert shown(page) == every


def test_the_page_works_without_scripts(full_size: Report, opened: Opened) -> None:
    page = opened(full_size, java_script_enabled=False)
    page.select_option("#show", index=2)
    assert page.locator("#all tr.guilty").first.is_visible()
    assert page.locator("#all tr.inherited, #all tr.ok").first.is_hidden()


def test_a_notebook_shows_the_page(full_size: Report, browser: Any, tmp_path: Path) -> None:
    """In a frame, where the page's own policy and style hold."""
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><body>{full_size._repr_html_()}", encoding="utf-8")
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(file.as_uri())
    frame = page.frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "FAIL layerwise"
    assert frame.locator("h1 b").evaluate("it => getComputedStyle(it).color") != "rgb(0, 0, 0)"
    assert frame.locator(".wide svg").is_visible()
    page.close()
    assert messages == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_no_serious_problem_of_accessibility(
    wild: Report, renamed: Callable[..., Report], opened: Opened, scheme: str, width: int
) -> None:
    """By axe-core, which the policy would not let in: only this test passes it by."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = []
    for report in (renamed(str), wild, *EXAMPLES):
        page = opened(report, width=width, color_scheme=scheme, bypass_csp=True)
        result = axe.Axe().run(page)
        found += [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
            for one in result.response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    assert found == []
