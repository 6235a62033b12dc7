"""The command line: `python -m bench.ratios`.

It parses, calls one function, prints and exits. Nothing that needs torch is imported before
that, so that `--help` answers at once.
"""

import dataclasses
import fnmatch
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.targets import SOMEWHERE_BELOW, TARGETS, Target
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from scratch_gpt import cli
from scratch_gpt.cli import print_stdout, render_rich, reporting_write_errors, run_app, typer_app
from scratch_gpt.progress import Progress, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from bench.baseline import Comparison
    from bench.results import BenchRun


app = typer_app("bench.ratios")


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
    asked = BenchOptions(
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
    sys.exit(
        cli.run_reporting_errors(
            partial(run, asked), name="bench.ratios", debug=debug, resume=again
        )
    )


def main() -> None:
    """Run the command line."""
    run_app(app)


# What `python -m bench.ratios` does with what it was asked.


QUICK_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Everything that the command can be asked; each field is the option of its name."""

    rows: str = "*"
    quick: bool = False
    rounds: int | None = None
    listed: bool = False
    json: Path | None = None
    picture: Path | None = None
    baseline: Path | None = None
    force: bool = False


def selected(asked: BenchOptions, rows: Sequence[Target] = TARGETS) -> list[Target]:
    """Return the rows that were asked for.

    Raises:
        UsageError: None is called so.
    """
    found = [
        row
        for row in rows
        if fnmatch.fnmatchcase(row.name, asked.rows) and (row.quick or not asked.quick)
    ]
    if not found:
        raise UsageError("no row has such a name", where=f"--rows {asked.rows}", fix="see --list")
    return found


def check_places(asked: BenchOptions) -> None:
    """Require, before anything is measured, places that can be written to.

    Raises:
        EnvironmentUnfitError: One cannot, or matplotlib is not there to draw a picture.
    """
    for option, path in (("--json", asked.json), ("--picture", asked.picture)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise EnvironmentUnfitError(
                "the file cannot be written there",
                where=f"{option} {path}",
                fix="name a file in a folder that exists",
            )
    if asked.picture is not None:
        from bench.report import check_installed

        check_installed()


def run(asked: BenchOptions) -> ExitCode:
    """Measure what was asked for; return the exit code.

    Raises:
        ParityError: The run could not be begun, or what it found not be written.
    """
    rows = selected(asked)
    if asked.listed:
        print_stdout("".join(f"{row.name}{_bound(row)}\n" for row in rows))
        return ExitCode.PASS
    check_places(asked)
    with progress_bar(quiet=False) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # others' kernels warn about what they lack: rows say it
        return _measured(asked, rows, progress)


def _bound(row: Target) -> str:
    return "" if row.bound is None else f"  ≤ {row.bound:.2f}"


def _measured(asked: BenchOptions, rows: Sequence[Target], progress: Progress) -> ExitCode:
    import torch

    from bench import baseline, results
    from bench.baseline import described
    from bench.contest import somewhere_below
    from bench.models import Measurement
    from bench.results import exit_code
    from bench.runner import measure
    from bench.timing import copy_bandwidth

    earlier = results.read(asked.baseline) if asked.baseline is not None else None
    machine = described()
    if earlier is not None:
        baseline.check_machine(machine, earlier.machine, force=asked.force)
    work = Measurement(asked.rounds or (QUICK_ROUNDS if asked.quick else None), progress)
    outcomes = measure(rows, work)
    rates = {f"matrix rate, {name}": rate for name, rate in work.rates.items()}
    limits = {**rates, "copy bandwidth": copy_bandwidth(torch.device("cpu"))}
    found = results.BenchRun(machine=machine, limits=limits, outcomes=outcomes, series=work.series)
    notes = [f"{name}: {limit / 1e9:.1f} G/s" for name, limit in limits.items()]
    notes.append(somewhere_below(outcomes, "sdpa", SOMEWHERE_BELOW))
    _deliver(found, [note for note in notes if note], asked)
    if earlier is None:
        return exit_code(outcomes)
    changes = baseline.compare(outcomes, earlier.outcomes, asked={row.name for row in rows})
    _deliver_changes(changes)
    return baseline.exit_code(changes)


_NARROWEST = 116
"""Columns of the table, the longest name in it."""


def _deliver(found: "BenchRun", notes: Sequence[str], asked: BenchOptions) -> None:
    """Print the table, then write the files."""
    from bench.report import draw, render
    from bench.results import rendered

    def draw_table(console: "Console") -> None:
        render(found.outcomes, found.machine, notes, console)

    print_stdout(render_rich(draw_table, sys.stdout, narrowest=_NARROWEST))
    if asked.json is not None:
        with reporting_write_errors(str(asked.json)):
            asked.json.write_text(rendered(found), encoding="utf-8")
    if asked.picture is not None:
        with reporting_write_errors(str(asked.picture)):
            draw(found.series, asked.picture)


def _deliver_changes(changes: "Sequence[Comparison]") -> None:
    from bench.report import render_changes

    print_stdout(render_rich(lambda console: render_changes(changes, console), sys.stdout))


if __name__ == "__main__":
    main()
