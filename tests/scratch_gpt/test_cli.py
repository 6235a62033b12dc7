"""Help that nobody reads, and what a system refuses, for every command line there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scratch_gpt.cli import as_cli_error, parse_device, print_stdout, run_reporting_errors
from scratch_gpt.errors import (
    CheckpointError,
    EmptyCheckpointError,
    EnvironmentUnfitError,
    ExitCode,
    OccupiedError,
    UnreadableError,
    WriteError,
)

COMMANDS = (
    *("parity.check", "parity.convert", "bench.ratios"),
    *("scratch_gpt.train", "scratch_gpt.generate", "scratch_gpt.data"),
)


def help_into(command: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_that_nobody_reads_is_a_closed_pipe(command: str) -> None:
    """Click's own code for it is 1, which is a real difference here."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, said = help_into(command, writer)
    finally:
        os.close(writer)
    assert (code, said) == (ExitCode.CLOSED_PIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_onto_a_full_disk_is_told(command: str) -> None:
    """The error appears only when the text is flushed."""
    with Path("/dev/full").open("wb") as full:
        code, said = help_into(command, full.fileno())
    expected = (ExitCode.ENVIRONMENT, True)
    assert expected == (code, said.startswith("error: help could not be written"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(36, "File name too long", "books"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
    ids=["path", "memory of torch", "memory of a GPU", "memory"],
)
def test_what_the_system_refuses_is_no_bug(error: Exception) -> None:
    assert as_cli_error(error).exit_code == ExitCode.ENVIRONMENT


def test_another_error_stays_one() -> None:
    assert as_cli_error(RuntimeError("size mismatch")).exit_code == ExitCode.INTERNAL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")
def test_a_full_standard_output_says_what_the_command_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(EnvironmentUnfitError, match="could not be written") as raised:
            print_stdout("text\n", fix="the tokens are there")
    assert (raised.value.where, raised.value.fix) == ("standard output", "the tokens are there")


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


def test_auto_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [parse_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [parse_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(EnvironmentUnfitError, match="no CUDA device"):
        parse_device("cuda")
