"""Several forward passes walked through together, tap by tap, each measured and let go.

The oracle leads. At every tap its value is the truth, and each subject's is measured against it;
in the float64 pass the reference's value is a second witness. In an isolated pass what goes on,
in the oracle and in every subject alike, is the truth rounded to the dtype: so each operation
meets the same clean input, and its error is its own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from parity.capture import Run, RunError
from parity.compare import Difference, Held, Status, visible_entries
from parity.cursor import Cursor
from parity.machine import shared_among
from parity.taps import Tap


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
        witness: Name of the subject that is a second witness to the others of its dtype.
        rounded_to: In an isolated pass, the dtype that the truth is rounded to.
        raw: Names of taps whose truth is left as it is, because no subject is given it.
        selected: Names of the taps to measure; all others are walked past.
    """

    oracle: Run
    subjects: Sequence[Subject]
    plan: Sequence[Tap]
    time: int
    mask: Tensor | None
    witness: str | None = None
    rounded_to: torch.dtype | None = None
    raw: frozenset[str] = frozenset()
    selected: frozenset[str]


Key = tuple[str, str, str]
"""(subject, tap, witness): `witness` is "oracle" or the witness's name."""


@dataclasses.dataclass
class Observations:
    """What a pass found: differences by key, taps nobody planned, runs that broke off."""

    differences: dict[Key, Difference] = dataclasses.field(default_factory=dict)
    extras: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)


Progress = Callable[[str], None]
"""Called with the name of each tap that has been measured."""
Look = Callable[[str, str, Tensor, Tensor], None]
"""Called with (subject, tap, tensor, truth) before both are let go: with every truth itself, as
subject `oracle`, and with every tensor that is measured."""


class OracleFailedError(RuntimeError):
    """The oracle did not show a tap that the plan has: a bug in this project."""


def walk(lockstep: Pass, *, progress: Progress, look: Look) -> Observations:
    """Walk through all forward passes together and measure every selected tap.

    Between two stages all runs compute at once. Not so for the logits, by far the largest: one
    subject's are gone before the next one's are made.
    """
    with shared_among(1 + len(lockstep.subjects)):
        return _walk(_Walker(lockstep, look), progress)


def _walk(walker: "_Walker", progress: Progress) -> Observations:
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

    def __init__(self, lockstep: Pass, look: Look) -> None:
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

        A run whose tensor nobody needs any more computes on while the next one is measured. Only
        the logits are too large for that: there, one run at a time is let ahead.
        """
        last = stage[0].name == "logits"
        one_by_one = last or stage[-1].name == self.last_before_logits
        if last:
            self._let_ahead(0)
        truths = {tap.name: self._truth(tap) for tap in stage}
        if not one_by_one:
            self._oracle.let_go()  # it never writes to what it has shown
        witnessed: dict[str, Held] = {}
        for place, subject in enumerate(self._pass.subjects):
            if last:
                self._let_ahead(place + 1)
            for tap in stage:
                self._visit(subject, tap, truths[tap.name], witnessed)
            if subject.name != self._pass.witness and (last or not one_by_one):
                self._cursors[subject.name].let_go()
        if not one_by_one:
            self.let_go()

    def _let_ahead(self, place: int) -> None:
        """Have the subject at this place compute up to its next tap."""
        for subject in self._pass.subjects[place : place + 1]:
            self._cursors[subject.name].let_go()

    def _visit(self, subject: Subject, tap: Tap, truth: Held, witnessed: dict[str, Held]) -> None:
        """Take one tensor of one subject, measure it, and say what the run goes on with."""
        if tap.name in subject.never_formed | subject.unwatched:
            return
        value = self._take(subject, tap.name)
        if value is None:
            return
        if tap.name in self._pass.selected:
            self._compare(subject, tap, value.cpu(), truth, witnessed)
            if subject.name == self._pass.witness:
                witnessed[tap.name] = self._held(tap, value.cpu())
        if self._pass.rounded_to is not None:
            self._cursors[subject.name].reply(truth.tensor.to(subject.device, subject.dtype))

    def _truth(self, tap: Tap) -> Held:
        """Return the oracle's value; in an isolated pass have it go on with the rounded one."""
        value = self._oracle.take(tap.name)
        if value is None:
            message = f"the oracle has no tap {tap.name}"
            raise OracleFailedError(message)
        self._look("oracle", tap.name, value, value)
        if self._pass.rounded_to is not None and tap.name not in self._pass.raw:
            self._oracle.reply(value.to(self._pass.rounded_to).double())
        return self._held(tap, value)

    def _held(self, tap: Tap, tensor: Tensor) -> Held:
        visible = visible_entries(tap.kind.axes, self._pass.mask, self._pass.time)
        return Held(tensor, visible)

    def _compare(
        self,
        subject: Subject,
        tap: Tap,
        value: Tensor,
        truth: Held,
        witnessed: Mapping[str, Held],
    ) -> None:
        """Measure one tensor against the truth, and where there is one against the witness."""
        references = {"oracle": truth}
        if tap.name in witnessed and subject.dtype == torch.float64:
            references[_side(self._pass.witness)] = witnessed[tap.name]
        for witness, reference in references.items():
            self.found.differences[subject.name, tap.name, witness] = reference.difference(
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
