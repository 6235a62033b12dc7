"""The command line: `python -m bench.ratios`.

It parses, calls one function, prints and exits. Nothing that needs torch is imported before
that, so that `--help` answers at once.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from scratch_gpt.command import shell
from scratch_gpt.command.application import application, start

app = application("bench.ratios")


@app.command()
def ratios(
    rows: Annotated[
        str, typer.Option(metavar="GLOB", help="Which rows, as a shell's pattern; see --list.")
    ] = "*",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rows, three rounds: half a minute.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of every contest; else 5 to 15.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Print the rows and their bounds; measure nothing.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the run as JSON.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw time against length: .svg, .png or .pdf (extra [plot])."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare ratios with an earlier --json of this machine."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare with a baseline of another machine too.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """How our time and memory stand to everyone else's, and to the limit of this machine.

    Each ratio is ours over theirs, measured in turns, round by round: its median, and its
    quartiles. A kernel is proved right against a float64 oracle before it is timed.

    Exit codes: 0 every bound kept; 1 a bound missed, a wrong kernel, or, with --baseline, a ratio
    worse than there (then bounds are printed and do not count); 2 usage; 3 something could not be
    measured, or nothing was; 4 a baseline that is none or of another machine; 5 environment; 70
    internal error.
    """
    from bench.command import Asked, run

    asked = Asked(
        rows=rows,
        quick=quick,
        rounds=rounds,
        listed=listed,
        json=json,
        picture=picture,
        baseline=baseline,
        force=force,
    )
    again = "no row was judged; run it again"
    sys.exit(shell.run(partial(run, asked), name="bench.ratios", debug=debug, resume=again))


def main() -> None:
    """Run the command line."""
    start(app)


if __name__ == "__main__":
    main()
