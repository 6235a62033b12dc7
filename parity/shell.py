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
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

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
        return int(_run(options))
    except KeyboardInterrupt:
        tell("interrupted", options.verb, "nothing was judged; run it again")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return int(ExitCode.CLOSED_PIPE)


def _run(options: Options) -> ExitCode:
    report = None
    try:
        _check_forms(options)
        report = _report(options)
        _deliver(report, options)
    except BrokenPipeError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - and a model that exits is no pass
        known = _known(error)
        if options.debug:
            traceback.print_exception(error)
        tell(known.what, known.where, known.fix)
        if report is None:
            _deliver_error(known, options)
        return known.code
    return report.exit_code


def _report(options: Options) -> "Report":
    """Run the verb. What others print meanwhile is no report: it goes to standard error."""
    from parity.machine import before_numpy, keep_freed_memory, uncollected
    from parity.progress import shown

    before_numpy()
    keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr), shown(quiet=options.quiet) as progress:
        with uncollected():
            from parity.verbs import VERBS

        return VERBS[options.verb](options, progress)


def _check_forms(options: Options) -> None:
    """Require, before anything runs, forms that can be written and places to write them to."""
    places = {f"--output {path}": _form_of(path, options) for path in options.output}
    for place, form in {f"--format {options.form}": options.form, **places}.items():
        if form not in FORMS:
            raise UsageError(
                f"this version cannot write {form!r}", where=place, fix=f"use {' or '.join(FORMS)}"
            )
    for path in options.output:
        if path.is_dir() or not path.parent.is_dir():
            raise EnvironmentUnfitError(
                "the report cannot be written: " + ("a folder" if path.is_dir() else "no folder"),
                where=f"--output {path}",
                fix="name a file in a folder that exists",
            )


def _form_of(path: Path, options: Options) -> str:
    """Return the form of a file: its suffix names it, and without one it is standard output's."""
    suffix = path.suffix.lower()
    return _SUFFIXES.get(suffix, suffix[1:]) or options.form


def _deliver(report: "Report", options: Options) -> None:
    """Write the report to every file asked for; then print it, whatever became of the files."""
    with contextlib.ExitStack() as stack:
        if not options.quiet:
            stack.callback(_to_stdout, _rendered(report, options.form, sys.stdout))
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
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=_width(asked.width if asked is not None and asked.is_terminal else 100),
        force_terminal=asked is not None and asked.is_terminal,
        color_system="standard" if asked is not None and asked.color_system else None,
    )
    render_text(_printable(report), console)
    return buffer.getvalue()


_NARROWEST = 92
"""Columns below which the widest table would lose names; there a terminal wraps lines instead."""


def _width(otherwise: int) -> int:
    """Return how many columns a report may use: the user's own word, if it is a number, rules."""
    asked = os.environ.get("COLUMNS", "")
    return max(int(asked) if asked.isdecimal() else otherwise, _NARROWEST)


def _printable(value: Any) -> Any:  # noqa: ANN401 - whatever a report holds
    """Return a report, or a part of one, without characters that a terminal would obey."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return _shown(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _printable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_printable(entry) for entry in value)
    return value


def _to_stdout(text: str) -> None:
    if sys.stdout is None:  # closed before this program began
        raise EnvironmentUnfitError(
            "the report could not be written: there is no standard output",
            where="standard output",
            fix="use --quiet, with --output for the report",
        )
    encoding = sys.stdout.encoding or "utf-8"
    with _writing("standard output"):
        try:
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            sys.stdout.flush()
        except OSError:
            let_go(sys.stdout)
            raise


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


def let_go(stream: TextIO) -> None:
    """Send whatever a failed stream still holds nowhere.

    Python flushes it once more at exit, would fail again, and end with a code of its own.
    """
    with contextlib.suppress(OSError):  # a stand-in for a stream has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _deliver_error(error: ParityError, options: Options) -> None:
    """Put an error where the report was to go: an older one there would speak for this run."""
    told_already = contextlib.suppress(EnvironmentUnfitError, OSError, ImportError)
    for path in options.output:
        if (form := _form_of(path, options)) in FORMS:
            with told_already:
                path.write_text(_error_form(error, form, options), encoding="utf-8")
    if options.form == "json" and not options.quiet:
        with told_already:
            _to_stdout(_error_form(error, "json", options))


def _error_form(error: ParityError, form: str, options: Options) -> str:
    """Return an error in one form; it needs no more than the words."""
    if form == "json":
        from parity.report.strict_json import render_error

        return render_error(error, check=options.verb)
    return _told(error.what, error.where, error.fix)


def _known(error: BaseException) -> ParityError:
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


def _told(what: str, where: str, fix: str) -> str:
    """Return an error's three lines."""
    return f"error: {_shown(what)}\n  where  {_shown(where)}\n  to do  {_shown(fix)}\n"


def tell(what: str, where: str, fix: str) -> None:
    """Print an error; where nobody can hear it, the exit code still speaks."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(_told(what, where, fix))
            sys.stderr.flush()
        except OSError:
            let_go(sys.stderr)


def _shown(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def identity(source: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a verdict says about weights, config and code."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        code = version("gpt1-parity")
    except PackageNotFoundError:
        code = "not installed"
    return {"weights": dict(source), "config": dict(config), "code": f"gpt1-parity {code}"}
