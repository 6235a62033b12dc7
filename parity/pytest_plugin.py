"""The pytest plugin: the fixture `parity_check`, the marker `parity` and `--parity-report=DIR`.

pytest loads it in every project of the environment, so nothing here imports torch, numpy or another
part of this project that takes time.
"""

import contextlib
import difflib
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parity.testing import SETTINGS, assert_parity, listening

if TYPE_CHECKING:
    from parity.core.results import Report

__all__ = ["assert_parity", "parity_check"]

_FORMS = (".html", ".json", ".xml")
_LONGEST_NAME = 100

_RAN = pytest.StashKey[int]()
"""How many checks a test ran."""
_FOLDER = pytest.StashKey[Path]()
"""The folder of the reports, made."""
_UNCHANGED = pytest.StashKey[dict[Path, str]]()
"""The files of a test's reports that could not be removed or written, with the reasons."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--parity-report`."""
    parser.getgroup("parity").addoption(
        "--parity-report",
        metavar="DIR",
        help="write the report of every parity check to this folder: .html, .json and .xml (JUnit)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and make the folder of the reports."""
    config.addinivalue_line(
        "markers",
        "parity(weights, dtype, seq_len, ...): settings of the test's parity checks, by name; "
        "a test that runs none fails",
    )
    if given := config.getoption("--parity-report"):
        folder = config.invocation_params.dir / given
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"--parity-report {given}: no such folder can be made: {error.strerror}"
            raise pytest.UsageError(message) from error
        config.stash[_FOLDER] = folder


@pytest.fixture
def parity_check() -> Callable[..., "Report"]:
    """Check a model against its reference: `parity_check(model, reference)`; see `assert_parity`.

    A test that uses the fixture and does not call it fails.
    """
    return assert_parity


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Begin a test, or repeat it: no check has run. Fail it if its marker is wrong.

    Its older reports are removed: it may fail before it writes others.
    """
    item.stash[_RAN] = 0
    item.stash[_UNCHANGED] = {}
    for file in _older_reports(item):
        with _noting(item, file):
            from parity.report import require_replaceable  # not needed where there is no report

            require_replaceable(file, str(file))
            file.unlink()
    for marker in item.iter_markers("parity"):
        for given in (*map(repr, marker.args), *marker.kwargs):
            if given not in SETTINGS:
                near = difflib.get_close_matches(given, SETTINGS, n=1) or [", ".join(SETTINGS)]
                pytest.fail(
                    f"the marker parity has no setting {given}; it takes {near[0]}", pytrace=False
                )
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give the settings of the test's marker to its checks, and take their reports."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("parity"))):
        settings |= marker.kwargs

    def take(report: "Report") -> None:
        item.stash[_RAN] += 1
        if _FOLDER in item.config.stash:
            name = file_name(item.nodeid, item.stash[_RAN])
            for form in _FORMS:
                file = item.config.stash[_FOLDER] / (name + form)
                with _noting(item, file):
                    report.save(file)

    with listening(settings, take):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that was to run a check and ran none."""
    yield
    is_meant = "parity_check" in getattr(item, "fixturenames", ()) or any(
        item.iter_markers("parity")
    )
    if is_meant and not item.stash[_RAN]:
        pytest.fail(
            "nothing was compared: the test called neither parity_check nor assert_parity",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Warn of reports that could not be written; an error in the test would hide its verdict."""
    try:
        return (yield)
    finally:
        for file, why in item.stash.get(_UNCHANGED, {}).items():
            warnings.warn(pytest.PytestWarning(f"no parity report: {file}: {why}"), stacklevel=1)


def pytest_terminal_summary(terminalreporter: Any) -> None:  # noqa: ANN401 - no public type
    """Print where the reports are."""
    if folder := terminalreporter.config.stash.get(_FOLDER, None):
        terminalreporter.write_line(f"parity reports: {folder}")


def _older_reports(item: pytest.Item) -> list[Path]:
    """Return the files in the folder with the names of a test's reports."""
    if _FOLDER not in item.config.stash:
        return []
    name = file_name(item.nodeid, 1)
    pattern = re.compile(rf"{name}(-\d+)?({'|'.join(map(re.escape, _FORMS))})")
    found = item.config.stash[_FOLDER].glob(f"{name}*")
    return [file for file in found if pattern.fullmatch(file.name) and file.exists()]


@contextlib.contextmanager
def _noting(item: pytest.Item, file: Path) -> Iterator[None]:
    """Note an error about a report's file, for the warning at the end of the test."""
    from parity.errors import ParityError

    try:
        yield
    except (ParityError, OSError) as error:
        item.stash[_UNCHANGED][file] = getattr(error, "what", None) or str(error)


def file_name(test: str, number: int) -> str:
    """Return a name for the files of a test's report, safe in any file system.

    Tests have different names also where their safe parts are equal, or differ in case alone.
    """
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", test).strip("-")[-_LONGEST_NAME:]
    digest = hashlib.sha256(test.encode()).hexdigest()[:8]
    return f"{safe}-{digest}" + (f"-{number}" if number > 1 else "")
