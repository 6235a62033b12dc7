"""Several forward passes in lockstep, tap by tap; each tensor is measured and then freed.

The oracle comes first. At every tap its value is the truth, and each subject's is measured against
it; in the float64 pass Hugging Face's value is a second reference. In mode per-op the oracle and
every subject continue with the truth rounded to the dtype: each operation gets the same correct
input, and its error is its own.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from queue import SimpleQueue
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from parity.core.metrics import Difference, Reference, Status, visible_entries
from parity.core.taps import Axes, Tap, other_shape
from parity.errors import message_of
from parity.threads import split_threads

TapFunction = Callable[[str, Tensor], Tensor]
Run = Callable[[TapFunction], object]
"""Runs a forward pass, calling the tap at each named tensor."""


class RunError(Exception):
    """The model raised; the original error is the cause."""


class _AbandonedError(BaseException):
    """Ends a forward pass that is not needed any more; no `except Exception` catches it."""


_END = object()


class TapStream:
    """A forward pass in a thread of its own, stopped at every tap.

    It is an iterator of `(name, tensor)` with a generator's `send` and `close`. `answer` resumes
    the run without waiting for its next tap, so that several runs can compute at once. The tensor
    is the model's own: use it before the run resumes, and do not write to it. While it is measured
    the model waits, and cannot change it.
    """

    def __init__(self, run: Run) -> None:
        self._offers: SimpleQueue[object] = SimpleQueue()
        self._answers: SimpleQueue[object] = SimpleQueue()
        self._stopped = False
        self._ended = False
        self._worker = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._worker.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Tensor]:
        return self.send(None)

    def send(self, value: Tensor | None) -> tuple[str, Tensor]:
        """Resume the run with `value`, if it waits; return the next tap.

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
            offer = cast("BaseException", offer)
            message = f"{type(offer).__name__}: {message_of(offer)}"
            raise RunError(message) from offer
        self._stopped = True
        return cast("tuple[str, Tensor]", offer)

    def answer(self, value: Tensor | None) -> None:
        """Resume the run with `value`, or with its own tensor where that is None."""
        self._answers.put(value)
        self._stopped = False

    def close(self) -> None:
        """Abandon the run, and wait until it has ended."""
        self._ended = True
        self._answers.put(_END)
        self._worker.join()

    def _work(self, run: Run) -> None:
        try:
            # Settings of the thread, so they are made here. NumPy's warnings of infinities would
            # only repeat the row that reports them.
            with torch.no_grad(), np.errstate(all="ignore"):
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
            self._answers.put(_END)  # for a model that swallows the error and goes on
            raise _AbandonedError
        return value if answer is None else cast("Tensor", answer)


def capture(run: Run) -> dict[str, Tensor]:
    """Return a clone of every tap of one forward pass, in order.

    Raises:
        ValueError: A name came twice.
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


class Cursor:
    """Follows one run along the plan, one tap at a time."""

    def __init__(self, run: Run, plan: Sequence[str], unwatched: frozenset[str]) -> None:
        self.extras: list[str] = []
        self._taps = TapStream(run)
        self._place = {name: place for place, name in enumerate(plan)}
        self._unwatched = unwatched
        self._held: tuple[str, Tensor] | None = None
        self._taken = False
        self._answer: Tensor | None = None

    def take(self, wanted: str) -> Tensor | None:
        """Return the tensor at `wanted`; None if the run is past it or over.

        A tap before it that is not in the plan, or comes for the second time, is noted as extra.
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
        """Have the run continue with `value` instead of the tap last taken."""
        self._answer = value

    def resume(self) -> None:
        """Have the run compute up to its next tap, if the last one was taken."""
        if self._taken:
            self._taps.answer(self._answer)
            self._held, self._taken, self._answer = None, False, None

    def finish(self) -> None:
        """Run to the end; further taps are extra."""
        while (shown := self._peek()) is not None:
            if shown[0] not in self._unwatched:
                self.extras.append(shown[0])
            self._held = None

    def close(self) -> None:
        """Abandon the run."""
        self._taps.close()

    def _peek(self) -> tuple[str, Tensor] | None:
        self.resume()
        if self._held is None:
            self._held = next(self._taps, None)
        return self._held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One forward pass to be measured.

    Attributes:
        dtype: The dtype that every tap must have.
        never_formed: Names of taps that its backend does not form.
        unwatched: Names of taps that it has and that are not measured in this pass.
    """

    name: str
    run: Run
    dtype: torch.dtype
    device: torch.device
    never_formed: frozenset[str] = frozenset()
    unwatched: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """Forward passes to run in lockstep.

    Attributes:
        oracle: Runs the oracle; every tap is float64.
        subjects: In the order in which they are measured.
        plan: The taps, in network order.
        time: Length of the rows, in tokens.
        mask: `[batch time]`, bool; None without padding.
        against: Name of the subject that is a second reference for the others of its dtype.
        rounded_to: In mode per-op, the dtype that the truth is rounded to.
        raw: Names of taps whose truth is not rounded, because no subject gets it.
        selected: Names of the taps to measure.
    """

    oracle: Run
    subjects: Sequence[Subject]
    plan: Sequence[Tap]
    time: int
    mask: Tensor | None
    against: str | None = None
    rounded_to: torch.dtype | None = None
    raw: frozenset[str] = frozenset()
    selected: frozenset[str]


@dataclasses.dataclass
class Observations:
    """Result of a pass.

    Attributes:
        differences: By subject, tap and reference, which is "oracle" or "huggingface".
        extras: Unexpected taps of each run.
        broken: What a run raised.
        last: The last tap that was taken of each run.
    """

    differences: dict[tuple[str, str, str], Difference] = dataclasses.field(default_factory=dict)
    extras: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    broken: dict[str, BaseException] = dataclasses.field(default_factory=dict)
    last: dict[str, str] = dataclasses.field(default_factory=dict)


TapCallback = Callable[[str, str, Tensor, Tensor], None]
"""Called with (subject, tap, tensor, truth) before both are freed: with every truth itself, as
subject `oracle`, and with every tensor that is measured."""


class OracleFailedError(RuntimeError):
    """The oracle lacks a tap of the plan: a bug in this project."""


def walk_in_lockstep(
    lockstep: Pass, *, progress: Callable[[str], None], look: TapCallback
) -> Observations:
    """Run all forward passes in lockstep and measure every selected tap; report each to `progress`.

    A stage is one tap, or logits and loss together. Between two stages all runs compute at once.
    Not so for the logits, by far the largest: one subject's are freed before the next one's are
    made.
    """
    last = [tap for tap in lockstep.plan if tap.name in ("logits", "loss")]
    stages = [*([tap] for tap in lockstep.plan if tap not in last), last]
    with split_threads(1 + len(lockstep.subjects)):
        walker = _Walker(lockstep, look)
        try:
            for stage in stages:
                walker.measure(stage)
                for tap in stage:
                    progress(tap.name)
            walker.finish()
        finally:
            walker.close()
    return walker.found


class _Walker:
    """The state of one lockstep run: a cursor on every pass, and the observations so far."""

    def __init__(self, lockstep: Pass, look: TapCallback) -> None:
        names = [tap.name for tap in lockstep.plan]
        self.found = Observations()
        self._before_logits = next(
            (name for name, after in pairwise(names) if after == "logits"), None
        )
        self._pass = lockstep
        self._visible = {axes: visible_entries(axes, lockstep.mask, lockstep.time) for axes in Axes}
        self._look = look
        self._oracle = Cursor(lockstep.oracle, names, frozenset())
        self._cursors = {
            subject.name: Cursor(subject.run, names, subject.unwatched)
            for subject in lockstep.subjects
        }

    def measure(self, stage: Sequence[Tap]) -> None:
        """Bring every run up to the end of `stage`, and measure.

        A run whose tensor is not needed any more continues while the next one is measured. Only
        the logits are too large for that: there, one run at a time continues.
        """
        last = stage[0].name == "logits"
        one_by_one = last or stage[-1].name == self._before_logits
        if last:
            self._resume(0)
        truths = {tap.name: self._truth(tap) for tap in stage}
        if not one_by_one:
            self._oracle.resume()  # it never writes to a tensor after its tap
        second: dict[str, Reference] = {}
        for place, subject in enumerate(self._pass.subjects):
            if last:
                self._resume(place + 1)
            for tap in stage:
                self._visit(subject, tap, truths[tap.name], second)
            if subject.name != self._pass.against and (last or not one_by_one):
                self._cursors[subject.name].resume()
        if not one_by_one:
            for cursor in self._cursors.values():
                cursor.resume()

    def _resume(self, place: int) -> None:
        """Have the subject at this place, if there is one, compute up to its next tap."""
        for subject in self._pass.subjects[place : place + 1]:
            self._cursors[subject.name].resume()

    def _visit(
        self, subject: Subject, tap: Tap, truth: Reference, second: dict[str, Reference]
    ) -> None:
        """Take one tensor of one subject, measure it, and set what the run continues with."""
        if tap.name in subject.never_formed | subject.unwatched:
            return
        value = self._take(subject, tap.name)
        if value is None:
            return
        if tap.name in self._pass.selected:
            self._compare(subject, tap, value.cpu(), truth, second)
            if subject.name == self._pass.against:
                second[tap.name] = self._held(tap, value.cpu())
        if self._pass.rounded_to is not None:
            self._cursors[subject.name].reply(truth.tensor.to(subject.device, subject.dtype))

    def _truth(self, tap: Tap) -> Reference:
        """Return the oracle's value; in mode per-op continue with the rounded one."""
        value = self._oracle.take(tap.name)
        if value is None:
            message = f"the oracle has no tap {tap.name}"
            raise OracleFailedError(message)
        self._look("oracle", tap.name, value, value)
        if self._pass.rounded_to is not None and tap.name not in self._pass.raw:
            self._oracle.reply(value.to(self._pass.rounded_to).double())
        return self._held(tap, value)

    def _held(self, tap: Tap, tensor: Tensor) -> Reference:
        return Reference(tensor, self._visible[tap.kind.axes])

    def _compare(
        self,
        subject: Subject,
        tap: Tap,
        value: Tensor,
        truth: Reference,
        second: Mapping[str, Reference],
    ) -> None:
        """Measure one tensor against the truth and, if there is one, the second reference."""
        references = {"oracle": truth}
        if tap.name in second and subject.dtype == torch.float64:
            side = str(self._pass.against).partition("/")[0]
            references[side] = second[tap.name]
        expected = truth.tensor.shape
        for against, reference in references.items():
            seen = reference.difference(value, dtype=subject.dtype)
            if seen.status is Status.SHAPE:
                seen = dataclasses.replace(seen, detail=other_shape(tap, value.shape, expected))
            self.found.differences[subject.name, tap.name, against] = seen
        if value.shape == expected:
            self._look(subject.name, tap.name, value, truth.tensor)

    def _take(self, subject: Subject, tap: str) -> Tensor | None:
        """Return the subject's tensor, or None after noting why there is none."""
        absent = Difference(status=Status.MISSING, detail="this tap was never shown")
        if subject.name not in self.found.broken:
            try:
                value: Tensor | None = self._cursors[subject.name].take(tap)
            except RunError as error:
                self.found.broken[subject.name] = error.__cause__ or error
            else:
                if value is not None:
                    self.found.last[subject.name] = tap
                    return value
        if subject.name in self.found.broken:
            cause = self.found.broken[subject.name]
            detail = f"the run broke off: {type(cause).__name__}: {message_of(cause)}"
            absent = Difference(status=Status.NOT_RUN, detail=detail)
        self.found.differences[subject.name, tap, "oracle"] = absent
        return None

    def finish(self) -> None:
        """Let every run come to its end, and note its taps beyond the plan."""
        for name, cursor in self._cursors.items():
            if name not in self.found.broken:
                try:
                    cursor.finish()
                except RunError as error:
                    self.found.broken[name] = error.__cause__ or error
            if cursor.extras:
                self.found.extras[name] = cursor.extras

    def close(self) -> None:
        for cursor in (self._oracle, *self._cursors.values()):
            cursor.close()
