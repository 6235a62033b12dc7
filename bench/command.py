"""What `python -m bench.ratios` does with what it was asked."""

import dataclasses
import fnmatch
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.held import ROWS, SOMEWHERE_BELOW
from bench.task import Row
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from scratch_gpt.command.output import drawn, to_stdout, writing
from scratch_gpt.command.progress import Progress, shown

if TYPE_CHECKING:
    from rich.console import Console

    from bench.baseline import Comparison
    from bench.document import Run

QUICK_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Everything that the command can be asked; each field is the option of its name."""

    rows: str = "*"
    quick: bool = False
    rounds: int | None = None
    listed: bool = False
    json: Path | None = None
    picture: Path | None = None
    baseline: Path | None = None
    force: bool = False


def selected(asked: Asked, rows: Sequence[Row] = ROWS) -> list[Row]:
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


def check_places(asked: Asked) -> None:
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
        from bench.picture import check_installed

        check_installed()


def run(asked: Asked) -> ExitCode:
    """Measure what was asked for; return the exit code.

    Raises:
        ParityError: The run could not be begun, or what it found not be written.
    """
    rows = selected(asked)
    if asked.listed:
        to_stdout("".join(f"{row.name}{_bound(row)}\n" for row in rows))
        return ExitCode.PASS
    check_places(asked)
    with shown(quiet=False) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # others' kernels warn about what they lack: rows say it
        return _measured(asked, rows, progress)


def _bound(row: Row) -> str:
    return "" if row.bound is None else f"  ≤ {row.bound:.2f}"


def _measured(asked: Asked, rows: Sequence[Row], progress: Progress) -> ExitCode:
    import torch

    from bench import baseline, document
    from bench.figures import somewhere_below
    from bench.limits import copy_bandwidth
    from bench.machine import described
    from bench.measure import measure
    from bench.measurement import Measurement
    from bench.outcome import exit_code

    earlier = document.read(asked.baseline) if asked.baseline is not None else None
    machine = described()
    if earlier is not None:
        baseline.check_machine(machine, earlier.machine, force=asked.force)
    work = Measurement(asked.rounds or (QUICK_ROUNDS if asked.quick else None), progress)
    outcomes = measure(rows, work)
    rates = {f"matrix rate, {name}": rate for name, rate in work.rates.items()}
    limits = {**rates, "copy bandwidth": copy_bandwidth(torch.device("cpu"))}
    found = document.Run(machine=machine, limits=limits, outcomes=outcomes, series=work.series)
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


def _deliver(found: "Run", notes: Sequence[str], asked: Asked) -> None:
    """Print the table, then write the files."""
    from bench.document import rendered
    from bench.picture import draw
    from bench.report import render

    def draw_table(console: "Console") -> None:
        render(found.outcomes, found.machine, notes, console)

    to_stdout(drawn(draw_table, sys.stdout, narrowest=_NARROWEST))
    if asked.json is not None:
        with writing(str(asked.json)):
            asked.json.write_text(rendered(found), encoding="utf-8")
    if asked.picture is not None:
        with writing(str(asked.picture)):
            draw(found.series, asked.picture)


def _deliver_changes(changes: "Sequence[Comparison]") -> None:
    from bench.report import render_changes

    to_stdout(drawn(lambda console: render_changes(changes, console), sys.stdout))
