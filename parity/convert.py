"""The command line: `python -m parity.convert SOURCE DESTINATION`.

It parses, converts, prints and exits. Nothing that needs torch is imported before that.
"""

import contextlib
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from parity.checkpoints.names import check_weights
from parity.errors import ExitCode, UsageError
from scratch_gpt.cli import (
    print_stdout,
    run_app,
    run_reporting_errors,
    typer_app,
)
from scratch_gpt.options import QuietOption, add_command, argument, option, require_paths
from scratch_gpt.progress import progress_bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(QuietOption):
    """Write the weights of a GPT-1 in another format, bit for bit.

    Every number is kept: tensors are renamed and gain or lose an axis of length one. The folder is
    written completely or not at all, after it was read back and found equal. Vocabulary files are
    copied, and conversion.json records what was converted from where.

    Examples:
      python -m parity.convert openai-gpt weights
      python -m parity.convert path/to/release weights --dry-run
      python -m parity.convert weights release --to openai
      python -m parity.convert nanogpt.pt weights --map nanogpt.map
      python -m parity.convert weights nanogpt --map nanogpt.map --to mapped

    Exit codes:
      0 written  2 usage  3 nothing in the source  4 source rejected
      5 environment (source unreachable, disk full, no permission)
      70 internal error  130 interrupted  141 closed pipe
    """

    source: str = argument(
        ...,
        "What to convert: a folder or file in Hugging Face's format or ours, a folder of OpenAI's "
        "release, openai-gpt, a hub repository owner/name[@revision], or surrogate.",
        metavar="SOURCE",
    )
    destination: Path = argument(..., "The folder to write.", metavar="DESTINATION")
    to: Literal["huggingface", "openai", "mapped"] = option(
        "huggingface",
        "The format to write. Ours is Hugging Face's; mapped has the names of --map.",
    )
    map: Path | None = option(
        None,
        "The names of another program: a file of lines such as "
        "blocks.{i}.attn.weight = h.{i}.attn.c_attn.weight.T. SOURCE has them, or, with "
        "--to mapped, DESTINATION.",
        metavar="FILE",
        exists=True,
    )
    n_head: int | None = option(
        None, "Heads of a source with --map, if no line of the map gives it.", minimum=1
    )
    dry_run: bool = option(False, "Print the table of tensors and write nothing.")
    force: bool = option(False, "Replace existing weights of the same format.")
    strict: bool = option(
        False, "Reject a source of which anything is renamed, rounded, left out or ignored."
    )


def convert(options: ConvertOptions) -> int:
    """Convert; return the exit code. Errors are printed, not raised."""
    return run_reporting_errors(
        partial(_convert, options),
        name=str(options.destination),
        debug=options.debug,
        resume="run it again; the folder is complete, old or new",
    )


def _convert(options: ConvertOptions) -> ExitCode:
    from parity.threads import gc_paused, keep_freed_memory, limit_arenas_before_numpy

    check_weights(options.source, where="")
    require_paths(options)
    limit_arenas_before_numpy()
    keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=options.quiet) as progress:
        with gc_paused():
            from parity.checkpoints import export, load
            from parity.core import mapped_files
            from parity.core.mapping import read_map_file
        file, read = None, load.load_weights
        form = export.FORMS.get(options.to)
        if options.map:
            file = read_map_file(options.map)
        if options.n_head and not (file and form):
            raise UsageError(
                "heads are given for a source with --map alone",
                where="--n-head",
                fix="leave it out, or give --map FILE without --to mapped",
            )
        if file and form:
            config = {"n_head": options.n_head} if options.n_head else {}
            read = partial(mapped_files.read_mapped, file, config)
        elif file:
            form = mapped_files.mapped_form(file)
        if form is None:
            raise UsageError(
                "the names are not given",
                where="--to mapped",
                fix="give --map FILE; docs/migration.md has an example",
            )
        text = export.run_conversion(
            options.source,
            options.destination,
            form,
            read=read,
            dry_run=options.dry_run,
            force=options.force,
            strict=options.strict,
            progress=progress,
        )
    if not options.quiet:
        done = "nothing was to be written" if options.dry_run else "the folder is written"
        print_stdout(text, fix=f"free some space; {done}")
    return ExitCode.PASS


app = typer_app("parity.convert")
add_command(app, ConvertOptions, convert)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
