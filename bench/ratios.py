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

from bench.targets import KERNEL_TARGETS, SMALLEST_SDPA_RATIO, TARGETS, Target
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
      python -m bench.ratios --rows "model/*" --compile
      python -m bench.ratios --kernel my_kernel.py:attention --quick

    Exit codes:
      0 every bound met
      1 a bound missed, a wrong kernel, or, with --baseline, a ratio worse than
        there (then bounds are printed and do not count)
      2 usage
      3 something could not be measured, or nothing was
      4 a baseline that is not one, or that is from another machine; or a kernel
        that cannot be called
      5 environment  70 internal error
    """

    rows: str = option("*", "Which rows, as a shell pattern; see --list.", metavar="GLOB")
    kernel: str | None = option(
        None,
        "Only your own attention kernel, beside the others, on the CPU. It is called as "
        "scratch_gpt/attention.py says.",
        metavar="FILE.py:NAME",
    )
    compile: bool = option(
        False, "Also compare with compiled peers; torch.compile takes minutes for each length."
    )
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


def selected(options: BenchOptions) -> list[Target]:
    """Return the rows that match `--rows` and `--quick`; with `--kernel` those of the kernel.

    Raises:
        UsageError: No row matches.
    """
    found = [
        row
        for row in (TARGETS if options.kernel is None else KERNEL_TARGETS)
        if fnmatch.fnmatchcase(row.name, options.rows) and (row.quick or not options.quick)
    ]
    chosen = [row for row in found if options.compile or not row.compiles]
    if not chosen:
        fix = "add --compile" if found else "see --list"
        raise UsageError("no row matches", where=f"--rows {options.rows}", fix=fix)
    return chosen


_PICTURES = (".svg", ".png", ".pdf")
_RUN_MARK = b'"outcomes"'


def _check_places(options: BenchOptions) -> None:
    """Require, before anything is measured, files that can be written.

    Raises:
        EnvironmentUnfitError: One cannot be written, or a picture needs matplotlib.
        UsageError: Something there is no run, and would be lost; or no picture has that suffix.
    """
    for name, path in (("--json", options.json), ("--picture", options.picture)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            what, fix = "the file cannot be written there", "name a file in a folder that exists"
            raise EnvironmentUnfitError(what, where=f"{name} {path}", fix=fix)
        if path is not None and path.exists() and not path.is_file():
            what, fix = "it is a pipe or a device, not a file", "name a file"
            raise EnvironmentUnfitError(what, where=f"{name} {path}", fix=fix)
    there = options.json
    if there and there.is_file() and there.stat().st_size and _RUN_MARK not in there.read_bytes():
        what, fix = "the file is no run, and would be lost", "choose another name"
        raise UsageError(what, where=f"--json {there}", fix=fix)
    if options.picture is not None and options.picture.suffix not in _PICTURES:
        what, fix = "no picture has that suffix", f"use {', '.join(_PICTURES)}"
        raise UsageError(what, where=f"--picture {options.picture}", fix=fix)
    if options.picture is not None:
        from bench.report import figure_class

        figure_class()


def run(options: BenchOptions) -> ExitCode:
    """Measure the selected rows; return the exit code.

    Raises:
        ParityError: The run cannot start, or its result cannot be written.
    """
    rows = selected(options)
    if options.list:
        for row in rows:
            bound = "" if row.bound is None else f"  ≤ {row.bound:.2f}"
            print_stdout(f"{row.name}{bound}\n")
        return ExitCode.PASS
    _check_places(options)
    with progress_bar(quiet=False) as progress, warnings.catch_warnings():
        # Other kernels warn about features they lack; the rows report them.
        warnings.simplefilter("ignore")
        return _measured(options, rows, progress)


def _measured(options: BenchOptions, rows: Sequence[Target], progress: Progress) -> ExitCode:
    import torch

    from bench import baseline, report, results, runner, timing
    from bench.contest import smallest_ratio_note
    from bench.kernels import add_own
    from bench.models import Measurement

    if options.kernel is not None:
        add_own(options.kernel, torch.device("cpu"))
    earlier = results.read(options.baseline) if options.baseline is not None else None
    machine = baseline.describe_machine()
    if earlier is not None:
        baseline.check_machine(machine, earlier.machine, force=options.force)
    work = Measurement(options.rounds or (QUICK_ROUNDS if options.quick else None), progress)
    outcomes = runner.measure(rows, work)
    rates = {f"matrix rate, {name}": rate for name, rate in work.rates.items()}
    limits = {**rates, "copy bandwidth": timing.copy_bandwidth(torch.device("cpu"))}
    notes = [f"{name}: {limit / 1e9:.1f} G/s" for name, limit in limits.items()]
    if note := smallest_ratio_note(outcomes, "sdpa", SMALLEST_SDPA_RATIO):
        notes.append(note)
    table = partial(report.render, outcomes, machine, notes)
    print_stdout(render_rich(table, sys.stdout, narrowest=_NARROWEST))
    if options.json is not None:
        found = results.BenchRun(
            machine=machine, limits=limits, outcomes=outcomes, series=work.series
        )
        with reporting_write_errors(str(options.json)):
            options.json.write_text(results.to_json(found), encoding="utf-8")
    if options.picture is not None:
        with reporting_write_errors(str(options.picture)):
            report.draw(work.series, options.picture)
    if earlier is None:
        return results.exit_code(outcomes)
    changes = baseline.compare(outcomes, earlier.outcomes, asked={row.name for row in rows})
    print_stdout(render_rich(partial(report.render_changes, changes), sys.stdout))
    return baseline.exit_code(changes)


_NARROWEST = 116
"""Columns of the table with its longest name."""

app = typer_app("bench.ratios")
add_command(app, BenchOptions, ratios)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
