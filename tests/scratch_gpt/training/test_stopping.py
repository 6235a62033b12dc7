"""The first signal asks, the second one ends."""

import os
import signal

import pytest

from scratch_gpt.training.run import interruptible, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    """Nothing is interrupted, and afterwards the signal means what it meant."""
    before = signal.getsignal(number)
    with stoppable() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
    assert before == signal.getsignal(number)


def test_the_second_one_ends() -> None:
    """Of whichever kind."""
    with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_echo_is_no_second_one() -> None:
    """A terminal signals every process of its group, and torchrun hands on what it got."""
    with stoppable(patience=3_600.0) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked


def test_sigterm_interrupts_where_there_is_nothing_to_finish() -> None:
    """As Ctrl-C does; afterwards it means what it meant."""
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == signal.getsignal(signal.SIGTERM)
