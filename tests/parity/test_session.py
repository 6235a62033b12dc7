"""How a run ends: exit codes, errors in three lines, and where reports are written."""

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity import verbs
from parity.core.results import Report
from parity.errors import (
    EnvironmentUnfitError,
    InconclusiveError,
    InputRejectedError,
    ParityError,
    UsageError,
)
from parity.options import LayerwiseOptions, ReportOptions, WeightsOptions
from parity.session import run

Check = Callable[..., Any]
Stand = Callable[[object], None]
Capture = pytest.CaptureFixture[str]


def run_weights(options: ReportOptions) -> int:
    return run(options, name="weights", load=lambda: verbs.weights)


def with_words(kind: type[ParityError]) -> ParityError:
    """Return an error of that kind with known words."""
    return kind("what it is", where="where it is", fix="what to do")


UNEXPECTED = "run it again with --debug and report the traceback"
KNOWN = ["what it is", "where it is", "what to do"]
ENDINGS = {
    "usage": (with_words(UsageError), 2, KNOWN),
    "inconclusive": (with_words(InconclusiveError), 3, KNOWN),
    "refused": (with_words(InputRejectedError), 4, KNOWN),
    "environment": (with_words(EnvironmentUnfitError), 5, KNOWN),
    "unexpected": (
        ZeroDivisionError("division by zero"),
        70,
        ["ZeroDivisionError: division by zero", "inside this program", UNEXPECTED],
    ),
    "exit inside": (SystemExit(0), 70, ["SystemExit: 0", "inside this program", UNEXPECTED]),
    "memory": (
        MemoryError(),
        5,
        [
            "there is not enough memory",
            "this machine",
            "ask for less at once, or take a smaller model",
        ],
    ),
    "package missing": (
        ModuleNotFoundError("No module named 'safetensors.torch'", name="safetensors.torch"),
        5,
        [
            "the package safetensors.torch is not installed",
            "this Python environment",
            "pip install safetensors",
        ],
    ),
}
"""What a verb may raise: the exit code that follows, and the words: what, where, to do."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_is_three_lines_and_a_code(ending: str, check: Check, stand_in: Stand) -> None:
    error, code, (what, where, fix) = ENDINGS[ending]
    stand_in(error)
    result = check("weights")
    assert result.exit_code == code
    assert not result.stdout
    assert result.stderr == f"error: {what}\n  where  {where}\n  to do  {fix}\n"


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_words_are_in_the_json(
    ending: str, check: Check, stand_in: Stand, strictly: Callable[[str], Any]
) -> None:
    error, code, (what, where, fix) = ENDINGS[ending]
    stand_in(error)
    result = check("weights", "--format", "json")
    document = strictly(result.stdout)
    reason = {"what": what, "where": where, "fix": fix, "code": code}
    verdict = "inconclusive" if code == 3 else "error"
    assert code == result.exit_code
    assert code == document["exit_code"]
    assert verdict == document["verdict"]
    assert [reason] == document["reasons"]


def test_debug_shows_the_traceback(check: Check, stand_in: Stand) -> None:
    stand_in(ZeroDivisionError("division by zero"))
    error = check("weights", "--debug").stderr
    lines = error.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3][:7] == "error: "
    assert lines[-2][:7] == "  where"
    assert lines[-1][:7] == "  to do"


def test_an_interrupt_is_no_verdict(check: Check, stand_in: Stand) -> None:
    stand_in(KeyboardInterrupt())
    result = check("weights")
    assert (result.exit_code, result.stdout, "interrupted" in result.stderr) == (130, "", True)


def test_control_characters_do_not_reach_the_terminal(check: Check, stand_in: Stand) -> None:
    evil = "\x1b[31mred\x1b]0;title\x07 \u202eback\r\n\x9bnext"
    stand_in(UsageError(evil, where=evil, fix=evil))
    lines = check("weights").stderr.split("\n")
    assert (lines[0], len(lines) - 1) == ("error: " + " [31mred ]0;title   back   next", 3)
    assert "".join(lines).isprintable()


@pytest.mark.parametrize("form", ["html", "junit", "github", "HTML", ""])
def test_a_form_not_built_yet_is_a_usage_error(form: str, check: Check, stand_in: Stand) -> None:
    stand_in(AssertionError("the verb ran"))
    result = check("weights", "--format", form)
    assert (result.exit_code, f"cannot write '{form}'" in result.stderr) == (2, True)


@pytest.mark.parametrize("suffix", [".html", ".xml", ".md"])
def test_a_suffix_not_built_yet_is_a_usage_error(
    suffix: str, check: Check, stand_in: Stand, tmp_path: Path
) -> None:
    stand_in(AssertionError("the verb ran"))
    result = check("weights", "--output", str(tmp_path / f"report{suffix}"))
    told = f"cannot write '{suffix[1:]}'" in result.stderr
    assert (result.exit_code, told, list(tmp_path.iterdir())) == (2, True, [])


def test_each_file_has_the_form_of_its_suffix(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    """A file without a suffix gets standard output's form."""
    stand_in(report)
    names = ["a.json", "B.JSON", "c.txt", "d"]
    arguments = [part for name in names for part in ("--output", str(tmp_path / name))]
    printed = check("weights", "--format", "json", *arguments).stdout
    text = check("weights").stdout
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in names] == [
        printed,
        printed,
        text,
        printed,
    ]


def test_quiet_prints_nothing(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    stand_in(report)
    file = tmp_path / "a report with spaces ☃.json"
    result = check("weights", "--quiet", "--output", str(file))
    assert (result.exit_code, result.stdout, result.stderr, file.is_file()) == (1, "", "", True)


def test_quiet_does_not_hide_an_error(check: Check, stand_in: Stand) -> None:
    stand_in(with_words(UsageError))
    result = check("weights", "--quiet", "--format", "json")
    assert (result.exit_code, result.stdout, "what it is" in result.stderr) == (2, "", True)


@pytest.mark.parametrize("place", ["no such folder/r.json", ".", "file/r.json"])
def test_an_unwritable_file_is_an_error_before_the_work(
    place: str, check: Check, stand_in: Stand, tmp_path: Path
) -> None:
    stand_in(AssertionError("the verb ran"))
    (tmp_path / "file").touch()
    result = check("weights", "--output", str(tmp_path / place))
    assert (result.exit_code, str(tmp_path / place) in result.stderr) == (5, True)


def test_a_file_that_fails_late_leaves_one_document(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    """A file that cannot be written after all costs the exit code, not the printed report."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def outcome() -> Report:
        folder.rmdir()
        return report

    stand_in(outcome)
    result = check("weights", "--format", "json", "--output", str(folder / "r.json"))
    assert (result.exit_code, strictly(result.stdout)["verdict"]) == (5, "fail")


def test_an_error_replaces_an_older_report(
    check: Check, stand_in: Stand, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    files = {name: tmp_path / name for name in ("r.json", "r.txt")}
    for file in files.values():
        file.write_text("PASS", encoding="utf-8")
    stand_in(with_words(InputRejectedError))
    arguments = [part for file in files.values() for part in ("--output", str(file))]
    told = check("weights", *arguments).stderr
    written = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    assert ("error", told) == (strictly(written["r.json"])["verdict"], written["r.txt"])


def test_what_a_verb_prints_is_no_report(
    check: Check, stand_in: Stand, report: Report, strictly: Callable[[str], Any]
) -> None:
    def outcome() -> Report:
        print("Loading my model ...")  # noqa: T201 - it is what is tested
        return report

    stand_in(outcome)
    result = check("weights", "--format", "json")
    assert strictly(result.stdout)["verdict"] == "fail"
    assert result.stderr == "Loading my model ...\n"


class Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [None, Full()], ids=["closed", "full"])
def test_a_report_that_was_not_printed_is_no_pass(
    stream: io.StringIO | None,
    stand_in: Stand,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    stand_in(report)
    monkeypatch.setattr(sys, "stdout", stream)
    file = tmp_path / "r.json"
    code = run_weights(WeightsOptions(output=(file,)))
    assert (code, '"verdict": "fail"' in file.read_text(encoding="utf-8")) == (5, True)


@pytest.mark.parametrize("stream", [None, Full()], ids=["closed", "full"])
def test_an_error_that_cannot_be_printed_keeps_its_code(
    stream: io.StringIO | None, stand_in: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(with_words(InputRejectedError))
    monkeypatch.setattr(sys, "stderr", stream)
    assert run_weights(WeightsOptions()) == 4


UNHELD: dict[str, dict[str, Any]] = {
    "text": {},
    "a text file": {"output": (Path("r.txt"),)},
    "a file in standard output's form": {"output": (Path("r"),)},
    "JSON that is not printed": {"format": "json", "quiet": True},
}
HELD: dict[str, dict[str, Any]] = {
    "JSON": {"format": "json"},
    "a file": {"quiet": True, "output": (Path("r.json"),)},
    "one of two files": {"output": (Path("r.txt"), Path("R.JSON"))},
    "a file in its form": {"format": "json", "quiet": True, "output": (Path("r"),)},
}


@pytest.mark.parametrize("forms", UNHELD)
def test_fingerprints_that_nothing_holds_are_a_usage_error(
    forms: str, stand_in: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(AssertionError("the verb ran"))
    code = run_weights(LayerwiseOptions(fingerprints=True, **UNHELD[forms]))
    assert (code, "--fingerprints\n  to do  add --output" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("forms", HELD)
def test_fingerprints_are_held_by_any_json(
    forms: str, stand_in: Stand, report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(report)
    assert run_weights(LayerwiseOptions(fingerprints=True, **HELD[forms])) == 1
