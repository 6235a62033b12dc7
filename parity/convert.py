"""The command line: `python -m parity.convert SOURCE DESTINATION`.

It parses, converts, prints and exits. Nothing that needs torch is imported before that.
"""

import contextlib
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parity.errors import ExitCode
from scratch_gpt.cli import print_stdout, run_app, run_reporting_errors, typer_app
from scratch_gpt.progress import progress_bar

app = typer_app("parity.convert")


class To(StrEnum):
    """The forms that can be written."""

    HUGGINGFACE = "huggingface"
    OPENAI = "openai"


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="What to convert: a folder or file in Hugging Face's form or ours, a folder of "
            "OpenAI's release, openai-gpt, a hub repository owner/name[@revision], or surrogate.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DESTINATION", help="The folder to write.")
    ],
    to: Annotated[
        To, typer.Option("--to", help="Whose form to write. Ours is Hugging Face's.")
    ] = To.HUGGINGFACE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the table of tensors and write nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace weights of the same form that are there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write the weights of a GPT-1 in another form, bit for bit.

    Every number is kept: tensors are renamed and gain or lose an axis of length one. The folder
    appears whole or not at all, after it was read back and found equal. Vocabulary files go
    along, and conversion.json says what was converted from where.

    Exit codes: 0 written, 2 usage, 3 nothing in the source, 4 source refused, 5 environment
    (not to be had, disk full, no permission), 70 internal error.
    """
    again = "run it again; what is there is whole, old or new"
    action = partial(_run, source, destination, to, dry_run=dry_run, force=force, quiet=quiet)
    raise typer.Exit(run_reporting_errors(action, name=str(destination), debug=debug, resume=again))


def _run(
    source: str, destination: Path, to: To, *, dry_run: bool, force: bool, quiet: bool
) -> ExitCode:
    from parity.threads import gc_paused, keep_freed_memory, limit_arenas_before_numpy

    limit_arenas_before_numpy()
    keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=quiet) as progress:
        with gc_paused():
            from parity.checkpoints import export
        text = export.run_conversion(
            source, destination, to.value, dry_run=dry_run, force=force, progress=progress
        )
    if not quiet:
        done = "nothing was to be written" if dry_run else "the folder is written all the same"
        print_stdout(text, fix=f"free some space; {done}")
    return ExitCode.PASS


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
