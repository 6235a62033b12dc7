"""Several forward passes walked through together, tap by tap, each measured and let go.

The oracle leads. At every tap its value is the truth, and each subject's is measured against it;
in the float64 pass the reference's value is a second reference. In mode per-op what goes on,
in the oracle and in every subject alike, is the truth rounded to the dtype: so each operation
meets the same clean input, and its error is its own.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from queue import SimpleQueue
from typing import Self, cast

import torch
from torch import Tensor

from parity.core.metrics import Difference, Reference, Status, visible_entries
from parity.core.taps import Tap
from parity.threads import split_threads

# A forward pass as a stream of taps.
#
# `stream` runs the model in a thread of its own and stops it at every tap until it is answered. So
# several models can be walked through in lockstep, one tensor of each alive at a
# time; and while a tensor is looked at, the model that made it stands still and cannot change it.
# `capture` collects clones instead, for use without lockstep.


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


# One run followed along a plan, tap by tap.


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One forward pass to be measured.

    Attributes:
        name: Shown while it runs and in errors.
        run: Runs it.
        dtype: The dtype that every tap must have.
        device: Where it runs.
        never_formed: Names of taps that this path does not have.
        unwatched: Names of taps that it shows and that are not to be measured in this pass.
    """

    name: str
    run: Run
    dtype: torch.dtype
    device: torch.device
    never_formed: frozenset[str] = frozenset()
    unwatched: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """What to walk through.

    Attributes:
        oracle: Runs the oracle; every tap is float64.
        subjects: In the order in which they are measured.
        plan: The taps, in network order.
        time: Length of the rows, in tokens.
        mask: `[batch time]`, bool; None without padding.
        against: Name of the subject that is a second witness to the others of its dtype.
        rounded_to: In mode per-op, the dtype that the truth is rounded to.
        raw: Names of taps whose truth is left as it is, because no subject is given it.
        selected: Names of the taps to measure; all others are walked past.
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


Key = tuple[str, str, str]
"""(subject, tap, witness): `witness` is "oracle" or the witness's name."""


@dataclasses.dataclass
class Observations:
    """Result of a pass: differences by key, unexpected taps, failed runs."""

    differences: dict[Key, Difference] = dataclasses.field(default_factory=dict)
    extras: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)


TapProgress = Callable[[str], None]
"""Called with the name of each tap that has been measured."""
TapCallback = Callable[[str, str, Tensor, Tensor], None]
"""Called with (subject, tap, tensor, truth) before both are let go: with every truth itself, as
subject `oracle`, and with every tensor that is measured."""


class OracleFailedError(RuntimeError):
    """The oracle did not show a tap that the plan has: a bug in this project."""


def walk_in_lockstep(lockstep: Pass, *, progress: TapProgress, look: TapCallback) -> Observations:
    """Walk through all forward passes together and measure every selected tap.

    Between two stages all runs compute at once. Not so for the logits, by far the largest: one
    subject's are gone before the next one's are made.
    """
    with split_threads(1 + len(lockstep.subjects)):
        return _walk(_Walker(lockstep, look), progress)


def _walk(walker: "_Walker", progress: TapProgress) -> Observations:
    try:
        for stage in _stages(walker.plan):
            walker.measure(stage)
            for tap in stage:
                progress(tap.name)
        walker.finish()
    finally:
        walker.close()
    return walker.found


def _stages(plan: Sequence[Tap]) -> list[list[Tap]]:
    """Return the plan, one tap a stage, logits and loss together."""
    body = [[tap] for tap in plan if tap.name not in ("logits", "loss")]
    return [*body, [tap for tap in plan if tap.name in ("logits", "loss")]]


class _Walker:
    """The state of one walk: a cursor on every run, and what was found so far."""

    def __init__(self, lockstep: Pass, look: TapCallback) -> None:
        names = [tap.name for tap in lockstep.plan]
        self.found = Observations()
        self.plan = lockstep.plan
        self.last_before_logits = next(
            (name for name, after in pairwise(names) if after == "logits"), None
        )
        self._pass = lockstep
        self._look = look
        self._oracle = Cursor(lockstep.oracle, names, frozenset())
        self._cursors = {
            subject.name: Cursor(subject.run, names, subject.unwatched)
            for subject in lockstep.subjects
        }

    def measure(self, stage: Sequence[Tap]) -> None:
        """Bring every run up to the end of `stage`, and measure.

        A run whose tensor is not needed any more continues while the next one is measured. Only
        the logits are too large for that: there, one run at a time is let ahead.
        """
        last = stage[0].name == "logits"
        one_by_one = last or stage[-1].name == self.last_before_logits
        if last:
            self._let_ahead(0)
        truths = {tap.name: self._truth(tap) for tap in stage}
        if not one_by_one:
            self._oracle.let_go()  # it never writes to what it has shown
        witnessed: dict[str, Reference] = {}
        for place, subject in enumerate(self._pass.subjects):
            if last:
                self._let_ahead(place + 1)
            for tap in stage:
                self._visit(subject, tap, truths[tap.name], witnessed)
            if subject.name != self._pass.against and (last or not one_by_one):
                self._cursors[subject.name].let_go()
        if not one_by_one:
            self.let_go()

    def _let_ahead(self, place: int) -> None:
        """Have the subject at this place compute up to its next tap."""
        for subject in self._pass.subjects[place : place + 1]:
            self._cursors[subject.name].let_go()

    def _visit(
        self, subject: Subject, tap: Tap, truth: Reference, witnessed: dict[str, Reference]
    ) -> None:
        """Take one tensor of one subject, measure it, and say what the run goes on with."""
        if tap.name in subject.never_formed | subject.unwatched:
            return
        value = self._take(subject, tap.name)
        if value is None:
            return
        if tap.name in self._pass.selected:
            self._compare(subject, tap, value.cpu(), truth, witnessed)
            if subject.name == self._pass.against:
                witnessed[tap.name] = self._held(tap, value.cpu())
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
        visible = visible_entries(tap.kind.axes, self._pass.mask, self._pass.time)
        return Reference(tensor, visible)

    def _compare(
        self,
        subject: Subject,
        tap: Tap,
        value: Tensor,
        truth: Reference,
        witnessed: Mapping[str, Reference],
    ) -> None:
        """Measure one tensor against the truth, and where there is one against the witness."""
        references = {"oracle": truth}
        if tap.name in witnessed and subject.dtype == torch.float64:
            references[_side(self._pass.against)] = witnessed[tap.name]
        for against, reference in references.items():
            self.found.differences[subject.name, tap.name, against] = reference.difference(
                value, dtype=subject.dtype
            )
        self._look(subject.name, tap.name, value, truth.tensor)

    def _take(self, subject: Subject, tap: str) -> Tensor | None:
        """Return the subject's tensor, or None after noting why there is none."""
        absent = Difference(status=Status.MISSING, detail="this tap was never shown")
        if subject.name not in self.found.broken:
            try:
                value: Tensor | None = self._cursors[subject.name].take(tap)
            except RunError as error:
                self.found.broken[subject.name] = str(error)
            else:
                if value is not None:
                    return value
        if subject.name in self.found.broken:
            detail = f"the run broke off: {self.found.broken[subject.name]}"
            absent = Difference(status=Status.NOT_RUN, detail=detail)
        self.found.differences[subject.name, tap, "oracle"] = absent
        return None

    def let_go(self) -> None:
        """Have every run compute up to its next tap."""
        for cursor in (self._oracle, *self._cursors.values()):
            cursor.let_go()

    def finish(self) -> None:
        """Let every run come to its end, and note what it showed beyond the plan."""
        for name, cursor in self._cursors.items():
            if name not in self.found.broken:
                try:
                    cursor.finish()
                except RunError as error:
                    self.found.broken[name] = str(error)
            if cursor.extras:
                self.found.extras[name] = cursor.extras

    def close(self) -> None:
        """Abandon whatever still runs."""
        for cursor in (self._oracle, *self._cursors.values()):
            cursor.close()


def _side(subject: str | None) -> str:
    """Return whose run a subject is: the part of its name before the first slash."""
    return str(subject).partition("/")[0]
