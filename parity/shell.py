"""From a command line's options to an exit code: what every verb does alike.

A verb's report is printed and written in the forms asked for. An error becomes three lines on
standard error - what, where, what to do - and an exit code; where JSON was asked for, the same
words are a report. Nothing here imports torch until a verb runs.
"""

import contextlib
import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.errors import EnvironmentUnfitError, ExitCode, ParityError, UsageError

if TYPE_CHECKING:
    from parity.results import Report

FORMS = ("text", "json")
_SUFFIXES = {".json": "json", ".txt": "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a verb can be asked; each field is the option of its name."""

    verb: str
    weights: str = "auto"
    candidate: str | None = None
    plant: str | None = None
    attention: str = "all"
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 1
    time: int = 512
    seed: int = 0
    token_ids: str | None = None
    taps: str = "*"
    explain: str | None = None
    form: str = "text"
    output: tuple[Path, ...] = ()
    quiet: bool = False
    debug: bool = False


def run(options: Options) -> int:
    """Run a verb; return the exit code. Errors are printed here and go no further."""
    try:
        with _closed_pipe():
            return int(_run(options))
    except KeyboardInterrupt:
        _tell("interrupted", where=options.verb, fix="nothing was judged; run it again")
        return int(ExitCode.INTERRUPTED)
    except _ClosedPipeError:
        return int(ExitCode.CLOSED_PIPE)


def _run(options: Options) -> ExitCode:
    try:
        _check_forms(options)
        report = _report(options)
        _deliver(report, options)
    except Exception as error:  # noqa: BLE001 - every error ends as words and a code
        if isinstance(error, BrokenPipeError | KeyboardInterrupt):
            raise
        return _fail(error, options)
    return report.exit_code


def _report(options: Options) -> "Report":
    """Run the verb."""
    from parity.progress import shown

    with shown(quiet=options.quiet) as progress:
        from parity.verbs import VERBS

        return VERBS[options.verb](options, progress)


def _check_forms(options: Options) -> None:
    forms = [options.form, *(_form_of(path, options) for path in options.output)]
    for form in forms:
        if form not in FORMS:
            raise UsageError(
                f"this version cannot write {form!r}",
                where="--format and --output",
                fix=f"use {' or '.join(FORMS)}",
            )


def _form_of(path: Path, options: Options) -> str:
    return _SUFFIXES.get(path.suffix.lower(), options.form)


def _deliver(report: "Report", options: Options) -> None:
    """Print the report and write it to every file asked for."""
    if not options.quiet:
        _to_stdout(_rendered(report, options.form, sys.stdout))
    for path in options.output:
        text = _rendered(report, _form_of(path, options), None)
        with _writing(str(path)):
            path.write_text(text, encoding="utf-8")


def _rendered(report: "Report", form: str, stream: Any) -> str:  # noqa: ANN401 - a text stream
    """Return the report in one form; in colour if `stream` is a terminal that wants it."""
    if form == "json":
        from parity.report.strict_json import render

        return render(report)
    from rich.console import Console

    from parity.report.text import render as render_text

    asked = Console(file=stream) if stream is not None else None
    width = 100 if asked is None or not asked.is_terminal else asked.width
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=int(os.environ.get("COLUMNS", width)),
        force_terminal=asked is not None and asked.is_terminal,
        color_system="standard" if asked is not None and asked.color_system else None,
    )
    render_text(report, console)
    return buffer.getvalue()


def _to_stdout(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    with _writing("standard output"):
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


@contextlib.contextmanager
def _writing(where: str) -> Iterator[None]:
    """Turn a failed write into an error that says where; a closed pipe is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentUnfitError(
            f"the report could not be written: {error.strerror}",
            where=where,
            fix="free some space, or choose another place with --output",
        ) from error


class _ClosedPipeError(Exception):
    """Whoever read our output has gone."""


@contextlib.contextmanager
def _closed_pipe() -> Iterator[None]:
    """Turn a broken pipe into a quiet end, at the interpreter's exit too."""
    try:
        yield
    except BrokenPipeError as error:
        # Python flushes standard output once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _ClosedPipeError from error


def _fail(error: Exception, options: Options) -> ExitCode:
    """Say what went wrong; return its exit code."""
    if options.debug:
        traceback.print_exception(error)
    known = _known(error)
    _tell(known.what, where=known.where, fix=known.fix)
    if options.form == "json" and not options.quiet and known.code != ExitCode.USAGE:
        _to_stdout_quietly(_error_document(known, options))
    return known.code


def _known(error: Exception) -> ParityError:
    """Return the error as one with a code; what nobody foresaw is internal."""
    if isinstance(error, ParityError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return EnvironmentUnfitError(
            f"the package {error.name} is not installed",
            where="this Python environment",
            fix=f"pip install {error.name.partition('.')[0]}",
        )
    if isinstance(error, MemoryError):
        return EnvironmentUnfitError(
            "there is not enough memory",
            where="this machine",
            fix="use a smaller --batch or --time, or --weights tiny",
        )
    return ParityError(
        f"{type(error).__name__}: {error}",
        where="inside this program",
        fix="run it again with --debug and report the traceback",
    )


def _tell(what: str, *, where: str, fix: str) -> None:
    """Print an error's three lines."""
    sys.stderr.write(f"error: {_shown(what)}\n  where  {_shown(where)}\n  to do  {_shown(fix)}\n")


def _shown(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _error_document(error: ParityError, options: Options) -> str:
    """Return a JSON report that holds nothing but the error."""
    from parity.report.strict_json import render_error

    return render_error(error, check=options.verb)


def _to_stdout_quietly(text: str) -> None:
    """Write a second account of an error, which must not become another error."""
    with contextlib.suppress(EnvironmentUnfitError):
        _to_stdout(text)


def identity(source: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a verdict says about weights, config and code."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        code = version("gpt1-parity")
    except PackageNotFoundError:
        code = "not installed"
    return {"weights": dict(source), "config": dict(config), "code": f"gpt1-parity {code}"}
