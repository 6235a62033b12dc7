"""A call that may never return, given up once it stops getting anywhere.

The hub's client restarts a download whenever it breaks off, and starts its count of attempts again
with every byte: a server that always breaks off, or a lock that is never let go, would be waited
for without end. A time limit for the whole would hit slow lines. So progress is watched.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from reference.hub_errors import StalledError

Result = TypeVar("Result")

_TICK = 0.05


def watched(call: Callable[[], Result], *, seconds: float, progress: Callable[[], int]) -> Result:
    """Return what `call` returns.

    It runs in a thread of its own, which ends with the process where it is given up.

    Args:
        call: What may hang.
        seconds: How long `progress` may stay at or below the most it has been.
        progress: A number that grows as long as there is any.

    Raises:
        StalledError: There was none for so long.
        Exception: Whatever `call` raises.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    most, since = progress(), time.monotonic()
    while thread.is_alive():
        thread.join(min(_TICK, seconds))
        now = progress()
        if now > most:
            most, since = now, time.monotonic()
        if thread.is_alive() and time.monotonic() - since > seconds:
            raise StalledError
    if failure:
        raise failure[0]
    return outcome[0]


def no_progress() -> int:
    """Return always the same: the call has `seconds` in all."""
    return 0
