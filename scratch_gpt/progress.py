"""A progress line on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from scratch_gpt.errors import one_line

Progress = Callable[[str, int, int], None]
"""Called with (activity, steps done, steps in all)."""


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """Yield a function that shows progress; it does nothing if stderr is not a terminal."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)  # it may hold a file's name
    with Bar(*columns, text, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            task, description=one_line(what), completed=done, total=total
        )
