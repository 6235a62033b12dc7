"""Help that nobody reads, and what a system refuses, for every command line there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scratch_gpt.cli import as_cli_error, print_stdout
from scratch_gpt.errors import EnvironmentUnfitError, ExitCode

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
