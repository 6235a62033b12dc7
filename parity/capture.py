"""A forward pass as a stream of taps.

`stream` runs the model in a thread of its own and stops it at every tap until the next one is
asked for. So several models can be walked through in lockstep, one tensor of each alive at a
time; and while a tensor is looked at, the model that made it stands still and cannot change it.
`capture` collects clones instead, for use without lockstep.
"""

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue

import torch
from torch import Tensor

Tap = Callable[[str, Tensor], Tensor]
Run = Callable[[Tap], object]
"""Runs a forward pass, calling the tap at each named tensor."""

TapStream = Generator[tuple[str, Tensor], Tensor | None, None]


class RunError(Exception):
    """The model raised; the original error is the cause."""


class _AbandonedError(BaseException):
    """Unwinds a forward pass that nobody follows any more; no `except Exception` stops it."""


_END = object()


def stream(run: Run) -> TapStream:
    """Yield `(name, tensor)` at each tap of `run`; go on with what is sent back, if anything.

    The tensor is the model's own, not a copy: use it before asking for the next one, and do not
    write to it.

    Raises:
        RunError: `run` raised.
    """
    offers: SimpleQueue[object] = SimpleQueue()
    answers: SimpleQueue[object] = SimpleQueue()
    worker = threading.Thread(target=_work, args=(run, offers, answers), daemon=True)
    worker.start()
    try:
        while (offer := offers.get()) is not _END:
            if isinstance(offer, BaseException):
                message = f"{type(offer).__name__}: {offer}"
                raise RunError(message) from offer
            answers.put((yield offer))  # type: ignore[misc]
    finally:
        answers.put(_END)
        worker.join()


def _work(run: Run, offers: "SimpleQueue[object]", answers: "SimpleQueue[object]") -> None:
    """Run the model; offer each tap and wait for the answer."""

    def tap(name: str, value: Tensor) -> Tensor:
        offers.put((name, value.detach()))
        answer = answers.get()
        if answer is _END:
            raise _AbandonedError
        return answer if isinstance(answer, Tensor) else value

    try:
        with torch.no_grad():  # a setting of the thread, so it is made here
            run(tap)
        offers.put(_END)
    except _AbandonedError:
        pass
    except BaseException as error:  # noqa: BLE001 - handed to the consumer, whatever it is
        offers.put(error)


def capture(run: Run) -> dict[str, Tensor]:
    """Return a clone of every tap of one forward pass, in the order in which they were shown."""
    taken: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        taken[name] = value.detach().clone()
        return value

    with torch.no_grad():
        run(tap)
    return taken
