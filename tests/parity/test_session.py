"""How a run ends: exit codes, errors in three lines, and where reports are written."""

import io
import os
import resource
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
from parity.options import (
    GenerationOptions,
    LayerwiseOptions,
    ReportOptions,
    TrainingOptions,
    WeightsOptions,
    recorded_options,
)
from parity.session import run

pytestmark = pytest.mark.once

Check = Callable[..., Any]
Stand = Callable[[object], None]
Capture = pytest.CaptureFixture[str]


def run_weights(options: ReportOptions) -> int:
    return run(options, name="weights", load=lambda: verbs.weights)


def error_of(kind: type[ParityError]) -> ParityError:
    return kind("what it is", where="where it is", fix="what to do")


UNEXPECTED = "run it again with --debug and report the traceback"
KNOWN = ["what it is", "where it is", "what to do"]
ENDINGS = {
    "usage": (error_of(UsageError), 2, KNOWN),
    "inconclusive": (error_of(InconclusiveError), 3, KNOWN),
    "refused": (error_of(InputRejectedError), 4, KNOWN),
    "environment": (error_of(EnvironmentUnfitError), 5, KNOWN),
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
def test_an_error_is_three_lines_and_a_code(
    ending: str, check: Check, stand_in: Stand, strictly: Callable[[str], Any]
) -> None:
    """With `--format json` the document has the same words."""
    error, code, (what, where, fix) = ENDINGS[ending]
    stand_in(error)
    result = check("weights")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"error: {what}\n  where  {where}\n  fix    {fix}\n"

    result = check("weights", "--format", "json")
    document = strictly(result.stdout)
    assert code == result.exit_code == document["exit_code"]
    assert document["verdict"] == ("inconclusive" if code == 3 else "error")
    assert document["reasons"] == [{"what": what, "where": where, "fix": fix, "code": code}]


def test_debug_shows_the_traceback(check: Check, stand_in: Stand) -> None:
    stand_in(ZeroDivisionError("division by zero"))
    lines = check("weights", "--debug").stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line[:7] for line in lines[-3:]] == ["error: ", "  where", "  fix  "]


def test_an_interrupt_is_no_verdict(check: Check, stand_in: Stand) -> None:
    stand_in(KeyboardInterrupt())
    result = check("weights")
    assert (result.exit_code, result.stdout, "interrupted" in result.stderr) == (130, "", True)


def test_control_characters_do_not_reach_the_terminal(check: Check, stand_in: Stand) -> None:
    """Colors, bells, line breaks and reversed writing."""
    evil = "\x1b[31mred\x1b]0;title\x07 \u202eback\r\n\x9bnext"
    stand_in(UsageError(evil, where=evil, fix=evil))
    lines = check("weights").stderr.splitlines()
    assert lines[0] == "error: " + ascii(evil)[1:-1]
    assert len(lines) == 3
    assert "".join(lines).isprintable()


@pytest.mark.parametrize("form", ["pdf", "xml", "HTML", ""])
def test_an_unknown_format_is_a_usage_error(form: str, check: Check, stand_in: Stand) -> None:
    stand_in(AssertionError("the verb ran"))
    result = check("weights", "--format", form)
    assert (result.exit_code, f"cannot write '{form}'" in result.stderr) == (2, True)


@pytest.mark.parametrize("suffix", [".pdf", ".junit", ".yaml"])
def test_an_unknown_suffix_is_a_usage_error(
    suffix: str, check: Check, stand_in: Stand, tmp_path: Path
) -> None:
    stand_in(AssertionError("the verb ran"))
    result = check("weights", "--output", str(tmp_path / f"report{suffix}"))
    assert (result.exit_code, f"cannot write '*{suffix}'" in result.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_each_file_has_the_form_of_its_suffix(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    """A file without a suffix gets standard output's form."""
    stand_in(report)
    names = ["a.json", "B.JSON", "c.txt", "d"]
    arguments = [part for name in names for part in ("--output", str(tmp_path / name))]
    printed = check("weights", "--format", "json", *arguments).stdout
    written = [(tmp_path / name).read_text(encoding="utf-8") for name in names]
    assert written == [printed, printed, check("weights").stdout, printed]


def test_quiet_prints_nothing(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    stand_in(report)
    file = tmp_path / "a report with spaces ☃.json"
    result = check("weights", "--quiet", "--output", str(file))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")
    assert file.is_file()
    stand_in(error_of(UsageError))
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


@pytest.mark.parametrize(
    ("error", "code"), [(error_of(InputRejectedError), 4), (KeyboardInterrupt(), 130)]
)
def test_an_error_replaces_an_older_report(  # noqa: PLR0913 - a case and fixtures
    error: BaseException,
    code: int,
    check: Check,
    stand_in: Stand,
    tmp_path: Path,
    strictly: Callable[[str], Any],
) -> None:
    data, text = tmp_path / "r.json", tmp_path / "r.txt"
    data.write_text('{"schema_version": 1, "check": "weights"}', encoding="utf-8")
    text.write_text("weights  tiny\n\nPASS  33 of 33 taps\n", encoding="utf-8")
    stand_in(error)
    shown = check("weights", "--output", str(data), "--output", str(text)).stderr
    found = strictly(data.read_text(encoding="utf-8"))
    assert (found["verdict"], found["exit_code"], found["results"]) == ("error", code, [])
    assert text.read_text(encoding="utf-8") == shown


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


@pytest.mark.parametrize("content", [b"my notes: PASS\n", b"\0\xff" * 9])
def test_a_file_that_is_no_report_is_kept(
    content: bytes, check: Check, stand_in: Stand, tmp_path: Path
) -> None:
    file = tmp_path / "r.txt"
    file.write_bytes(content)
    stand_in(AssertionError("the verb ran"))
    result = check("weights", "--output", str(file))
    assert (result.exit_code, "is no report, and would be lost" in result.stderr) == (2, True)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["r.json", "r.txt"])
def test_a_report_of_ours_is_replaced(
    name: str, check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    """Each form has a mark by which it is known; an empty file has none and is replaced too."""
    file = tmp_path / name
    file.touch()
    stand_in(report)
    first, second = (check("weights", "--quiet", "--output", str(file)) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (1, 1)
    stand_in(error_of(InputRejectedError))
    codes = [check("weights", "--quiet", "--output", str(file)).exit_code for _ in range(2)]
    assert codes == [4, 4]
    stand_in(report)
    assert check("weights", "--quiet", "--output", str(file)).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture(params=["closed", "full"])
def broken_stream(request: pytest.FixtureRequest, full_disk: io.StringIO) -> io.StringIO | None:
    return full_disk if request.param == "full" else None


def test_a_report_that_was_not_printed_is_no_pass(
    broken_stream: io.StringIO | None,
    stand_in: Stand,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Files are written all the same."""
    stand_in(report)
    monkeypatch.setattr(sys, "stdout", broken_stream)
    file = tmp_path / "r.json"
    assert run_weights(WeightsOptions(output=(file,))) == 5
    assert '"verdict": "fail"' in file.read_text(encoding="utf-8")


def test_an_error_that_cannot_be_printed_keeps_its_code(
    broken_stream: io.StringIO | None, stand_in: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(error_of(InputRejectedError))
    monkeypatch.setattr(sys, "stderr", broken_stream)
    assert run_weights(WeightsOptions()) == 4


@pytest.mark.parametrize("kind", ["pipe", "zero", "full", "huge", "foreign"])
def test_what_is_no_report_is_not_replaced(
    kind: str, check: Check, stand_in: Stand, tmp_path: Path
) -> None:
    """It is found out at once: nothing waits for a pipe or reads five gigabytes."""
    stand_in(AssertionError("the verb ran"))
    path = {"zero": Path("/dev/zero"), "full": Path("/dev/full")}.get(kind, tmp_path / "r.json")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 5 << 30)
    elif kind == "foreign":
        path.write_text('{"model": "mine"}', encoding="utf-8")
    before = path.stat()
    result = check("weights", "--output", str(path))
    assert result.exit_code == (2 if kind in ("huge", "foreign") else 5)
    assert f"--output {path}" in result.stderr
    assert (before.st_size, before.st_ino) == (path.stat().st_size, path.stat().st_ino)


def test_a_full_disk_leaves_the_old_report(
    check: Check, stand_in: Stand, report: Report, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    file.write_text('{"schema_version": 1, "check": "weights"}', encoding="utf-8")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def outcome() -> Report:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
        return report

    stand_in(outcome)
    try:
        result = check("weights", "--output", str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert (result.exit_code, "could not be written" in result.stderr) == (5, True)
    assert file.read_text(encoding="utf-8") == '{"schema_version": 1, "check": "weights"}'
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


INTERRUPTING = """
import os, signal, threading
from scratch_gpt import GPT

class Interrupting(GPT):
    in_main, left = {in_main}, 1

    def forward(self, token_ids, positions=None, attention_mask=None, *, tap):
        try:
            main = threading.current_thread() is threading.main_thread()
            if main == Interrupting.in_main and Interrupting.left:
                Interrupting.left = 0
                {act}
        except BaseException:
            pass
        return super().forward(token_ids, positions, attention_mask, tap=tap)

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def build(config, weights):
    model = Interrupting(config)
    model.load_state_dict(weights)
    return model
"""
PRESS = "os.kill(os.getpid(), signal.SIGINT)"
WITH_CTRL_C = """
import signal
from parity.check import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
main()
"""


@pytest.mark.parametrize(
    ("in_main", "act"),
    [
        (True, PRESS),
        (True, "Dying()"),
        (False, PRESS),
        (False, PRESS + "; __import__('time').sleep(1)"),
    ],
    ids=["swallowed", "swallowed by __del__", "in a pass", "while it computes"],
)
def test_a_lost_interrupt_ends_the_run(
    in_main: bool,  # noqa: FBT001 - a parameter of the test
    act: str,
    command: Callable[..., Any],
    candidate: Callable[..., str],
) -> None:
    file = candidate(INTERRUPTING.format(in_main=in_main, act=act))
    arguments = ("layerwise", "--weights", "tiny", "--seq-len", "4", "--candidate", file)
    result = command(*arguments, python=("-c", WITH_CTRL_C))
    assert (result.returncode, result.stdout) == (130, ""), result.stderr
    first, *rest = result.stderr.splitlines()
    assert first.startswith("interrupted: ending at the next tap") or "__del__" in first
    assert "error: interrupted" in rest
    assert "interrupted: ending at the next tap" in result.stderr


WITHOUT_JSON: dict[str, dict[str, Any]] = {
    "text": {},
    "a text file": {"output": (Path("r.txt"),)},
    "a file in standard output's form": {"output": (Path("r"),)},
    "JSON that is not printed": {"format": "json", "quiet": True},
}
WITH_JSON: dict[str, dict[str, Any]] = {
    "JSON": {"format": "json"},
    "a file": {"quiet": True, "output": (Path("r.json"),)},
    "one of two files": {"output": (Path("r.txt"), Path("R.JSON"))},
    "a file in its form": {"format": "json", "quiet": True, "output": (Path("r"),)},
}


@pytest.mark.parametrize("forms", WITHOUT_JSON)
def test_fingerprints_without_json_are_a_usage_error(
    forms: str, stand_in: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(AssertionError("the verb ran"))
    assert run_weights(LayerwiseOptions(fingerprints=True, **WITHOUT_JSON[forms])) == 2
    assert "--fingerprints\n  fix    add --output" in capsys.readouterr().err


@pytest.mark.parametrize("forms", WITH_JSON)
def test_fingerprints_are_in_any_json(
    forms: str, stand_in: Stand, report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(report)
    assert run_weights(LayerwiseOptions(fingerprints=True, **WITH_JSON[forms])) == 1


# The recorded options.


def test_recorded_options_are_those_off_their_default() -> None:
    options = LayerwiseOptions(seed=7, dtype="float32", batch_size=4, weights="tiny", quiet=True)
    assert recorded_options(options) == {"seed": 7}
    options = LayerwiseOptions(candidate="mine:build")
    assert recorded_options(options) == {"candidate": "mine:build"}


IDS = {"token_ids": "1"}
ALL = {"inject_fault": "f", "dtype": "float16", "seed": 1}
MODEL = {"candidate": "mine:build", "backend": "plain", "taps": "h.*"}


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        (LayerwiseOptions(**ALL, **MODEL, **IDS), ALL | MODEL | IDS),
        (TrainingOptions(**ALL, **MODEL, steps=9, dropout=True), ALL | MODEL),
        (
            GenerationOptions(**ALL, **IDS, text="a", max_new_tokens=9),
            ALL | IDS | {"text": "a"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_deciding_option_is_recorded(options: object, recorded: dict[str, object]) -> None:
    """What a report gives elsewhere, such as the number of steps, is not repeated."""
    assert recorded_options(options) == recorded


def test_a_file_is_recorded_with_its_digest(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a.py", b"X = 1\n"), ("b.py", b"X = 1\n"), ("c.py", b"X = 1\n\n")):
        file = tmp_path / name
        file.write_bytes(content)
        found = recorded_options(LayerwiseOptions(candidate=str(file), seed=7))
        digests.append(found.pop("candidate_file"))
        assert found == {"candidate": str(file), "seed": 7}
    assert digests[0] == digests[1] == "sha256 0abae1e0ae728216"  # sha256sum of the first
    assert digests[2] != digests[0]
    with pytest.raises(EnvironmentUnfitError):
        recorded_options(LayerwiseOptions(candidate=str(tmp_path / "gone.py")))
