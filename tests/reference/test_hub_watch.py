"""A watched call: its result, its error, and the end of patience."""

import time
from threading import Event

import pytest

from reference.hub import no_progress, watched
from reference.hub_errors import StalledError


def test_returns_what_the_call_returns() -> None:
    """At once, however long one would have waited."""
    began = time.monotonic()
    assert watched(lambda: 7, seconds=30.0, progress=no_progress) == 7
    assert time.monotonic() - began < 5.0


def test_raises_what_the_call_raises() -> None:
    """The very error."""
    error = OSError("no")

    def fail() -> None:
        raise error

    with pytest.raises(OSError, match="no") as caught:
        watched(fail, seconds=1.0, progress=no_progress)
    assert error is caught.value


def test_gives_up_a_call_without_progress() -> None:
    """And lets it be: it may never end."""
    end = Event()
    with pytest.raises(StalledError):
        watched(lambda: end.wait(30), seconds=0.1, progress=no_progress)
    end.set()


def test_gives_up_a_call_that_starts_over() -> None:
    """Progress that falls back to where it was is none."""
    end = Event()
    seen = iter([0, 5, 0, 4] + [0, 5] * 10_000)
    with pytest.raises(StalledError):
        watched(lambda: end.wait(30), seconds=0.2, progress=lambda: next(seen))
    end.set()


def test_waits_as_long_as_there_is_progress() -> None:
    """Far longer than a stall may last."""
    end = time.monotonic() + 0.5

    def work() -> str:
        while time.monotonic() < end:
            time.sleep(0.01)
        return "done"

    elapsed = watched(work, seconds=0.2, progress=time.monotonic_ns)
    assert elapsed == "done"
