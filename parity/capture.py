"""A forward pass as a stream of taps.

`stream` runs the model in a thread of its own and stops it at every tap until it is answered. So
several models can be walked through in lockstep, one tensor of each alive at a
time; and while a tensor is looked at, the model that made it stands still and cannot change it.
`capture` collects clones instead, for use without lockstep.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Self, cast

import torch
from torch import Tensor

Tap = Callable[[str, Tensor], Tensor]
Run = Callable[[Tap], object]
"""Runs a forward pass, calling the tap at each named tensor."""


class RunError(Exception):
    """The model raised; the original error is the cause."""


class _AbandonedError(BaseException):
    """Unwinds a forward pass that nobody follows any more; no `except Exception` stops it."""


_END = object()


class TapStream:
    """A forward pass in a thread of its own, stopped at every tap.

    It is an iterator of `(name, tensor)` with a generator's `send` and `close`. `answer` lets the
    run go on without waiting for its next tap, so that several runs can compute at once.

    The tensor is the model's own, not a copy: use it before the run goes on, and do not write
    to it.
    """

    def __init__(self, run: Run) -> None:
        self._offers: SimpleQueue[object] = SimpleQueue()
        self._answers: SimpleQueue[object] = SimpleQueue()
        self._stopped = False
        self._ended = False
        self._worker = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._worker.start()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> tuple[str, Tensor]:
        """Let the run go on with its own tensor; return the next tap."""
        return self.send(None)

    def send(self, value: Tensor | None) -> tuple[str, Tensor]:
        """Let the run go on with `value`, if it still stands; return the next tap.

        Raises:
            StopIteration: The run is over.
            RunError: The run raised.
        """
        if self._ended:
            raise StopIteration
        if self._stopped:
            self.answer(value)
        offer = self._offers.get()
        if offer is _END or isinstance(offer, BaseException):
            self._ended = True
            if offer is _END:
                raise StopIteration
            message = f"{type(offer).__name__}: {offer}"
            raise RunError(message) from cast("BaseException", offer)
        self._stopped = True
        return cast("tuple[str, Tensor]", offer)

    def answer(self, value: Tensor | None) -> None:
        """Let the run go on with `value`, or with its own tensor where that is None."""
        self._answers.put(value)
        self._stopped = False

    def close(self) -> None:
        """Abandon the run, and wait until it has ended."""
        self._ended = True
        self._answers.put(_END)
        self._worker.join()

    def _work(self, run: Run) -> None:
        """Run the model; offer each tap and wait for the answer."""
        try:
            with torch.no_grad():  # a setting of the thread, so it is made here
                run(self._tap)
            self._offers.put(_END)
        except _AbandonedError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, whatever it is
            self._offers.put(error)

    def _tap(self, name: str, value: Tensor) -> Tensor:
        self._offers.put((name, value.detach()))
        answer = self._answers.get()
        if answer is _END:
            raise _AbandonedError
        return value if answer is None else cast("Tensor", answer)


def stream(run: Run) -> TapStream:
    """Start `run` in a thread of its own; it stops at its first tap."""
    return TapStream(run)


def capture(run: Run) -> dict[str, Tensor]:
    """Return a clone of every tap of one forward pass, in the order in which they were shown.

    Raises:
        ValueError: A name was shown twice: which of the two tensors is meant?
    """
    taken: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        if name in taken:
            message = f"the tap {name!r} was shown twice"
            raise ValueError(message)
        taken[name] = value.detach().clone()
        return value

    with torch.no_grad():
        run(tap)
    return taken
