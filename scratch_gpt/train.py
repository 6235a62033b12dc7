"""The command line: `python -m scratch_gpt.train`.

Its options are the recipe's fields. Nothing that needs torch is imported before it runs.
"""

import contextlib
import dataclasses
import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scratch_gpt.cli import DecodingErrors, run_app, typer_app
from scratch_gpt.cli import run_reporting_errors as run_command
from scratch_gpt.errors import CommandError, ExitCode, ReportedElsewhereError, UsageError
from scratch_gpt.training.recipe import HELP, RECIPES, Recipe

app = typer_app("scratch_gpt.train")


_RUN = {
    "output": (Path, ..., "the run's folder: new, empty, or one that a run was stopped in"),
    "recipe": (str, "paper", "paper or small: where the other defaults come from"),
    "data": (list[Path], None, "text file or folder (again for more) [the standard library]"),
    "tokens": (Path, None, "folder of prepared tokens, from python -m scratch_gpt.data"),
    "vocabulary": (Path, None, "folder with a vocabulary [one is learned from the text]"),
    "errors": (
        DecodingErrors,
        DecodingErrors.STRICT,
        "replace: read bytes that are no UTF-8 as U+FFFD",
    ),
    "allow_changed": (
        list[str],
        None,
        "go on although this differs from the checkpoint (again for more)",
    ),
    "timeout": (float, 1_800.0, "seconds after which a silent process counts as lost"),
    "quiet": (bool, False, "print nothing but errors"),
    "debug": (bool, False, "show the traceback of an error"),
}
"""Options that say nothing about the numbers: type, default, help."""


def _parameters() -> list[inspect.Parameter]:
    """Return the command's options: those of the run, then one for each field of a recipe."""
    options = [_option(name, kind, default, text) for name, (kind, default, text) in _RUN.items()]
    for field in dataclasses.fields(Recipe):
        text = f"{field.metadata[HELP]} [{_defaults(field.name)}]"
        options.append(_option(field.name, field.type, None, text))
    return options


def _defaults(name: str) -> str:
    """Return a field's value in every recipe, or the value where all have the same."""
    values = {recipe: getattr(fields, name) for recipe, fields in RECIPES.items()}
    if len(set(values.values())) == 1:
        return str(values["paper"])
    return ", ".join(f"{recipe}: {value}" for recipe, value in values.items())


def _option(name: str, kind: Any, default: object, text: str) -> inspect.Parameter:  # noqa: ANN401
    flag = "--" + name.replace("_", "-")
    option = typer.Option(flag, help=text, show_default=default not in (None, False, ...))
    annotated: Any = Annotated  # made at run time, which type checkers do not follow
    annotation = annotated[kind if default is not None else kind | None, option]
    given = inspect.Parameter.empty if default is ... else default
    kinds = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kinds, default=given, annotation=annotation)


def train(**options: Any) -> None:  # noqa: ANN401 - whatever the options are
    """Train a GPT-1: the paper's, or one of another size.

    A run lives in one folder. Started again with the same options it goes on from its newest good
    checkpoint, bitwise as if it had never stopped; other options are refused, unless
    --allow-changed says otherwise. Ctrl-C and SIGTERM finish the step and write a checkpoint
    first. At the end OUTPUT/model is a folder for scratch_gpt.generate and for Hugging Face;
    OUTPUT/log.jsonl has a line for every step, OUTPUT/loss.png the curve.

    \b
    Examples:
      python -m scratch_gpt.train --output run --recipe small
      python -m scratch_gpt.train --output run --data books/ --device cuda --dtype bfloat16
      torchrun --nproc-per-node 2 -m scratch_gpt.train --output run --recipe small --micro-batch 8

    Exit codes: 0 trained, 1 diverged, 2 usage, 4 input or checkpoint refused, 5 environment (disk
    full, no such device, a process lost), 70 internal error, 130 stopped and resumable.
    """  # noqa: D301 - \b keeps the lines apart
    debug = bool(options.pop("debug"))
    if not debug:  # read once, when torch is imported: gloo's frames would bury the three lines
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    code = run_command(
        lambda: _spoken_for(options),
        name="python -m scratch_gpt.train",
        debug=debug,
        resume=_RESUME,
    )
    raise typer.Exit(code)


_RESUME = "run it again; it goes on from its newest checkpoint"


def _spoken_for(options: dict[str, Any]) -> int:
    """Run; in a process that is not the first one, leave it to the first to tell what all met."""
    try:
        return _run(options)
    except CommandError as error:
        is_first = os.environ.get("RANK", "0") == "0"
        is_told = error.exit_code in _MET_BY_ALL or isinstance(error, ReportedElsewhereError)
        if is_told and not is_first:
            return int(error.exit_code)
        raise


_MET_BY_ALL = {ExitCode.FAIL, ExitCode.USAGE, ExitCode.REFUSED}
"""What hangs on the options, the checkpoint and the data, which all processes share."""


def _run(options: dict[str, Any]) -> int:
    from scratch_gpt.progress import progress_bar

    quiet = bool(options.pop("quiet"))
    recipe = _recipe(options)
    _require_sound(options)
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=quiet) as progress:
        from scratch_gpt.training.run import Request, run
        from scratch_gpt.training.run_folder import Sources

        sources = Sources(
            paths=tuple(options["data"]) if options["data"] else None,
            tokens=options["tokens"],
            vocabulary=options["vocabulary"],
            errors=options["errors"].value,
        )
        request = Request(
            recipe=recipe,
            output=options["output"],
            sources=sources,
            allow=tuple(options["allow_changed"] or ()),
            timeout=options["timeout"],
            quiet=quiet,
        )
        return int(run(request, progress))


def _require_sound(options: dict[str, Any]) -> None:
    """Refuse options that no run can follow, before anything is imported or made.

    Raises:
        UsageError: Text is given twice over, or the timeout is no span of time.
    """
    if options["tokens"] is not None and options["data"]:
        raise UsageError(
            "prepared tokens and text are both given",
            where="--tokens and --data",
            fix="leave one of them out: a run reads --data only to make tokens of it",
        )
    if not 0.0 < options["timeout"] <= _LONGEST:  # false for NaN too
        raise UsageError(
            f"a timeout of {options['timeout']} seconds is none",
            where="--timeout",
            fix=f"give a number above 0, at most {_LONGEST:.0e}",
        )


_LONGEST = 1e9
"""Seconds, some thirty years; far more cannot be counted in a process group's milliseconds."""


def _recipe(options: dict[str, Any]) -> Recipe:
    """Return the named recipe with what the options say instead.

    Raises:
        UsageError: There is no such recipe, or a value is outside its range.
    """
    name = options["recipe"]
    if name not in RECIPES:
        known = " or ".join(RECIPES)
        raise UsageError(f"there is no recipe {name!r}", where="--recipe", fix=f"use {known}")
    said = {field.name: options[field.name] for field in dataclasses.fields(Recipe)}
    try:
        changes = {field: value for field, value in said.items() if value is not None}
        return dataclasses.replace(RECIPES[name], **changes)
    except ValueError as error:
        option = "--" + str(error).split()[0].replace("_", "-")
        raise UsageError(str(error), where=option, fix="see --help for its meaning") from error


train.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in _parameters()}
app.command()(train)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
