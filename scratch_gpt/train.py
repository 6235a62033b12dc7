"""The command line: `python -m scratch_gpt.train`.

Its options are those of the run and every field of a recipe. Nothing that needs torch is imported
before it runs.
"""

import contextlib
import dataclasses
import os
import sys
import typing
from functools import partial
from pathlib import Path
from typing import Any

from scratch_gpt.cli import run_app, run_reporting_errors, typer_app
from scratch_gpt.errors import CommandError, ExitCode, ReportedElsewhereError, UsageError, quote
from scratch_gpt.options import DecodingErrors, QuietOption, add_command, option, require_paths
from scratch_gpt.training.recipe import HELP, RECIPES, Recipe


def _defaults(name: str) -> str:
    """Return a field's value in every recipe, or the value that all share."""
    values = {recipe: getattr(fields, name) for recipe, fields in RECIPES.items()}
    if len(set(values.values())) == 1:
        return str(values["paper"])
    return ", ".join(f"{recipe}: {value}" for recipe, value in values.items())


def _recipe_option(field: "dataclasses.Field[Any]") -> Any:  # noqa: ANN401 - a field
    """Return the option of a recipe's field; None is the value of the named recipe."""
    text = field.metadata[HELP]
    return option(None, f"{text[0].upper()}{text[1:]}. [{_defaults(field.name)}]")


_RecipeOptions: Any = dataclasses.make_dataclass(
    "_RecipeOptions",
    [
        (field.name, typing.get_type_hints(Recipe)[field.name] | None, _recipe_option(field))
        for field in dataclasses.fields(Recipe)
    ],
    frozen=True,
    kw_only=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(_RecipeOptions, QuietOption):  # type: ignore[misc]  # made at run time
    r"""Train a GPT-1: the paper's, or one of another size.

    A run has one folder. Started again with the same options, it continues from its newest valid
    checkpoint, bitwise as if it had never stopped. Other options are rejected, except those that
    --allow-changed names. Ctrl-C, SIGTERM and SIGHUP finish the step and write a checkpoint first.
    At the end OUTPUT/model is a folder for scratch_gpt.generate and for Hugging Face.
    OUTPUT/log.jsonl has a line for every step; OUTPUT/loss.png is the curve.

    Examples:
      python -m scratch_gpt.train --output run --recipe small
      python -m scratch_gpt.train --output run --data books/ --device cuda
      torchrun --nproc-per-node 2 -m scratch_gpt.train --output run \
          --recipe small --micro-batch 4

    Exit codes:
      0 trained  1 diverged  2 usage  4 input or checkpoint rejected
      5 environment (disk full, no such device, a process lost)
      70 internal error  130 stopped and resumable
    """

    output: Path = option(..., "Folder of the run: new, empty, or that of a stopped run.")
    recipe: str = option("paper", "paper or small: where the other defaults come from.")
    data: tuple[Path, ...] = option(
        (), "Text file or folder; may be repeated. [the standard library]", exists=True
    )
    tokens: Path | None = option(
        None, "Folder of prepared tokens, from python -m scratch_gpt.data.", exists=True
    )
    vocabulary: Path | None = option(
        None, "Folder of a vocabulary. [one is trained on the text]", exists=True
    )
    errors: DecodingErrors = option("strict", "replace: read bytes that are not UTF-8 as U+FFFD.")
    allow_changed: tuple[str, ...] = option(
        (), "Continue although this differs from the checkpoint; may be repeated."
    )
    timeout: float = option(1_800.0, "Seconds after which a silent process counts as lost.")


def train(options: TrainOptions) -> int:
    """Train; return the exit code. Errors are printed, not raised."""
    if not options.debug:  # read once, when torch is imported: gloo's frames would hide the error
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    return run_reporting_errors(
        partial(_train_reporting_once, options),
        name="python -m scratch_gpt.train",
        debug=options.debug,
        resume="run it again; it continues from its newest checkpoint",
    )


def _train_reporting_once(options: TrainOptions) -> int:
    """Train; only the first process reports an error that all processes meet."""
    try:
        return _train(options)
    except CommandError as error:
        is_first = os.environ.get("RANK", "0") == "0"
        is_shared = error.exit_code in _SHARED or isinstance(error, ReportedElsewhereError)
        if is_shared and not is_first:
            return int(error.exit_code)
        raise


_SHARED = {ExitCode.FAIL, ExitCode.USAGE, ExitCode.REFUSED}
"""Errors of the options, the checkpoint and the data, which all processes share."""


def _train(options: TrainOptions) -> int:
    from scratch_gpt.progress import progress_bar

    recipe = _recipe(options)
    # Spelled `options.data`, it would pass for a tensor's attribute in the tests.
    data: tuple[Path, ...] = vars(options)["data"]
    if options.tokens is not None and data:
        raise UsageError(
            "prepared tokens and text are both given",
            where="--tokens and --data",
            fix="leave one of them out: a run reads --data only to make tokens of it",
        )
    if not _SHORTEST <= options.timeout <= _LONGEST:  # false for NaN too
        raise UsageError(
            f"a timeout of {options.timeout} seconds is not allowed",
            where="--timeout",
            fix=f"give a number from {_SHORTEST:g} to {_LONGEST:g}",
        )
    require_paths(options)
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=options.quiet) as progress:
        from scratch_gpt.training.run import Request, run
        from scratch_gpt.training.run_folder import Sources

        sources = Sources(
            paths=data or None,
            tokens=options.tokens,
            vocabulary=options.vocabulary,
            errors=options.errors,
        )
        request = Request(
            recipe=recipe,
            output=options.output,
            sources=sources,
            allow=options.allow_changed,
            timeout=options.timeout,
            quiet=options.quiet,
        )
        return int(run(request, progress))


_SHORTEST, _LONGEST = 1e-3, 1e9
"""Seconds, up to some thirty years; a process group counts milliseconds and overflows above it."""


def _recipe(options: TrainOptions) -> Recipe:
    """Return the named recipe, changed by the options that were given."""
    if options.recipe not in RECIPES:
        known = " or ".join(RECIPES)
        what = f"there is no recipe {quote(options.recipe)}"
        raise UsageError(what, where="--recipe", fix=f"use {known}")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    try:
        changes = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(RECIPES[options.recipe], **changes)
    except ValueError as error:
        flag = "--" + str(error).split()[0].replace("_", "-")
        fix = "give an allowed value; --help describes the option"
        raise UsageError(str(error), where=flag, fix=fix) from error


app = typer_app("scratch_gpt.train")
add_command(app, TrainOptions, train)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
