"""How every command line here is made and started."""

import sys

import typer

from scratch_gpt.command.errors import ExitCode
from scratch_gpt.command.telling import let_go, tell


def application(name: str, text: str | None = None) -> typer.Typer:
    """Return an application of one command, or of several with `text` as their common help."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=text is not None,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 100},
    )


def start(app: typer.Typer) -> None:
    """Run an application by the arguments of this process, and exit.

    Help is printed, and options are refused, before a command's own errors are told; where nobody
    reads it, Click's exit code would be that of a real difference.
    """
    try:
        app(prog_name=f"python -m {app.info.name}")
    except OSError as error:
        let_go(sys.stdout)
        tell(f"help could not be written: {error.strerror}", "standard output", "free some space")
        raise SystemExit(ExitCode.ENVIRONMENT) from error
    except SystemExit as ended:
        if type(sys.stdout).__name__ == _CLICKS_MARK:
            raise SystemExit(ExitCode.CLOSED_PIPE) from ended
        raise


_CLICKS_MARK = "PacifyFlushWrapper"
"""What Click leaves in the place of a standard output that nobody reads."""
