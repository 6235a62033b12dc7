"""Shared by every command line: Typer apps, exit codes, errors in three lines, and output.

Nothing here imports torch at module level.
"""

import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from scratch_gpt.errors import (
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    file_system_error,
    one_line,
)

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console


# Errors.


def discard_buffer(stream: "TextIO") -> None:
    """Discard the text that a failed stream still holds.

    Python flushes it again at exit; that would fail again and change the exit code.
    """
    with contextlib.suppress(OSError):  # a stand-in for a stream has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def as_cli_error(error: BaseException) -> CommandError:
    """Return the error as one with an exit code; an unexpected one is internal."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return EnvironmentUnfitError(
            f"the package {error.name} is not installed",
            where="this Python environment",
            fix=f"pip install {error.name.partition('.')[0]}",
        )
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return EnvironmentUnfitError(
            "there is not enough memory",
            where="this machine",
            fix="ask for less at once, or take a smaller model",
        )
    if isinstance(error, OSError):
        return file_system_error(error)
    frames = traceback.extract_tb(error.__traceback__)
    if any(Path(frame.filename).parts[-2:] == _HUB_SETTINGS for frame in frames):
        given = ", ".join(name for name in os.environ if name.startswith("HF_"))
        return EnvironmentUnfitError(
            f"a setting of Hugging Face's hub cannot be read: {error}",
            where=f"the environment variables {given}",
            fix="correct or unset the one that is wrong; HF_ENDPOINT is an address",
        )
    return CommandError(
        f"{type(error).__name__}: {' '.join(str(error).split())}",
        where="inside this program",
        fix="run it again with --debug and report the traceback",
    )


_HUB_SETTINGS = ("huggingface_hub", "constants.py")
"""The file that reads environment variables, and fails on import for one that it cannot use."""

_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory")
"""Messages of torch in place of a `MemoryError`."""


def format_error(what: str, where: str, fix: str, *, width: int | None = None) -> str:
    """Return an error's three lines, or with a width more of them; no word is broken."""
    lines = {"error: ": what, "  where  ": where, "  fix    ": fix}
    if width is None:
        return "".join(f"{head}{one_line(text)}\n" for head, text in lines.items())
    parts = (
        textwrap.fill(
            one_line(text),
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for head, text in lines.items()
    )
    return "".join(f"{part}\n" for part in parts)


_WIDEST = 100
"""Columns of an error on a terminal, at most."""


def print_error(what: str, where: str, fix: str) -> None:
    """Print an error; if stderr is closed, only the exit code reports it."""
    width = None
    with contextlib.suppress(ValueError, AttributeError):  # closed, or none
        if sys.stderr.isatty():
            width = min(shutil.get_terminal_size().columns, _WIDEST)
    print_stderr(format_error(what, where, fix, width=width))


def print_stderr(text: str) -> None:
    """Write to standard error, unless it is closed or its terminal is gone."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            discard_buffer(sys.stderr)


def print_traceback(error: BaseException) -> None:
    """Print an error's traceback."""
    with contextlib.suppress(OSError, AttributeError):  # stderr is closed
        sys.stderr.write(f"{_safe_lines(''.join(traceback.format_exception(error)))}\n")


class LogFormatter(logging.Formatter):
    """Formats a log record with its traceback; each line as `one_line` does."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return _safe_lines(super().format(record))


def _safe_lines(text: str) -> str:
    return "\n".join(map(one_line, text.splitlines()))


# Applications.


def typer_app(name: str, text: str | None = None) -> typer.Typer:
    """Return an application of one command, or of several with `text` as their common help."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=text is not None,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 80},
    )


_MOST_DIGITS = 4
"""Of the columns of a terminal."""


def run_app(app: typer.Typer) -> None:
    """Run an application with the arguments of this process, and exit.

    Typer prints help and rejects options itself. If its output is closed, it would exit with the
    code of a real difference. Python -OO removes the docstrings: the help of every command, and
    what transformers reads when it is imported.
    """
    if sys.flags.optimize > 1:
        what = "Python removes docstrings here, which the help and transformers need"
        print_error(what, "python -OO, or PYTHONOPTIMIZE=2", "use -O or neither")
        raise SystemExit(ExitCode.ENVIRONMENT)
    for name in ("COLUMNS", "LINES"):  # Rich fails on a number that int() does not read
        if len(os.environ.get(name, "")) > _MOST_DIGITS:
            del os.environ[name]
    try:
        try:
            code = app(prog_name=f"python -m {app.info.name}", standalone_mode=False)
        except typer.TyperException as error:
            error.message = _safe_lines(error.message)  # it has what was typed
            error.show()  # type: ignore[attr-defined]  # every one that the parser raises has it
            code = error.exit_code
    except OSError as error:
        discard_buffer(sys.stdout)
        print_error(
            f"help could not be written: {error.strerror}", "standard output", "free some space"
        )
        raise SystemExit(ExitCode.ENVIRONMENT) from error
    except SystemExit as ended:
        # Click replaces a closed standard output with an object of this class.
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":
            raise SystemExit(ExitCode.CLOSED_PIPE) from ended
        raise
    raise SystemExit(code)


def run_reporting_errors(
    action: Callable[[], int], *, name: str, debug: bool, resume: str = "run it again"
) -> int:
    """Run a command's body, which returns an exit code; print errors, and return their code.

    `debug` prints an error's traceback too. An interrupt prints `name` and the advice `resume`.
    """
    try:
        with interruptible(*SIGNALS):
            return int(action())
    except KeyboardInterrupt:
        print_error("interrupted", name, resume)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        discard_buffer(sys.stdout)
        return int(ExitCode.CLOSED_PIPE)
    except Exception as error:  # noqa: BLE001 - every error has an exit code
        coded = as_cli_error(error)
        if debug:
            print_traceback(error)
        print_error(coded.what, coded.where, coded.fix)
        return int(coded.exit_code)


# Interrupts.

SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals that end a command: Ctrl-C, an end of the process, and of its terminal."""


class Interrupts:
    """Whether a signal has raised KeyboardInterrupt."""

    def __init__(self) -> None:
        self.raised = False

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal: raise KeyboardInterrupt."""
        self.raised = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal did so before."""
        if self.raised:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible(*numbers: signal.Signals) -> Iterator[Interrupts]:
    """Let signals raise KeyboardInterrupt, and raise it at the end if it was lost.

    Python prints and drops an exception in a destructor and in a callback of a C library.
    """
    interrupts = Interrupts()
    with handling(interrupts.handle, *numbers):
        try:
            yield interrupts
        finally:
            interrupts.check()


@contextlib.contextmanager
def handling(
    handler: Callable[[int, FrameType | None], Any], *numbers: signal.Signals
) -> Iterator[None]:
    """Set the handler of some signals, and restore the ones before.

    An ignored signal stays ignored: `nohup` ignores SIGHUP. Only the main thread may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in numbers}
    # None is a handler that was not set by Python, and could not be restored.
    before = {n: old for n, old in found.items() if old not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# Output.


def render_rich(
    draw: "Callable[[Console], None]", stream: "TextIO | None", *, narrowest: int = 80
) -> str:
    """Return the text that `draw` prints, in colour if `stream` is a terminal with colour.

    `stream` is None for a file. The text has `COLUMNS` columns if that is a number below 10,000,
    else as many as the terminal, and at least `narrowest`, by default those of the widest table.
    """
    from rich.console import Console

    target = Console(file=stream) if stream is not None else None
    terminal = target if target is not None and target.is_terminal else None
    columns = os.environ.get("COLUMNS", "")
    is_width = columns.isdecimal() and len(columns) <= _MOST_DIGITS
    width = int(columns) if is_width else terminal.width if terminal else 100
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=max(narrowest, width),
        force_terminal=terminal is not None,
        color_system="standard" if target is not None and target.color_system else None,
    )
    draw(console)
    if terminal is not None:
        return buffer.getvalue()
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


_ELSEWHERE = "free some space, or choose another place"


def print_stdout(text: str, *, fix: str = _ELSEWHERE) -> None:
    """Write to standard output; characters outside its encoding are replaced.

    Raises:
        EnvironmentUnfitError: It is closed, or the disk is full.
        BrokenPipeError: Its reader has ended.
    """
    if sys.stdout is None:  # closed before this program began
        raise EnvironmentUnfitError(
            "the output could not be written: there is no standard output",
            where="standard output",
            fix="give it one, for example > output.txt",
        )
    encoding = sys.stdout.encoding or "utf-8"
    with reporting_write_errors("standard output", fix=fix):
        try:
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
        except OSError:
            discard_buffer(sys.stdout)
            raise


@contextlib.contextmanager
def reporting_write_errors(where: str, *, fix: str = _ELSEWHERE) -> Iterator[None]:
    """Raise a failed write as an error with its place; `BrokenPipeError` passes unchanged."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentUnfitError(
            f"the output could not be written: {error.strerror}", where=where, fix=fix
        ) from error


# The device that a command line asks for.


def parse_device(name: str) -> str:
    """Return the type of device; `"auto"` is `"cuda"` if there is a GPU, else `"cpu"`.

    Raises:
        EnvironmentUnfitError: There is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnfitError(
            "there is no CUDA device", where="--device cuda", fix="use --device cpu"
        )
    return name
