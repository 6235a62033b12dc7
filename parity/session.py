"""From options to an exit code, the same for every verb.

A verb's report is printed, and written in the formats asked for. An error becomes three lines on
standard error (what, where, fix) and an exit code; if JSON is asked for, the report holds the same
words. Nothing here imports torch until a verb runs.
"""

import contextlib
import dataclasses
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from parity.errors import EnvironmentUnfitError, ExitCode, ParityError, UsageError
from parity.options import LIST_FAULTS, FingerprintOptions, ReportOptions
from parity.report import FORMS, form_of, rendered, require_form, require_replaceable, write
from scratch_gpt.cli import (
    Interrupts,
    LogFormatter,
    as_cli_error,
    format_error,
    handling,
    print_error,
    print_stdout,
    print_traceback,
)

if TYPE_CHECKING:
    from parity.core.results import Report
    from scratch_gpt.progress import Progress

Asked = TypeVar("Asked", bound=ReportOptions)


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
    started = time.perf_counter()
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
            report = _stamped(_report(options, load), time.perf_counter() - started)
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
        return _interrupted(options, name, reported=report is not None)
    except BrokenPipeError:
        return int(ExitCode.CLOSED_PIPE)


class _InterruptedError(ParityError):
    """Ctrl-C was pressed."""

    exit_code = ExitCode.INTERRUPTED


def _interrupted(options: ReportOptions, name: str, *, reported: bool) -> int:
    """Report that Ctrl-C was pressed; return the exit code."""
    error = _InterruptedError("interrupted", where=name, fix="there is no verdict; run it again")
    print_error(error.what, error.where, error.fix)
    if not reported:
        _deliver_error(error, options, name)
    return int(error.exit_code)


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
    files = {f"--output {path}": form_of(path, options.format) for path in options.output}
    for where, chosen in {f"--format {options.format}": options.format, **files}.items():
        require_form(chosen, where)
    for path in options.output:
        require_replaceable(path, f"--output {path}")
    written = {*files.values(), *([] if options.quiet else [options.format])}
    wants = isinstance(options, FingerprintOptions) and options.fingerprints
    if wants and "json" not in written:
        raise UsageError(
            "no output would hold the fingerprints: only the JSON report does",
            where="--fingerprints",
            fix="add --output FILE.json or --format json",
        )


def _stamped(report: "Report", seconds: float) -> "Report":
    """Return the report with the command that made it, and how long that took."""
    started_as = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {started_as.name}" if started_as else Path(sys.argv[0]).name
    command = " ".join([program, *map(shlex.quote, sys.argv[1:])])
    return dataclasses.replace(report, command=command, seconds=round(seconds, 3))


def _deliver(report: "Report", options: ReportOptions) -> None:
    """Write the report to every file; then print it, even if a file failed."""
    with contextlib.ExitStack() as stack:  # every part is tried; the first error is raised
        if not options.quiet:
            stack.callback(lambda: print_stdout(rendered(report, options.format, sys.stdout)))
        if options.format == "github":
            from parity.report.github import append_summary

            stack.callback(append_summary, report)
        for path in options.output:
            stack.callback(_write_report, report, path, form_of(path, options.format))


def _write_report(report: "Report", path: Path, form: str) -> None:
    """Write a report to a file; if it cannot be rendered, the error is written in its place."""
    try:
        text = rendered(report, form)
    except Exception as error:
        coded = as_cli_error(error)
        with contextlib.suppress(Exception):  # the error is raised either way
            write(path, _rendered_error(coded, form, report.check))
        raise
    write(path, text)


def _deliver_error(error: ParityError, options: ReportOptions, name: str) -> None:
    """Write an error in place of the report, so that no older report stays there."""
    reported_already = contextlib.suppress(EnvironmentUnfitError, UsageError, OSError, ImportError)
    for path in options.output:
        if (form := form_of(path, options.format)) in FORMS:
            with reported_already:
                require_replaceable(path, f"--output {path}")
                write(path, _rendered_error(error, form, name))
    if options.format in FORMS and options.format != "text" and not options.quiet:
        with reported_already:
            print_stdout(_rendered_error(error, options.format, name))
    if options.format == "github":
        from parity.core.results import error_report
        from parity.report.github import append_summary

        with reported_already:
            append_summary(error_report(error, name))


def _rendered_error(error: ParityError, form: str, name: str) -> str:
    if form == "text":
        return format_error(error.what, error.where, error.fix)
    from parity.core.results import error_report

    return rendered(error_report(error, name), form)


def report_identity(source: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report records about weights, config and code."""
    from parity.core.environment import code_digest

    return {"weights": dict(source), "config": dict(config), "code": code_digest()}
