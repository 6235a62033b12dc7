"""Being told to stop: the step is finished, a checkpoint written, and only then the run ends."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked the run to end.

    Attributes:
        asked: True from the first signal on.
        patience: Seconds after the first signal in which a further one is no second request: a
            terminal and torchrun both send their own.
    """

    def __init__(self, *, patience: float = 0.0) -> None:
        self.asked = False
        self.patience = patience
        self._first = 0.0

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: It is the second one: somebody does not want to wait.
        """
        if not self.asked:
            self.asked, self._first = True, time.monotonic()
        elif time.monotonic() - self._first >= self.patience:
            raise KeyboardInterrupt


@contextmanager
def stoppable(*, patience: float = 0.0) -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM ask first; give what says whether they did."""
    stop = Stop(patience=patience)
    before = {number: signal.signal(number, stop.request) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, where there is nothing to finish first."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
