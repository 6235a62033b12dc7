"""From options to an exit code, the same for every verb.

A verb's report is printed, and written in the formats asked for. An error becomes three lines on
standard error (what, where, fix) and an exit code; if JSON is asked for, the report holds the same
words. Nothing here imports torch until a verb runs.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from parity.errors import EnvironmentUnfitError, ExitCode, ParityError, UsageError
from parity.options import LARGEST_REPORT, LIST_FAULTS, FingerprintOptions, ReportOptions
from scratch_gpt.cli import (
    Interrupts,
    LogFormatter,
    as_cli_error,
    format_error,
    handling,
    print_error,
    print_stdout,
    print_traceback,
    render_rich,
    reporting_write_errors,
)
from scratch_gpt.errors import one_line

if TYPE_CHECKING:
    from parity.core.results import Report
    from scratch_gpt.progress import Progress

Asked = TypeVar("Asked", bound=ReportOptions)

FORMATS = ("text", "json")
_SUFFIXES = {".json": "json", ".txt": "text"}


def run(
    options: Asked,
    *,
    name: str,
    load: "Callable[[], Callable[[Asked, Progress], Report]]",
    faults: Callable[[], Callable[[Asked], Mapping[str, str]]] | None = None,
) -> int:
    """Run a verb; return the exit code. Errors are printed, not raised.

    `load` returns the function of the verb `name`, and may import torch; `faults` returns the
    function that lists the faults that the options allow.
    """
    report = None
    try:
        try:
            if faults is not None and getattr(options, "inject_fault", None) == LIST_FAULTS:
                listed = faults()(options).items()
                print_stdout("".join(f"{fault}: {what}\n" for fault, what in listed))
                return int(ExitCode.PASS)
            if options.debug:
                handler = logging.StreamHandler()
                handler.setFormatter(LogFormatter("%(name)s: %(message)s"))
                logging.basicConfig(level=logging.DEBUG, handlers=[handler])
                for name_of in ("torch", "matplotlib", "urllib3", "huggingface_hub", "filelock"):
                    logging.getLogger(name_of).setLevel(logging.WARNING)
            _check_formats(options)
            report = _report(options, load)
            _deliver(report, options)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a model that exits is no pass
            coded = as_cli_error(error)
            if options.debug:
                print_traceback(error)
            print_error(coded.what, coded.where, coded.fix)
            if report is None:
                _deliver_error(coded, options, name)
            return int(coded.exit_code)
        return int(report.exit_code)
    except KeyboardInterrupt:
        print_error("interrupted", name, "there is no verdict; run it again")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return int(ExitCode.CLOSED_PIPE)


def _report(options: Asked, load: "Callable[[], Callable[[Asked, Progress], Report]]") -> "Report":
    """Run the verb. Whatever else prints meanwhile goes to standard error.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, whatever became of its own exception.
    """
    from parity.threads import keep_freed_memory, limit_arenas_before_numpy
    from scratch_gpt.progress import progress_bar

    limit_arenas_before_numpy()
    keep_freed_memory()
    with (
        _guarded_output(),
        _remembering_interrupts() as check_interrupted,
        progress_bar(quiet=options.quiet) as progress,
    ):
        own = os.getpid()

        def check_running() -> None:
            if os.getpid() != own:  # a model called fork(), and its copy would report too
                os._exit(ExitCode.INTERNAL)
            check_interrupted()

        def checked(what: str, done: int, total: int) -> None:
            check_running()
            progress(what, done, total)

        report = load()(options, checked)
        check_running()
        return report


@contextlib.contextmanager
def _remembering_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if Ctrl-C was pressed earlier in the context.

    The exception can get lost in a model's `except:` or a library's `__del__`. The first Ctrl-C
    prints a line, because a model may compute long before its next tap. The second ends the
    process at once.
    """
    interrupts = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # print() may be running already
            os.write(2, b"interrupted: ending at the next tap; press again to end at once\n")
        interrupts.handle(number, frame)

    with handling(note, signal.SIGINT):
        yield interrupts.check


@contextlib.contextmanager
def _guarded_output() -> Iterator[None]:
    """Send what others print to standard error, and turn `os._exit` into an exception.

    A candidate may write to the descriptor itself, and may not end the run without a verdict.
    Forked processes leave as they did.
    """
    own, leave = os.getpid(), os._exit

    def raise_instead(status: int) -> None:
        if os.getpid() != own:
            leave(status)
        raise SystemExit(f"os._exit({status}) was called")

    with contextlib.ExitStack() as stack:
        stack.callback(_reopen_closed)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no descriptor
            sys.__stdout__.flush()  # type: ignore[union-attr]
            saved = os.dup(1)
            os.dup2(2, 1)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, 1)
        os._exit = raise_instead  # type: ignore[assignment]
        stack.callback(setattr, os, "_exit", leave)
        yield


def _reopen_closed() -> None:
    """Open standard output and error again if a model closed them; their descriptors are open."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and stream.closed:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def end_process(code: object) -> None:
    """End the process now: a model's threads and exit handlers neither delay nor change the end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else ExitCode.INTERNAL)


def _check_formats(options: ReportOptions) -> None:
    """Require, before anything runs, known formats and files that can be written.

    Raises:
        UsageError: A format is unknown, or fingerprints are asked for without JSON.
        EnvironmentUnfitError: A path is no file, or its folder does not exist.
    """
    files = {f"--output {path}": _format_of(path, options) for path in options.output}
    for where, chosen in {f"--format {options.format}": options.format, **files}.items():
        if chosen not in FORMATS:
            raise UsageError(
                f"this version cannot write {chosen!r}",
                where=where,
                fix=f"use {' or '.join(FORMATS)}",
            )
    for path in options.output:
        _check_replaceable(path)
    written = {*files.values(), *([] if options.quiet else [options.format])}
    wants = isinstance(options, FingerprintOptions) and options.fingerprints
    if wants and "json" not in written:
        raise UsageError(
            "no output would hold the fingerprints: only the JSON report does",
            where="--fingerprints",
            fix="add --output FILE.json or --format json",
        )


def _format_of(path: Path, options: ReportOptions) -> str:
    """Return the format of a file: its suffix names it; without one it is standard output's."""
    suffix = path.suffix.lower()
    return _SUFFIXES.get(suffix, suffix[1:]) or options.format


def _deliver(report: "Report", options: ReportOptions) -> None:
    """Write the report to every file; then print it, even if a file failed."""
    with contextlib.ExitStack() as stack:
        if not options.quiet:
            stack.callback(print_stdout, _rendered(report, options.format, sys.stdout))
        for path in options.output:
            _write(path, _rendered(report, _format_of(path, options), None))


def _write(path: Path, text: str) -> None:
    """Write a report beside the old one, then put it in its place.

    Raises:
        EnvironmentUnfitError: The file system refused; an old report is unchanged.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with reporting_write_errors(str(path)):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


_REPORT_MARKS = (b'"schema_version"', b"\nPASS  ", b"\nFAIL  ", b"\nINCONCLUSIVE  ", b"error: ")
"""What every report has: the first in JSON, one of the others in text."""


def _is_report(text: bytes) -> bool:
    return any(mark in text for mark in _REPORT_MARKS)


def _check_replaceable(path: Path) -> None:
    """Require that a report may be written to a path.

    Raises:
        UsageError: Something there is no report, and would be lost.
        EnvironmentUnfitError: It is no regular file, or its folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise EnvironmentUnfitError(
            "the report cannot be written: " + ("a folder" if path.is_dir() else "no folder"),
            where=f"--output {path}",
            fix="name a file in a folder that exists",
        )
    if not path.exists():
        return
    if not path.is_file():
        raise EnvironmentUnfitError(
            "the report cannot be written: it is a pipe or a device, not a file",
            where=f"--output {path}",
            fix="name a file; without --output the report is printed",
        )
    size = path.stat().st_size
    if size and (size > LARGEST_REPORT or not _is_report(path.read_bytes())):
        raise UsageError(
            "the file is no report, and would be lost",
            where=f"--output {path}",
            fix="choose another name, or remove the file",
        )


def _rendered(report: "Report", chosen: str, stream: Any) -> str:  # noqa: ANN401 - a text stream
    """Return the report in one format; in color if `stream` is a terminal that wants it."""
    if chosen == "json":
        from parity.report.json import render

        return render(report)
    from parity.report.text import render as render_text

    return render_rich(lambda console: render_text(_printable(report), console), stream)


def _printable(value: Any) -> Any:  # noqa: ANN401 - whatever a report holds
    """Return a report, or a part of one, without control characters."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return one_line(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _printable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_printable(entry) for entry in value)
    return value


def _deliver_error(error: ParityError, options: ReportOptions, name: str) -> None:
    """Write an error in place of the report, so that no older report stays there."""
    reported_already = contextlib.suppress(EnvironmentUnfitError, UsageError, OSError, ImportError)
    for path in options.output:
        if (chosen := _format_of(path, options)) in FORMATS:
            with reported_already:
                _check_replaceable(path)
                _write(path, _rendered_error(error, chosen, name))
    if options.format == "json" and not options.quiet:
        with reported_already:
            print_stdout(_rendered_error(error, "json", name))


def _rendered_error(error: ParityError, chosen: str, name: str) -> str:
    if chosen == "json":
        from parity.report.json import render_error

        return render_error(error, check=name)
    return format_error(error.what, error.where, error.fix)


def report_identity(source: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report records about weights, config and code."""
    from parity.core.environment import code_digest

    return {"weights": dict(source), "config": dict(config), "code": code_digest()}
