"""The site of the documents builds with `--strict`, and a broken link fails the build."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HOME = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (HOME / "mkdocs.yml").exists(), reason="only a checkout has the site's files"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with a copy of docs/; everything else is a link."""
    pytest.importorskip("mkdocs", reason="not run: the extra docs is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in HOME.iterdir():
        if not path.name.startswith(".") and path.name not in ("docs", "site"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(HOME / "docs", folder / "docs")
    (folder / "mkdocs.yml").unlink()
    shutil.copy(HOME / "mkdocs.yml", folder)
    return folder


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=checkout,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_builds_and_loads_nothing_from_elsewhere(checkout: Path) -> None:
    done = build(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.stem for page in checkout.glob("docs/*.md")} - {"README"}
    assert pages <= {path.name for path in (checkout / "site").iterdir()}
    assert (checkout / "site" / "bench" / "results" / "cpu.svg").exists()
    for page in ("index.html", "weights/index.html", "faults/erf-gelu/index.html"):
        text = (checkout / "site" / page).read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(?:https?:)?//", text) == []


def test_broken_links_fail_the_build(checkout: Path) -> None:
    with (checkout / "docs" / "data.md").open("a", encoding="utf-8") as file:
        file.write("\n[no page](none.md) and [no heading](weights.md#none)\n")
    done = build(checkout)
    assert done.returncode == 1
    assert "a link 'none.md', but the target is not found" in done.stderr
    assert "does not contain an anchor '#none'" in done.stderr


def test_links_out_of_the_documents_become_text() -> None:
    """Pictures stay, code is left alone, and one to no file is an error."""
    pytest.importorskip("mkdocs", reason="not run: the extra docs is not installed")
    hook = runpy.run_path(str(HOME / "docs" / "site_hook.py"))["on_page_markdown"]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="faults/README.md"))
    for text, expected in {
        "[`mlp.py`](../../scratch_gpt/mlp.py)!": "`mlp.py`!",
        "[a](../../README.md#versions) [b](../weights.md#notes)": "a [b](../weights.md#notes)",
        "[c](https://example.org/x) [d](#top)": "[c](https://example.org/x) [d](#top)",
        "![e](../../bench/results/cpu.svg)": "![e](../bench/results/cpu.svg)",
        "```text\n[f](../../none.py)\n```": "```text\n[f](../../none.py)\n```",
    }.items():
        assert hook(text, page=page) == expected
    with pytest.raises(ValueError, match=r"faults/README.md: the link ../../none.py leads to"):
        hook("[g](../../none.py)", page=page)


def test_the_menu_has_the_pages_of_the_index_in_its_order() -> None:
    index = (HOME / "docs" / "README.md").read_text(encoding="utf-8")
    menu = (HOME / "mkdocs.yml").read_text(encoding="utf-8")
    groups = re.findall(r"^## (.*)\n((?:.*\n)*?)(?=^## |\Z)", index, re.MULTILINE)
    listed = {
        name: re.findall(r"^\| \[[^]]+\]\((.*?\.md)\)", t, re.MULTILINE) for name, t in groups
    }
    found = re.findall(r"^  - (\w.*):\n((?:      - .*\n)+)", menu, re.MULTILINE)
    assert {name: re.findall(r"- (.*)", text) for name, text in found} == listed
    pages = {page.name for page in (HOME / "docs").glob("*.md")} - {"README.md"}
    assert pages <= {page for pages in listed.values() for page in pages}
