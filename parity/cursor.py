"""One run followed along a plan, tap by tap."""

from collections.abc import Sequence

from torch import Tensor

from parity.capture import Run, stream


class Cursor:
    """Follows one run along the plan, one tap at a time."""

    def __init__(self, run: Run, plan: Sequence[str], unwatched: frozenset[str]) -> None:
        self.extras: list[str] = []
        self._taps = stream(run)
        self._place = {name: place for place, name in enumerate(plan)}
        self._unwatched = unwatched
        self._held: tuple[str, Tensor] | None = None
        self._taken = False
        self._answer: Tensor | None = None

    def take(self, wanted: str) -> Tensor | None:
        """Return the tensor shown at `wanted`; None if the run is past it or over.

        What is shown before and is not in the plan, or for the second time, is noted as extra.
        """
        while (shown := self._peek()) is not None:
            name, value = shown
            if name == wanted:
                self._taken = True
                return value
            if name not in self._unwatched:
                if self._place.get(name, -1) > self._place[wanted]:
                    return None
                self.extras.append(name)
            self._held = None
        return None

    def reply(self, value: Tensor) -> None:
        """Have the run go on with `value` instead of the tap last taken."""
        self._answer = value

    def let_go(self) -> None:
        """Have the run compute up to its next tap, if the last one was taken."""
        if self._taken:
            self._taps.answer(self._answer)
            self._held, self._taken, self._answer = None, False, None

    def finish(self) -> None:
        """Run to the end; whatever is still shown is extra."""
        while (shown := self._peek()) is not None:
            if shown[0] not in self._unwatched:
                self.extras.append(shown[0])
            self._held = None

    def close(self) -> None:
        """Abandon the run."""
        self._taps.close()

    def _peek(self) -> tuple[str, Tensor] | None:
        self.let_go()
        if self._held is None:
            self._held = next(self._taps, None)
        return self._held
