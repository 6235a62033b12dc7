"""A forward pass followed from outside: tap by tap, or as a dictionary of copies."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from parity.core.lockstep import RunError, capture, stream

pytestmark = pytest.mark.usefixtures("one_thread")

Tap = Callable[[str, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Require that every run that was started has ended."""
    before = set(threading.enumerate())
    yield
    assert before == set(threading.enumerate())


def numbers() -> Tensor:
    return torch.tensor([[1.0, 2.0, 3.0]])


def in_place(tap: Tap) -> None:
    """Pass one tensor three times, and write to it in between."""
    x = numbers()
    tap("a", x)
    x += 10
    tap("b", x)
    x.zero_()
    tap("c", x)


def test_every_tap_comes_by_in_order() -> None:
    assert [(name, tensor.tolist()) for name, tensor in stream(in_place)] == [
        ("a", [[1.0, 2.0, 3.0]]),
        ("b", [[11.0, 12.0, 13.0]]),
        ("c", [[0.0, 0.0, 0.0]]),
    ]


def test_while_a_tensor_is_looked_at_the_run_stands_still() -> None:
    happened: list[str] = []

    def run(tap: Tap) -> None:
        for name in "ab":
            tap(name, numbers())
            happened.append(f"after {name}")

    taps = stream(run)
    next(taps)
    time.sleep(0.05)
    assert not happened
    next(taps)
    time.sleep(0.05)
    expected = ["after a"]
    assert expected == happened
    taps.close()
    assert expected == happened


def test_what_is_sent_back_is_what_the_run_goes_on_with() -> None:
    went_on: list[float] = []

    def run(tap: Tap) -> None:
        went_on.extend(float(tap(name, numbers()).sum()) for name in "abc")

    taps = stream(run)
    next(taps)
    taps.send(torch.tensor([7.0]))
    taps.send(None)
    with pytest.raises(StopIteration):
        taps.send(torch.tensor([9.0]))
    assert went_on == [7.0, 6.0, 9.0]


def test_the_tensor_is_the_runs_own() -> None:
    made: list[Tensor] = []

    def run(tap: Tap) -> None:
        made.append(numbers())
        tap("a", made[0])

    taps = stream(run)
    _, tensor = next(taps)
    assert made[0].data_ptr() == tensor.data_ptr()
    taps.close()


@pytest.mark.parametrize(
    "follow", [lambda run: list(stream(run)), capture], ids=["stream", "capture"]
)
def test_no_gradient_is_recorded(follow: Callable[[Callable[[Tap], object]], object]) -> None:
    """Gradient mode is a setting of the thread, and a run has its own thread."""
    recorded: list[bool] = []

    def run(tap: Tap) -> None:
        weight = numbers().requires_grad_()
        recorded.extend([torch.is_grad_enabled(), (weight * 2).requires_grad])
        tap("a", weight)

    follow(run)
    assert recorded == [False, False]


def test_a_watched_parameter_is_shown_without_its_gradient() -> None:
    taps = stream(lambda tap: tap("a", numbers().requires_grad_()))
    assert not next(taps)[1].requires_grad
    taps.close()
    assert not capture(lambda tap: tap("a", numbers().requires_grad_()))["a"].requires_grad


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), KeyboardInterrupt("mine"), StopIteration("mine"), SystemExit("mine")],
    ids=repr,
)
def test_what_the_run_raises_is_handed_over(error: BaseException) -> None:
    def run(tap: Tap) -> None:
        tap("a", numbers())
        raise error

    taps = stream(run)
    assert next(taps)[0] == "a"
    with pytest.raises(RunError, match=f"^{type(error).__name__}: mine$") as raised:
        next(taps)
    assert error is raised.value.__cause__


def test_after_its_end_a_stream_stays_ended() -> None:
    def breaks(_tap: Tap) -> None:
        raise ValueError

    whole, broken = stream(lambda tap: tap("a", numbers())), stream(breaks)
    next(whole)
    with pytest.raises(RunError):
        next(broken)
    for taps in (whole, broken):
        assert not list(taps)
        taps.close()
        taps.close()


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_abandoned_run_ends_its_thread(taken: int) -> None:
    happened: list[str] = []

    def run(tap: Tap) -> None:
        try:
            for name in "abc":
                try:
                    tap(name, numbers())
                except Exception:  # noqa: BLE001 - a model that swallows everything it can
                    happened.append("swallowed")
        finally:
            happened.append("cleaned up")

    before = set(threading.enumerate())
    taps = stream(run)
    for _ in range(taken):
        next(taps)
    taps.close()
    assert before == set(threading.enumerate())
    assert "swallowed" not in happened
    expected = ["cleaned up"] * bool(taken)
    assert expected == happened[: len(expected)]


def test_two_runs_are_followed_side_by_side() -> None:
    def counting(start: int) -> Callable[[Tap], None]:
        def run(tap: Tap) -> None:
            for number in range(start, start + 3):
                tap(str(number), torch.tensor([float(number)]))

        return run

    pairs = zip(stream(counting(0)), stream(counting(10)), strict=True)
    assert [(one[0], other[0]) for one, other in pairs] == [("0", "10"), ("1", "11"), ("2", "12")]


def test_a_capture_keeps_what_was_shown() -> None:
    taken = capture(in_place)
    expected = {"a": [[1.0, 2.0, 3.0]], "b": [[11.0, 12.0, 13.0]], "c": [[0.0, 0.0, 0.0]]}
    assert expected == {name: tensor.tolist() for name, tensor in taken.items()}
    assert list(expected) == list(taken)


def test_a_name_shown_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="'a' was shown twice"):
        capture(lambda tap: (tap("a", numbers()), tap("a", numbers())))


def test_a_capture_changes_nothing() -> None:
    own, went_on = numbers(), []
    capture(lambda tap: went_on.append(tap("a", own)))
    assert went_on[0] is own


def test_a_capture_lets_errors_through() -> None:
    def run(_tap: Tap) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        capture(run)
