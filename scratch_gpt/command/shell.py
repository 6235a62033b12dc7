"""From a command's body to its exit code, whatever happens on the way."""

import sys
import traceback
from collections.abc import Callable

from scratch_gpt.command.errors import ExitCode
from scratch_gpt.command.telling import known, let_go, tell


def run(action: Callable[[], int], *, name: str, debug: bool, resume: str = "run it again") -> int:
    """Run a command's body; return the exit code. Errors are printed here and go no further.

    Args:
        action: The body; returns an exit code.
        name: The command's name, for the message of an interrupted run.
        debug: Whether the traceback of an error is shown too.
        resume: What to do after an interrupt.
    """
    try:
        return int(action())
    except KeyboardInterrupt:
        tell("interrupted", name, resume)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        let_go(sys.stdout)
        return int(ExitCode.CLOSED_PIPE)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has an exit code
        coded = known(error)
        if debug:
            traceback.print_exception(error)
        tell(coded.what, coded.where, coded.fix)
        return int(coded.code)
