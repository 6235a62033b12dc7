"""The command line's verb `drift`. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from parity.options import DebugOption, FormatOption, OutputOption, QuietOption
from parity.shell import Options, run


def drift(
    rows: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Two or more rows: a folder of JSON reports, one a check, is one; so is a single "
            "report; a folder of such folders is as many.",
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect",
            help="Name of a row that has to be there: without it there is no verdict. Of a folder "
            "of rows those that are expected are read, and no others. May be given several times.",
        ),
    ] = None,
    same_code: Annotated[
        bool,
        typer.Option(
            "--same-code",
            help="Give no verdict on reports that other code made than this: older ones, say.",
        ),
    ] = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What moved between two torch versions, two machines, two states of the code?

    Reports of the other verbs are laid side by side, in the order given: every verdict; what
    differs between the environments; and where they were made with --fingerprints, which tap moved
    first between neighbours, how many did and how far, and which operations moved by themselves.
    Movement is no failure. No model is run.
    """
    options = Options(
        verb="drift",
        rows=tuple(rows or ()),
        expect=tuple(expect or ()),
        same_code=same_code,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))
