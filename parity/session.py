"""From a command line's options to an exit code: what every verb does alike.

A verb's report is printed and written in the forms asked for. An error becomes three lines on
standard error - what, where, what to do - and an exit code; where JSON was asked for, the same
words are a report. Nothing here imports torch until a verb runs.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.errors import EnvironmentUnfitError, ExitCode, ParityError, UsageError
from scratch_gpt.cli import (
    as_cli_error,
    format_error,
    one_line,
    print_error,
    print_stdout,
    render_rich,
    reporting_write_errors,
)

if TYPE_CHECKING:
    from parity.core.results import Report

FORMS = ("text", "json")
_SUFFIXES = {".json": "json", ".txt": "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a verb can be asked; each field is the option of its name."""

    verb: str
    weights: str = "auto"
    candidate: str | None = None
    inject_fault: str | None = None
    backend: str = "default"
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 1
    time: int = 512
    seed: int = 0
    token_ids: str | None = None
    taps: str = "*"
    explain: str | None = None
    steps: int = 3
    parts: int = 2
    dropout: bool = False
    prompts: int = 8
    max_new_tokens: int = 32
    vocabulary: Path | None = None
    pretokenizer: str = "huggingface"
    count: int = 2_000
    text: str | None = None
    corpus: tuple[Path, ...] = ()
    rows: tuple[Path, ...] = ()
    expect: tuple[str, ...] = ()
    same_code: bool = False
    fingerprints: bool = False
    form: str = "text"
    output: tuple[Path, ...] = ()
    quiet: bool = False
    debug: bool = False


def run(options: Options) -> int:
    """Run a verb; return the exit code. Errors are printed here and go no further."""
    try:
        return int(_run(options))
    except KeyboardInterrupt:
        print_error("interrupted", options.verb, "nothing was judged; run it again")
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
        coded = as_cli_error(error)
        if options.debug:
            traceback.print_exception(error)
        print_error(coded.what, coded.where, coded.fix)
        if report is None:
            _deliver_error(coded, options)
        return coded.exit_code
    return report.exit_code


def _report(options: Options) -> "Report":
    """Run the verb. What others print meanwhile is no report: it goes to standard error."""
    from parity.threads import gc_paused, keep_freed_memory, limit_arenas_before_numpy
    from scratch_gpt.progress import progress_bar

    limit_arenas_before_numpy()
    keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=options.quiet) as progress:
        with gc_paused():
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
    written = {*places.values(), *([] if options.quiet else [options.form])}
    if options.fingerprints and "json" not in written:
        raise UsageError(
            "nothing would hold the fingerprints: they are in the JSON report alone",
            where="--fingerprints",
            fix="add --output FILE.json or --format json",
        )


def _form_of(path: Path, options: Options) -> str:
    """Return the form of a file: its suffix names it, and without one it is standard output's."""
    suffix = path.suffix.lower()
    return _SUFFIXES.get(suffix, suffix[1:]) or options.form


def _deliver(report: "Report", options: Options) -> None:
    """Write the report to every file asked for; then print it, whatever became of the files."""
    with contextlib.ExitStack() as stack:
        if not options.quiet:
            stack.callback(print_stdout, _rendered(report, options.form, sys.stdout))
        for path in options.output:
            text = _rendered(report, _form_of(path, options), None)
            with reporting_write_errors(str(path)):
                path.write_text(text, encoding="utf-8")


def _rendered(report: "Report", form: str, stream: Any) -> str:  # noqa: ANN401 - a text stream
    """Return the report in one form; in colour if `stream` is a terminal that wants it."""
    if form == "json":
        from parity.report.json import render

        return render(report)
    from parity.report.text import render as render_text

    return render_rich(lambda console: render_text(_printable(report), console), stream)


def _printable(value: Any) -> Any:  # noqa: ANN401 - whatever a report holds
    """Return a report, or a part of one, without characters that a terminal would obey."""
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


def _deliver_error(error: ParityError, options: Options) -> None:
    """Put an error where the report was to go: an older one there would speak for this run."""
    told_already = contextlib.suppress(EnvironmentUnfitError, OSError, ImportError)
    for path in options.output:
        if (form := _form_of(path, options)) in FORMS:
            with told_already:
                path.write_text(_error_form(error, form, options), encoding="utf-8")
    if options.form == "json" and not options.quiet:
        with told_already:
            print_stdout(_error_form(error, "json", options))


def _error_form(error: ParityError, form: str, options: Options) -> str:
    """Return an error in one form; it needs no more than the words."""
    if form == "json":
        from parity.report.json import render_error

        return render_error(error, check=options.verb)
    return format_error(error.what, error.where, error.fix)


def report_identity(source: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a verdict says about weights, config and code."""
    from parity.core.code import code_digest

    return {"weights": dict(source), "config": dict(config), "code": code_digest()}
