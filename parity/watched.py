"""Judge a model that shows no taps: find the reference's tensors in it, and name its mistakes.

A reference run is a list of named tensors; nothing here is about GPT-1. Where the candidate departs
from it, an explainer may name the mistake. What follows then runs on the reference's numbers, so
that the next mistake shows as well.
"""

import contextlib
import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Protocol

import torch
from torch import Tensor, nn

from parity.align import (
    TOLERANCE,
    Alignment,
    Cuts,
    Departure,
    Layout,
    Place,
    Slot,
    Target,
    departures,
    events_before,
    find_activations,
    find_layout,
    fitting,
    is_canonical,
    write_target,
)
from parity.core.candidates import PreparedCandidate, Profile, broken, rebuilt
from parity.core.inputs import Inputs
from parity.core.lockstep import TapFunction
from parity.core.patterns import pattern
from parity.errors import InconclusiveError
from parity.watch import Event, Number, Site, Trace, leaves_of, replay, watch
from parity.watch.calling import Way, logits_in
from parity.watch.trace import Visit, one_run_at_a_time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """A mistake that reproduces tensors of the candidate.

    Attributes:
        name: Of the mistake.
        what: The mistake, in a phrase.
        right: What the reference does instead, in a clause.
        fix: As code, if it can be.
        targets: The targets that the mistake changes, with the values that it gives them.
    """

    name: str
    what: str
    right: str
    fix: str
    targets: Sequence[Target]


class Explainer(Protocol):
    """Names the mistakes of one architecture."""

    def explain(
        self, names: Sequence[str], events: Sequence[Event], expected: Mapping[str, Target]
    ) -> Explanation | None:
        """Return the mistake by which events come about instead of the targets of some names.

        The names are in one segment. `expected` has all targets, with the mistakes known so far.
        """

    def reject(self, name: str) -> None:
        """Forget the last mistake of a target's segment: its tensors are not the candidate's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """One departure from the reference, and what it comes from.

    Attributes:
        target: The first tensor that differs.
        event: The operation that made something else; None if no operation took the inputs.
        sites: The line at fault, or two lines between which an operation is missing.
        explanation: None if no known mistake reproduces the candidate's tensors.
        reproduced: Largest difference between the candidate's tensor and what the mistake gives,
            over the reference's RMS.
        gap: The same between the mistake and the right operation.
        hint: What the numbers show without an explanation.
    """

    target: str
    event: Event | None
    sites: tuple[Site, ...] = ()
    explanation: Explanation | None = None
    reproduced: float | None = None
    gap: float | None = None
    hint: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a candidate does on some inputs.

    Attributes:
        places: Where each target is; with a mistake, where the mistake's tensor is.
        narrow: Where a dtype narrower than float64 moved a target: the operation and its site.
        mistakes: In the order of the network.
        unseen: Why nothing behind some mistake was compared; "" if everything was.
        layout: How the candidate arranges its logits; "" for `[batch time vocab]`.
        trace: The run, on the reference's numbers behind each segment with a mistake.
    """

    places: Mapping[str, Sequence[Place]]
    narrow: Mapping[str, Event]
    mistakes: Sequence[Mistake]
    unseen: str
    layout: str
    trace: Trace


_ROUNDS = 24
"""Of naming one mistake in each segment; a segment rarely has more than two."""


def judge(
    model: nn.Module,
    way: Way,
    inputs: Inputs,
    targets: Sequence[Target],
    explainer: Explainer | None = None,
) -> Judgement:
    """Find a reference run's tensors in a candidate in float64, and its mistakes.

    Args:
        model: The candidate in float64, in evaluation mode.
        way: How it is called.
        inputs: The reference's.
        targets: The reference run in network order; the last one is the logits
            `[batch time vocab]`. Names of one block have its number between dots.
        explainer: Names mistakes; without one they are only placed.

    Raises:
        InconclusiveError: Two runs of the candidate differ, or it returns no logits.
    """
    return _Judge(model, way, inputs, targets, explainer).judgement()


class _Judge:
    """The state of one judgement.

    The reference's values are `right`. Those of `expected` have the mistakes that are known so far:
    in a segment with a mistake, the candidate should have these.
    """

    def __init__(
        self,
        model: nn.Module,
        way: Way,
        inputs: Inputs,
        targets: Sequence[Target],
        explainer: Explainer | None,
    ) -> None:
        self._model, self._inputs, self._explainer = model, inputs, explainer
        self._way = way
        self._right = {target.name: target for target in targets}
        self._expected = dict(self._right)
        self._last = targets[-1]
        self._segments = segments_of(list(self._right))
        self._cuts: dict[Number, tuple[Target, Place]] = {}
        self._mistakes: dict[str, Mistake] = {}
        self._trial: list[tuple[str, Explanation]] = []
        self._layout = ""

    def _run(self) -> object:
        """Run the candidate; what it raises becomes one message with its line."""
        try:
            return self._way.call(self._model, self._inputs)
        except InconclusiveError:
            raise
        except (Exception, SystemExit) as error:
            time = self._inputs.token_ids.shape[1]
            raise broken(error, after=f"the start, on {time} tokens") from error

    def judgement(self) -> Judgement:
        """Return what was found, after as many rounds as there are mistakes in a segment."""
        trace = watch(self._model, self._run)
        alignment = self._aligned(trace, first=True)
        if alignment.narrow or not _same(trace.result, alignment.result):
            check_repeatable(trace, watch(self._model, self._run))
        if self._departed(trace, alignment):
            alignment = self._aligned(trace)
        unseen = ""
        for _ in range(_ROUNDS):
            if not (self._reject(alignment) or self._explain(trace, alignment)):
                open_ = self._open()
                outputs = {segment: name for name, segment in self._segments.items()}
                added = dict(
                    _cuts(trace, alignment, open_, outputs, self._right, self._mistakes.values())
                )
                if not added:
                    behind = ", ".join(outputs[one] for one in sorted(open_))
                    unseen = f"what is behind {behind}" if open_ else ""
                    break
                self._cuts |= added
                trace = watch(self._model, self._run, _writing(self._cuts))
            alignment = self._aligned(trace)
        self._hint(trace)
        order = list(self._right)
        return Judgement(
            places=alignment.found,
            narrow=dict(_narrow(trace, alignment)),
            mistakes=sorted(
                (_measured(one, alignment) for one in self._mistakes.values()),
                key=lambda one: order.index(one.target),
            ),
            unseen=unseen,
            layout=self._layout,
            trace=trace,
        )

    def _aligned(self, trace: Trace, *, first: bool = False) -> Alignment:
        """Return where the expected tensors are; the logits are those that the model returns."""
        alignment = find_activations(
            trace,
            list(self._expected.values()),
            lambda visit: replay(self._model, self._run, visit),
            self._cuts,
            first=first,
        )
        target = self._expected[self._last.name]
        logits = logits_in(
            alignment.result, self._inputs.token_ids, target.value.shape[-1], self._way.layout
        )
        self._layout = logits.layout
        found = {name: places for name, places in alignment.found.items() if name != target.name}
        value = target.value[:, -logits.tensor.shape[1] :]
        layout, error = find_layout(logits.tensor, value, limit=alignment.limit)
        if layout is not None:
            leaves = zip(leaves_of(alignment.result), leaves_of(trace.result), strict=False)
            made = [trace.made.get(id(then)) for now, then in leaves if now is logits.raw]
            number = next((one for one in made if one is not None), (-1, 0))
            found[target.name] = [Place(number=number, layout=layout, part=None, error=error)]
        return dataclasses.replace(alignment, found=found)

    def _reject(self, alignment: Alignment) -> bool:
        """Take explanations back whose fingerprints were alike, but not their elements."""
        wrong = [
            (key, explanation)
            for key, explanation in self._trial
            if not self._confirms(alignment, explanation)
        ]
        for key, explanation in wrong:
            del self._mistakes[key]
            name = explanation.targets[0].name
            for target in explanation.targets:
                self._expected[target.name] = self._right[target.name]
            for other in self._mistakes.values():
                if other.explanation and self._segments[other.target] == self._segments[name]:
                    self._expected |= {one.name: one for one in other.explanation.targets}
            if self._explainer is not None:
                self._explainer.reject(name)
        self._trial = []
        return bool(wrong)

    def _confirms(self, alignment: Alignment, explanation: Explanation) -> bool:
        """Return whether the candidate has a tensor that an explanation gives.

        A tensor that the reference has elsewhere proves nothing, if there are others.
        """
        right = [target.value for target in self._right.values()]
        fresh = [
            target
            for target in explanation.targets
            if not any(torch.equal(target.value, value) for value in right)
        ]
        return any(one.name in alignment.found for one in fresh or explanation.targets)

    def _sites(
        self, event: Event | None, target: Target, trace: Trace, alignment: Alignment
    ) -> tuple[Site, ...]:
        """Return the line at fault.

        If a right tensor stands for the target as it is, an operation is missing behind it.
        """
        if event is None:
            return ()
        for name, places in alignment.found.items():
            if torch.equal(self._right[name].value, target.value):
                numbers = {place.number for place in places}
                made = [e for e in trace.events if e.number in numbers and not e.shares]
                return _between(made, event)
        return event.stack[:1]

    def _hint(self, trace: Trace) -> None:
        """Say what the numbers show where no explanation was found.

        Of the tensors that follow the operation and have the target's shape, the nearest one stands
        for the target.
        """
        wanted: dict[Number, list[str]] = defaultdict(list)
        for key, mistake in self._mistakes.items():
            if mistake.explanation is not None or mistake.event is None:
                continue
            target = self._right[mistake.target]
            behind = [event for event in trace.events if event.number >= mistake.event.number]
            for event in [one for one in behind if fitting(one, target)][:_NEAR]:
                wanted[event.number].append(key)
        nearest: dict[str, tuple[float, str]] = {}

        def visit(number: Number, tensor: Tensor) -> None:
            for key in wanted.get(number, ()):
                target = self._right[self._mistakes[key].target]
                found = hint_for(tensor, target, self._inputs.token_ids)
                nearest[key] = min(nearest.get(key, found), found)

        if wanted:
            replay(self._model, self._run, visit)
        for key, (_, hint) in nearest.items():
            self._mistakes[key] = dataclasses.replace(self._mistakes[key], hint=hint)

    def _open(self) -> set[str]:
        """Return the segments with mistakes behind which nothing has right inputs yet."""
        cut = {self._segments[target.name] for target, _ in self._cuts.values()}
        wrong = {self._segments[one.target] for one in self._mistakes.values()}
        return wrong - cut - {self._segments[self._last.name]}

    def _departed(self, trace: Trace, alignment: Alignment) -> dict[str, list[Departure]]:
        """Return the new departures by segment, those alone whose segment has right inputs."""
        leading = events_before(trace, alignment, self._cuts)
        departed = departures(trace, list(self._expected.values()), alignment, self._cuts, leading)
        open_ = self._open()
        groups: dict[str, list[Departure]] = defaultdict(list)
        for one in departed:
            segment = self._segments[one.target]
            if one.target not in self._mistakes and (not open_ or segment in open_):
                groups[segment].append(one)
        return groups

    def _explain(self, trace: Trace, alignment: Alignment) -> bool:
        """Note the mistake at each new departure; return whether there was one."""
        groups = self._departed(trace, alignment)
        leading = events_before(trace, alignment, self._cuts) if groups else set()
        others = [event for event in trace.events if event.number not in leading]
        for group in groups.values():
            names = [one.target for one in group]
            found = None
            if self._explainer is not None:
                found = self._explainer.explain(names, others, self._expected)
            changed = {tap_of(target.name): target for target in found.targets} if found else {}
            for one in group:
                if tap_of(one.target) not in changed and (found is None or one is not group[0]):
                    sites = one.event.stack[:1] if one.event else ()
                    self._mistakes[one.target] = Mistake(
                        target=one.target, event=one.event, sites=sites
                    )
            if found is not None:
                # A model may not form the tensor that departs, but the next one.
                here = [one for one in group if tap_of(one.target) in changed]
                first = (here or group)[0]
                target = changed.get(tap_of(first.target), found.targets[0])
                key = f"{target.name} {found.name}"  # a target may differ for two reasons
                self._trial.append((key, found))
                self._mistakes[key] = Mistake(
                    target=target.name,
                    event=first.event,
                    sites=self._sites(first.event, target, trace, alignment),
                    explanation=found,
                    gap=_gap(target, self._right[target.name]),
                )
                self._expected |= {one.name: one for one in found.targets}
        return bool(groups)


_NEAR = 8
"""Tensors behind a wrong operation that may stand for its target."""


def hint_for(tensor: Tensor, target: Target, token_ids: Tensor) -> tuple[float, str]:
    """Return how far a candidate's tensor is from a target, over its RMS, and in which way."""
    best: tuple[float, Tensor] | None = None
    for order in permutations(range(target.value.ndim)):
        layout = Layout(order, tuple(target.value.shape))
        if is_canonical([target.value.shape[axis] for axis in order], tensor.shape):
            value = layout.restore(tensor.detach().double())
            gap = float((value - target.value)[target.counts()].abs().mean())
            if best is None or not best[0] <= gap:
                best = gap, value
    if best is None:
        return math.inf, ""
    value, counts = best[1], target.counts()
    right = target.value[counts]
    rms = right.square().mean().sqrt()
    gaps = (value - target.value).abs().masked_fill(~counts, 0.0) / rms
    words = list(_relations(value, target, gaps, token_ids, float(rms)))
    largest = float(gaps.nan_to_num(math.inf).max())
    return largest, "; ".join([f"the nearest tensor differs by {largest:.1g} of the RMS", *words])


def _relations(
    value: Tensor, target: Target, gaps: Tensor, token_ids: Tensor, rms: float
) -> Iterator[str]:
    """Yield what a wrong tensor and the right one have in common."""
    if not bool(value.isfinite().all()):
        yield f"{int((~value.isfinite()).sum()):,} of its elements are not finite"
        return
    right = target.value
    counts = target.counts()
    if right.ndim == 3 and right.shape[:2] == token_ids.shape:  # noqa: PLR2004 - batch time width
        shift = value - right
        if float((shift - shift[:1, :1]).abs().max()) <= TOLERANCE * rms:
            yield "it differs by the same vector at every token, as by a bias"
            return
        equal = (gaps <= TOLERANCE).all(-1)
        if bool(equal.any()):
            others = token_ids[~equal.to(token_ids.device)].tolist()
            listed = ", ".join(map(str, others[:_LISTED])) + ", ..." * (len(others) > _LISTED)
            count = f"{int(equal.sum())} of {equal.numel()}"
            yield f"{count} rows are equal; the others are ids {listed}"
            return
    yield from filter(None, pattern(value, right, names=(), visible=counts, within=TOLERANCE))


_LISTED = 6
"""Ids that a hint lists."""


def _narrow(trace: Trace, alignment: Alignment) -> Iterator[tuple[str, Event]]:
    """Yield each target that a narrower dtype moved, with the last operation in one before it."""
    last: Event | None = None
    for event in trace.events:
        last = event if event.narrow is not None else last
        if last is not None and event.number in alignment.narrow:
            yield alignment.narrow[event.number], last


def segments_of(names: Sequence[str]) -> dict[str, str]:
    """Return the part of the network that each target is in: `start`, a block's number, or `end`.

    The number of the block is the first whole number between dots, or a dot and a colon.
    """
    segments, last = {}, "start"
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=[.:])", f".{name}.")
        if number is not None:
            last = number.group()
        elif last != "start":
            last = "end"
        segments[name] = last
    return segments


def tap_of(name: str) -> str:
    """Return the tap that a target is, or is a step of: `h.0.attn.scores (product)`."""
    return name.partition(" (")[0]


def _same(one: object, other: object) -> bool:
    pairs = zip(leaves_of(one), leaves_of(other), strict=False)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def check_repeatable(first: Trace, second: Trace) -> None:
    """Require that two runs make the same tensors.

    Raises:
        InconclusiveError: They do not; the message has the operation that draws random numbers.
    """
    pairs = zip(first.events, second.events, strict=False)
    different = (one for one, other in pairs if repr(one.fingerprint) != repr(other.fingerprint))
    differing = next(different, None)  # repr, as NaN equals nothing
    if len(first.events) == len(second.events) and differing is None:
        return
    random = next((event for event in first.events if event.is_random), differing)
    raise InconclusiveError(
        "two runs of the candidate on the same ids differ",
        where=described(random) if random is not None else "its number of operations",
        fix="leave dropout off in evaluation: F.dropout(x, p, training=self.training)",
    )


def described(event: Event, sites: Sequence[Site] = ()) -> str:
    """Return where an operation is and what it is: `blocks.3.mlp, my_gpt.py:57, gelu`."""
    operation = event.operation.removeprefix("torch.nn.").removeprefix("torch.")
    line = f"{sites[0]} to {sites[1].line}" if len(set(sites)) > 1 else event.site
    return ", ".join(part for part in (event.module, line, operation) if part)


def _between(events: Sequence[Event], event: Event) -> tuple[Site, ...]:
    """Return two lines of one function: one made a tensor, and the next one takes it.

    Between them an operation is missing. It is the innermost function that both are called from.
    """
    for made in reversed(events):
        functions = {(site.file, site.function): site for site in reversed(made.stack)}
        for site in event.stack:
            if (first := functions.get((site.file, site.function))) is not None:
                return first, site
    return event.stack[:1]


def _gap(wrong: Target, right: Target) -> float | None:
    """Return the largest difference of two values over the RMS of the right one."""
    if wrong.value.shape != right.value.shape:
        return None
    gaps = (wrong.value - right.value).abs()
    counts = right.counts()
    rms = right.value[counts].square().mean().sqrt()
    return float(gaps[counts].max() / rms)


def _measured(mistake: Mistake, alignment: Alignment) -> Mistake:
    places = alignment.found.get(mistake.target)
    if mistake.explanation is None or not places:
        return mistake
    return dataclasses.replace(mistake, reproduced=min(place.error for place in places))


def _writing(cuts: Cuts) -> Visit:
    """Return a visit that replaces the tensors at cuts."""

    def visit(number: Number, tensor: Tensor) -> None:
        if number in cuts:
            target, place = cuts[number]
            write_target(tensor, target, place)

    return visit


def _cuts(  # noqa: PLR0913 - what is known of a run
    trace: Trace,
    alignment: Alignment,
    wrong: Collection[str],
    outputs: Mapping[str, str],
    right: Mapping[str, Target],
    mistakes: Iterable[Mistake],
) -> Iterator[tuple[Number, tuple[Target, Place]]]:
    """Yield events to replace, so that what follows some wrong segments gets right inputs.

    A block's output is known if it was found, also as a mistake has it. If not, another block's
    is, or the output of the module that the block is. The same operation of the other blocks is
    theirs.
    """
    blocks = [segment for segment in outputs if segment.isdigit()]
    for segment in sorted(wrong):
        name = outputs[segment]
        known = {one: alignment.found.get(outputs[one], ()) for one in (segment, *blocks)}
        near = next((one for one, places in known.items() if places), None)
        if near is not None and (near == segment or segment in blocks):
            places = {near: known[near][0]}
        elif place := _output_of_module(trace, right[name], mistakes):
            near, places = segment, {segment: place}
        else:
            continue
        if segment not in blocks:
            yield places[near].number, (right[name], places[near])
            continue
        for block, number in _same_in_blocks(trace, places[near].number, near, blocks).items():
            target = right[outputs[block]]
            yield number, (target, dataclasses.replace(places[near], number=number))


def _same_in_blocks(
    trace: Trace, number: Number, block: str, blocks: Sequence[str]
) -> dict[str, Number]:
    """Return the event that each block has in place of one block's; that one alone if unclear."""

    def kind(event: Event) -> tuple[object, ...]:
        module = re.sub(r"\d+", "#", event.module)
        return event.kernel, event.site, module, event.shape, event.number[1]

    (one,) = (event for event in trace.events if event.number == number)
    alike = [event.number for event in trace.events if kind(event) == kind(one)]
    times, rest = divmod(len(alike), len(blocks))
    offset = alike.index(number) - blocks.index(block) * times
    if rest or not 0 <= offset < times:
        return {block: number}
    return {other: alike[at * times + offset] for at, other in enumerate(blocks)}


def _output_of_module(trace: Trace, target: Target, mistakes: Iterable[Mistake]) -> Place | None:
    """Return the last event inside the module of a block that has the target's shape."""
    segment = segments_of([target.name])[target.name]
    for mistake in mistakes:
        if mistake.event is None or segments_of([mistake.target])[mistake.target] != segment:
            continue
        path = re.match(r"(.*?\b\d+)(?=\.|$)", mistake.event.module)
        if path is None:
            continue
        inside = f"{path.group(1)}."
        for event in reversed(trace.events):
            if f"{event.module}.".startswith(inside) and (layout := fitting(event, target)):
                return Place(number=event.number, layout=layout, part=None, error=float("nan"))
    return None


# The candidate with taps.


class WatchedModel(PreparedCandidate):
    """A candidate whose taps are events of its run."""

    def __init__(  # noqa: PLR0913 - what a judgement found
        self,
        model: nn.Module,
        way: Way,
        places: Mapping[str, Sequence[Place]],
        *,
        order: Sequence[str],
        causal: Collection[str],
        vocab_size: int,
        profile: Profile,
        last_only: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model = model
        self.way, self.places, self.order, self.causal = way, places, order, causal
        self.vocab_size, self.profile, self.last_only = vocab_size, profile, last_only
        self.dtype = dtype

    def in_dtype(self, dtype: torch.dtype) -> "WatchedModel":
        """Return the candidate in another dtype."""
        again = rebuilt(self.model, dtype)
        return WatchedModel(
            self.model if again is None else again,
            self.way,
            self.places,
            order=self.order,
            causal=self.causal,
            vocab_size=self.vocab_size,
            profile=self.profile,
            last_only=self.last_only,
            dtype=dtype,
        ).eval()

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tap: TapFunction | None = None,
    ) -> Tensor:
        """Return the logits `[batch time vocab]`; show every tap that was found, after the run.

        With answers, the run goes on with these instead of its own tensors.
        """
        inputs = Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask)
        at: dict[int, list[tuple[str, Place]]] = defaultdict(list)
        for name, place in self._first_places():
            at[place.number[0]].append((name, place))
        shown: dict[tuple[str, Slot | None], Tensor] = {}

        def visit(number: Number, tensor: Tensor) -> None:
            for name, place in at.get(number[0], ()):
                if number[0] < 0 and number != place.number:
                    continue  # converted parameters have only their own numbers
                # A conversion of dtype behind the event replaces it: it is what is used.
                shown[name, place.part] = place.layout.restore(tensor).to(self.dtype, copy=True)
                if self.answers is not None:
                    causal = name in self.causal
                    target = Target(name=name, value=self.answers[name], causal=causal)
                    write_target(tensor, target, place)

        with in_dtype(self.model, self.dtype):
            result = replay(self.model, lambda: self.way.call(self.model, inputs), visit)
        for name in self.order:
            slots = sorted(slot for one, slot in shown if slot is not None and one == name)
            if tap is not None and (name, None) in shown:
                tap(name, shown[name, None])
            elif tap is not None and slots:
                tap(name, torch.stack([shown[name, slot] for slot in slots], slots[0][0]))
        logits = logits_in(result, token_ids, self.vocab_size, self.way.layout).tensor
        return logits if tap is None else tap("logits", logits)

    def _first_places(self) -> Iterator[tuple[str, Place]]:
        """Yield each tap with its first place, or the first of each head."""
        for name in self.order:
            parts: dict[Slot | None, Place] = {}
            for place in self.places.get(name, ()):
                parts.setdefault(place.part, place)
            whole = {None: parts[None]} if None in parts else parts
            yield from ((name, place) for place in whole.values())


@contextlib.contextmanager
def in_dtype(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a model's parameters and buffers have a dtype for a while; it keeps its own tensors.

    A copy would not do: closures would keep the original's tensors.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    with one_run_at_a_time:
        kept = [(tensor, tensor.data) for tensor in tensors if tensor.dtype != dtype]
        try:
            for tensor, data in kept:
                tensor.data = data.to(dtype)
            yield
        finally:
            for tensor, data in kept:
                tensor.data = data
