"""The command line: `python -m bench.ratios`.

Nothing that needs torch is imported before it runs, so that `--help` answers at once.
"""

import dataclasses
import fnmatch
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.targets import SMALLEST_SDPA_RATIO, TARGETS, Target
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from scratch_gpt.cli import (
    print_stdout,
    render_rich,
    reporting_write_errors,
    run_app,
    run_reporting_errors,
    typer_app,
)
from scratch_gpt.options import DebugOption, add_command, option
from scratch_gpt.progress import Progress, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from bench.baseline import Comparison
    from bench.results import BenchRun


QUICK_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions(DebugOption):
    """How do our time and memory compare with other implementations, and with this machine?

    Each ratio is ours over theirs, measured in turns, round by round: its median and quartiles. A
    kernel is verified with a float64 oracle before it is timed.

    Examples:
      python -m bench.ratios --list
      python -m bench.ratios --quick
      python -m bench.ratios --rows "core/*" --json run.json

    Exit codes:
      0 every bound met
      1 a bound missed, a wrong kernel, or, with --baseline, a ratio worse than
        there (then bounds are printed and do not count)
      2 usage
      3 something could not be measured, or nothing was
      4 a baseline that is not one, or that is from another machine
      5 environment  70 internal error
    """

    rows: str = option("*", "Which rows, as a shell pattern; see --list.", metavar="GLOB")
    quick: bool = option(False, "A few rows, three rounds: half a minute.")
    rounds: int | None = option(None, "Rounds of every timing. Default: 5 to 15.", minimum=1)
    list: bool = option(False, "Print the rows and their bounds; measure nothing.")
    json: Path | None = option(None, "Write the run as JSON.", metavar="FILE")
    picture: Path | None = option(
        None, "Draw time against length: .svg, .png or .pdf (extra [plot]).", metavar="FILE"
    )
    baseline: Path | None = option(
        None, "Compare ratios with an earlier --json of this machine.", metavar="FILE"
    )
    force: bool = option(False, "Compare with a baseline of another machine too.")


def ratios(options: BenchOptions) -> int:
    """Measure; return the exit code. Errors are printed, not raised."""
    return run_reporting_errors(
        partial(run, options),
        name="bench.ratios",
        debug=options.debug,
        resume="there is no verdict; run it again",
    )


def selected(options: BenchOptions, rows: Sequence[Target] = TARGETS) -> list[Target]:
    """Return the rows that match `--rows` and `--quick`.

    Raises:
        UsageError: No row matches.
    """
    found = [
        row
        for row in rows
        if fnmatch.fnmatchcase(row.name, options.rows) and (row.quick or not options.quick)
    ]
    if not found:
        raise UsageError("no row matches", where=f"--rows {options.rows}", fix="see --list")
    return found


def _check_places(options: BenchOptions) -> None:
    """Require, before anything is measured, files that can be written.

    Raises:
        EnvironmentUnfitError: One cannot be written, or a picture needs matplotlib.
    """
    for name, path in (("--json", options.json), ("--picture", options.picture)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise EnvironmentUnfitError(
                "the file cannot be written there",
                where=f"{name} {path}",
                fix="name a file in a folder that exists",
            )
    if options.picture is not None:
        from bench.report import check_installed

        check_installed()


def run(options: BenchOptions) -> ExitCode:
    """Measure the selected rows; return the exit code.

    Raises:
        ParityError: The run cannot start, or its result cannot be written.
    """
    rows = selected(options)
    if options.list:
        print_stdout("".join(f"{row.name}{_bound(row)}\n" for row in rows))
        return ExitCode.PASS
    _check_places(options)
    with progress_bar(quiet=False) as progress, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # other kernels warn about features they lack; the rows report them
        return _measured(options, rows, progress)


def _bound(row: Target) -> str:
    return "" if row.bound is None else f"  ≤ {row.bound:.2f}"


def _measured(options: BenchOptions, rows: Sequence[Target], progress: Progress) -> ExitCode:
    import torch

    from bench import baseline, results
    from bench.baseline import describe_machine
    from bench.contest import smallest_ratio_note
    from bench.models import Measurement
    from bench.results import exit_code
    from bench.runner import measure
    from bench.timing import copy_bandwidth

    earlier = results.read(options.baseline) if options.baseline is not None else None
    machine = describe_machine()
    if earlier is not None:
        baseline.check_machine(machine, earlier.machine, force=options.force)
    work = Measurement(options.rounds or (QUICK_ROUNDS if options.quick else None), progress)
    outcomes = measure(rows, work)
    rates = {f"matrix rate, {name}": rate for name, rate in work.rates.items()}
    limits = {**rates, "copy bandwidth": copy_bandwidth(torch.device("cpu"))}
    found = results.BenchRun(machine=machine, limits=limits, outcomes=outcomes, series=work.series)
    notes = [f"{name}: {limit / 1e9:.1f} G/s" for name, limit in limits.items()]
    notes.append(smallest_ratio_note(outcomes, "sdpa", SMALLEST_SDPA_RATIO))
    _deliver(found, [note for note in notes if note], options)
    if earlier is None:
        return exit_code(outcomes)
    changes = baseline.compare(outcomes, earlier.outcomes, asked={row.name for row in rows})
    _deliver_changes(changes)
    return baseline.exit_code(changes)


_NARROWEST = 116
"""Columns of the table with its longest name."""


def _deliver(found: "BenchRun", notes: Sequence[str], options: BenchOptions) -> None:
    """Print the table, then write the files."""
    from bench.report import draw, render
    from bench.results import to_json

    def draw_table(console: "Console") -> None:
        render(found.outcomes, found.machine, notes, console)

    print_stdout(render_rich(draw_table, sys.stdout, narrowest=_NARROWEST))
    if options.json is not None:
        with reporting_write_errors(str(options.json)):
            options.json.write_text(to_json(found), encoding="utf-8")
    if options.picture is not None:
        with reporting_write_errors(str(options.picture)):
            draw(found.series, options.picture)


def _deliver_changes(changes: "Sequence[Comparison]") -> None:
    from bench.report import render_changes

    print_stdout(render_rich(lambda console: render_changes(changes, console), sys.stdout))


app = typer_app("bench.ratios")
add_command(app, BenchOptions, ratios)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
