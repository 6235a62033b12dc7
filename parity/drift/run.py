"""From the options of the verb `drift` to its report."""

from parity.checks.drift import drift
from parity.drift.gathering import gathered
from parity.results import Report
from parity.shell import Options, identity
from scratch_gpt.command.progress import Progress


def run(options: Options, progress: Progress) -> Report:
    """Lay rows of reports side by side."""
    rows = gathered(options.rows, options.expect, progress)
    return drift(rows, identity({}, {}), same_code=options.same_code)
