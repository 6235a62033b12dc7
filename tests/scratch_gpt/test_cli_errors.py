"""How a command ends: its body's exit code, or that of what stopped it, told in three lines."""

import sys

import pytest

from scratch_gpt.cli import run_reporting_errors
from scratch_gpt.errors import (
    CheckpointError,
    EmptyCheckpointError,
    EnvironmentUnfitError,
    ExitCode,
    OccupiedError,
    UnreadableError,
    WriteError,
)

WORDS = ("what it is", "where it is", "what to do")


def raising(error: BaseException) -> int:
    raise error


def worded(kind: type[Exception]) -> Exception:
    what, where, fix = WORDS
    return kind(what, where=where, fix=fix)  # type: ignore[call-arg]


@pytest.mark.parametrize("code", [ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE])
def test_the_bodys_exit_code_is_the_commands(
    code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (code, ("", ""))
    assert expected == (
        run_reporting_errors(lambda: code, name="a command", debug=True),
        capsys.readouterr(),
    )


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EnvironmentUnfitError, ExitCode.ENVIRONMENT),
        (EmptyCheckpointError, ExitCode.INCONCLUSIVE),
        (UnreadableError, ExitCode.ENVIRONMENT),
        (CheckpointError, ExitCode.REFUSED),
        (OccupiedError, ExitCode.USAGE),
        (WriteError, ExitCode.ENVIRONMENT),
    ],
)
def test_what_is_refused_has_its_code(
    kind: type[Exception], code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_reporting_errors(lambda: raising(worded(kind)), name="a command", debug=False)
    lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().err.splitlines()]
    told = (lines[0], lines[1], lines[2].removeprefix("do").strip())
    assert (code, WORDS) == (ended, told)


@pytest.mark.parametrize("debug", [True, False])
def test_an_unforeseen_error_shows_its_traceback_when_asked(
    debug: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = run_reporting_errors(
        lambda: raising(ZeroDivisionError("nothing")), name="a command", debug=debug
    )
    text = capsys.readouterr().err
    expected = (ExitCode.INTERNAL, True, debug)
    assert expected == (ended, "ZeroDivisionError: nothing" in text, "Traceback" in text)


def test_an_interrupt_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_reporting_errors(
        lambda: raising(KeyboardInterrupt()), name="train", debug=False, resume="run it once more"
    )
    text = capsys.readouterr().err
    expected = (ExitCode.INTERRUPTED, True, True)
    assert expected == (ended, "train" in text, "run it once more" in text)


def test_a_closed_pipe_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_reporting_errors(lambda: raising(BrokenPipeError()), name="a command", debug=True)
    assert (ended, capsys.readouterr().err) == (ExitCode.CLOSED_PIPE, "")


def test_no_standard_error_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    ended = run_reporting_errors(
        lambda: raising(worded(CheckpointError)), name="a command", debug=False
    )
    assert ended == ExitCode.REFUSED
