"""Every command line: help onto a closed or full output, errors, exit codes, devices."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scratch_gpt.cli import (
    as_cli_error,
    handling,
    interruptible,
    parse_device,
    print_error,
    print_stderr,
    print_stdout,
    run_reporting_errors,
)
from scratch_gpt.errors import (
    CheckpointError,
    EmptyCheckpointError,
    EnvironmentUnfitError,
    ExitCode,
    OccupiedError,
    UnreadableError,
    WriteError,
)

pytestmark = pytest.mark.once

COMMANDS = (
    *("parity.check", "parity.convert", "bench.ratios"),
    *("scratch_gpt.train", "scratch_gpt.generate", "scratch_gpt.data"),
)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")


def help_into(command: str, stdout: int) -> tuple[int, str]:
    """Return the exit code of a command's help, and its standard error."""
    arguments = [sys.executable, "-m", command, "--help"]
    streams = {"stdout": stdout, "stderr": subprocess.PIPE}
    done = subprocess.run(arguments, **streams, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_into_a_closed_pipe(command: str) -> None:
    """Click's own exit code is 1, which is a real difference here."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert help_into(command, writer) == (ExitCode.CLOSED_PIPE, "")
    finally:
        os.close(writer)


@needs_full
@pytest.mark.parametrize("command", COMMANDS)
def test_help_onto_a_full_disk(command: str) -> None:
    """The error appears only when the text is flushed."""
    with Path("/dev/full").open("wb") as full:
        code, error = help_into(command, full.fileno())
    assert code == ExitCode.ENVIRONMENT
    assert error.startswith("error: help could not be written")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(36, "File name too long", "books"), ExitCode.ENVIRONMENT),
        (
            RuntimeError("[alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            ExitCode.ENVIRONMENT,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), ExitCode.ENVIRONMENT),
        (MemoryError(), ExitCode.ENVIRONMENT),
        (RuntimeError("size mismatch"), ExitCode.INTERNAL),
    ],
    ids=str,
)
def test_errors_of_other_libraries_have_an_exit_code(error: Exception, code: ExitCode) -> None:
    assert as_cli_error(error).exit_code == code


@pytest.mark.reference
def test_an_unusable_setting_of_the_hub_is_the_environments(
    python: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's client reads it on import, and raises a `ValueError`; an old one may take it."""
    for name, value in (("HF_ENDPOINT", "http://["), ("HF_HUB_DOWNLOAD_TIMEOUT", "x")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            alone = python("-c", "import huggingface_hub.constants", check=False)
            ended = python("-m", "parity.convert", "tiny", str(tmp_path / name), check=False)
        if alone.returncode == 0:
            assert ended.returncode == 0, ended.stderr
            continue
        assert ended.returncode == ExitCode.ENVIRONMENT
        assert "error: a setting of Hugging Face's hub cannot be read" in ended.stderr
        assert name in ended.stderr


@needs_full
def test_a_full_standard_output_gets_the_commands_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(EnvironmentUnfitError, match="could not be written") as raised:
            print_stdout("text\n", fix="the tokens are there")
    assert (raised.value.where, raised.value.fix) == ("standard output", "the tokens are there")


def test_a_size_that_no_terminal_has_is_ignored() -> None:
    command = (sys.executable, "-m", "scratch_gpt.generate", "--weights", "none", "--prompt", "x")
    for columns in ("9" * 5_000, "²", "10000000"):
        ended = subprocess.run(
            command,
            env=os.environ | {"COLUMNS": columns, "LINES": columns},
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr


Captured = pytest.CaptureFixture[str]


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize("code", [ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE])
def test_the_bodys_exit_code_is_the_commands(code: ExitCode, capsys: Captured) -> None:
    assert run_reporting_errors(lambda: code, name="a command", debug=True) == code
    assert capsys.readouterr() == ("", "")


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
def test_an_error_has_three_lines_and_its_code(
    kind: type[Exception], code: ExitCode, capsys: Captured
) -> None:
    """The narrower class decides the exit code."""
    error = kind("what it is", where="where it is", fix="what to do")
    assert run_reporting_errors(lambda: raising(error), name="a command", debug=False) == code
    lines = ["error: what it is", "  where  where it is", "  fix    what to do"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("mode", ["debug", "usual"])
def test_an_unexpected_error_shows_its_traceback_with_debug(mode: str, capsys: Captured) -> None:
    error = ZeroDivisionError("nothing")
    code = run_reporting_errors(lambda: raising(error), name="a command", debug=mode == "debug")
    text = capsys.readouterr().err
    assert code == ExitCode.INTERNAL
    assert "ZeroDivisionError: nothing" in text
    assert ("Traceback" in text) == (mode == "debug")


def test_an_interrupt_gives_the_command_and_the_way_on(capsys: Captured) -> None:
    code = run_reporting_errors(
        lambda: raising(KeyboardInterrupt()), name="train", debug=False, resume="run it once more"
    )
    text = capsys.readouterr().err
    assert code == ExitCode.INTERRUPTED
    assert "train" in text
    assert "run it once more" in text


def test_a_closed_pipe_prints_nothing(capsys: Captured) -> None:
    code = run_reporting_errors(lambda: raising(BrokenPipeError()), name="a command", debug=True)
    assert (code, capsys.readouterr().err) == (ExitCode.CLOSED_PIPE, "")


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_an_error_is_wrapped_on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words stay whole, so that a path can be copied; elsewhere it has three lines."""
    what, path, fix = "this is wrong " * 20, "/some-where" * 30, "name a-file.txt " * 20
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    print_error(what, path, fix)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_error(what, path, fix)
    first, where, last, *lines = stream.getvalue().splitlines()
    assert [first[:7], where, last[:9]] == ["error: ", f"  where  {path}", "  fix    "]
    assert f"  where  {path}" in lines
    widths = [len(line) for line in lines if path not in line]
    assert min(columns, 100) - 20 < max(widths) <= min(columns, 100)
    assert " ".join(" ".join(lines).split()) == " ".join(f"{first} {where} {last}".split())


def test_a_missing_standard_error_keeps_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    error = CheckpointError("what", where="where", fix="fix")
    code = run_reporting_errors(lambda: raising(error), name="a command", debug=False)
    assert code == ExitCode.REFUSED


def test_auto_is_the_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [parse_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [parse_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(EnvironmentUnfitError, match="no CUDA device"):
        parse_device("cuda")


class Interrupted:
    """An object in whose destructor Ctrl-C arrives: Python prints the exception and drops it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def lose_an_interrupt() -> int:
    Interrupted()
    return 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_lost_in_a_destructor_ends_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_reporting_errors(lose_an_interrupt, name="x", debug=False) == ExitCode.INTERRUPTED
    assert "error: interrupted" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_became_another_error_ends_the_command() -> None:
    """As where a library catches it, and reports a failed callback."""

    def fail() -> int:
        lose_an_interrupt()
        raise RuntimeError

    assert run_reporting_errors(fail, name="x", debug=False) == ExitCode.INTERRUPTED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_interrupt_can_be_raised_again_earlier() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(signal.SIGINT) as interrupts:  # noqa: PT012
        interrupts.check()
        lose_an_interrupt()
        interrupts.check()
        pytest.fail("it went on")


def test_ignored_signals_stay_ignored() -> None:
    """`nohup` ignores SIGHUP, so that the command outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(signal.default_int_handler, signal.SIGHUP, signal.SIGTERM):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_runs_in_any_thread() -> None:
    """Python lets only the main thread set signal handlers."""
    codes: list[int] = []
    run = lambda: codes.append(run_reporting_errors(lambda: 3, name="x", debug=False))  # noqa: E731
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [3]


def test_a_lost_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed standard error, and one whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as gone:
        for stream in (None, gone):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stderr", stream)
                print_stderr("a note\n")
