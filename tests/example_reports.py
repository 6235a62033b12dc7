"""Render the example pages in docs/reports, and the README's picture, from their JSON reports.

    python tests/example_reports.py [--run]

`--run` makes the JSON reports first: a pass, and a stranger's model with one wrong line. The third
page is that of docs/drift.json, which the rows of tox make.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from parity.report.html import render, render_picture
from parity.report.json import read_report

HOME = Path(__file__).parents[1]
FOLDER = HOME / "docs" / "reports"

COMMANDS = {
    "pass.json": "layerwise --weights tiny --backend fused",
    "failure.json": "layerwise --weights tiny --candidate examples/broken_gpt.py",
}
"""The checks that make reports, by file."""

PAGES = {
    "pass.html": FOLDER / "pass.json",
    "failure.html": FOLDER / "failure.json",
    "drift.html": HOME / "docs" / "drift.json",
}
PICTURE = "failure.svg"


def rendered() -> dict[str, str]:
    """Return every page, and the picture, by file name."""
    reports = {name: read_report(source) for name, source in PAGES.items()}
    pages = {name: render(report) for name, report in reports.items()}
    return {**pages, PICTURE: render_picture(reports["failure.html"])}


def run() -> None:
    """Make the JSON reports. A failing check is one of the examples."""
    for name, command in COMMANDS.items():
        output = str((FOLDER / name).relative_to(HOME))
        arguments = [*command.split(), "--quiet", "--output", output]
        done = subprocess.run(
            [sys.executable, "-m", "parity.check", *arguments], cwd=HOME, check=False
        )
        if done.returncode not in (0, 1):
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="make the JSON reports first")
    if parser.parse_args().run:
        run()
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
