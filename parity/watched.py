"""Judge a model that shows no taps: find the reference's tensors in it, and name its mistakes.

A reference run is a list of named tensors; nothing here is about GPT-1. Where the candidate departs
from it, an explainer may name the mistake. What follows then runs on the reference's numbers, so
that the next mistake shows as well.
"""

import contextlib
import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from parity.align import (
    Alignment,
    Cuts,
    Place,
    Target,
    departures,
    events_before,
    find_activations,
    find_layout,
    fitting,
    write_target,
)
from parity.core.candidates import PreparedCandidate, Profile, rebuilt
from parity.core.inputs import Inputs
from parity.core.lockstep import TapFunction
from parity.errors import InconclusiveError
from parity.watch import Event, Number, Trace, leaves_of, replay, watch
from parity.watch.calling import Logits, Way, logits_in
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """One departure from the reference, and what it comes from.

    Attributes:
        target: The first tensor that differs.
        event: The operation that made something else; None if no operation took the inputs.
        explanation: None if no known mistake reproduces the candidate's tensors.
        reproduced: Largest difference between the candidate's tensor and what the mistake gives,
            over the reference's RMS.
        gap: The same between the mistake and the right operation.
        hint: What the numbers show without an explanation.
    """

    target: str
    event: Event | None
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
        logits: How the candidate arranges its logits; "" for `[batch time vocab]`.
    """

    places: Mapping[str, Sequence[Place]]
    narrow: Mapping[str, Event]
    mistakes: Sequence[Mistake]
    unseen: str
    layout: str


_ROUNDS = 12
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
        TypeError: A part of it is scripted.
    """
    right = {target.name: target for target in targets}
    expected = dict(right)
    segments = segments_of(list(right))
    outputs = {segment: name for name, segment in segments.items()}  # the last one of each
    cuts: dict[Number, tuple[Target, Place]] = {}
    mistakes: dict[str, Mistake] = {}
    unseen = ""
    trace = watch(model, lambda: way.call(model, inputs))
    check_repeatable(trace, watch(model, lambda: way.call(model, inputs)))
    for _ in range(_ROUNDS):
        alignment = find_activations(
            trace,
            list(expected.values()),
            lambda visit: replay(model, lambda: way.call(model, inputs), visit),
            cuts,
        )
        logits = logits_in(alignment.result, inputs.token_ids, targets[-1].value.shape[-1])
        alignment = _with_logits(alignment, trace, logits, expected[targets[-1].name])
        leading = events_before(trace, alignment, cuts)
        departed = departures(trace, list(expected.values()), alignment, cuts, leading)
        cut = {segments[target.name] for target, _ in cuts.values()}
        open_ = {segments[one.target] for one in mistakes.values()} - cut - {"end"}
        new = [
            one
            for one in departed
            if one.target not in mistakes and (not open_ or segments[one.target] in open_)
        ]
        others = [event for event in trace.events if event.number not in leading]
        for segment in dict.fromkeys(segments[one.target] for one in new):
            group = [one for one in new if segments[one.target] == segment]
            names = [one.target for one in group]
            found = explainer.explain(names, others, expected) if explainer else None
            changed = {tap_of(target.name): target.name for target in found.targets} if found else {}
            expected |= {target.name: target for target in found.targets} if found else {}
            for one in group:
                if tap_of(one.target) not in changed:
                    mistakes[one.target] = Mistake(target=one.target, event=one.event)
            if found is not None:
                first = next(one for one in group if tap_of(one.target) in changed)
                name = changed[tap_of(first.target)]
                mistakes[f"{name} {found.name}"] = Mistake(  # a target may differ for two reasons
                    target=name,
                    event=first.event,
                    explanation=found,
                    gap=_gap(expected[name], right[name]),
                )
        if new:
            continue
        added = dict(_cuts(trace, alignment, open_, outputs, right, mistakes.values()))
        if not added:
            unseen = f"nothing behind {', '.join(sorted(open_))} was compared" if open_ else ""
            break
        cuts |= added
        trace = watch(model, lambda: way.call(model, inputs), _writing(cuts))
    return Judgement(
        places=alignment.found,
        narrow={
            name: event
            for event in trace.events
            if (name := alignment.narrow.get(event.number)) is not None
        },
        mistakes=sorted(
            (_measured(one, alignment) for one in mistakes.values()),
            key=lambda one: list(right).index(one.target),
        ),
        unseen=unseen,
        layout=logits.layout,
    )


def segments_of(names: Sequence[str]) -> dict[str, str]:
    """Return the part of the network that each target is in: `start`, a block's number, or `end`.

    The number of the block is the first whole number between dots.
    """
    segments, last = {}, "start"
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", f".{name}.")
        if number is not None:
            last = number.group()
        elif last != "start":
            last = "end"
        segments[name] = last
    return segments


def tap_of(name: str) -> str:
    """Return the tap that a target is, or is a step of: `h.0.attn.scores (product)`."""
    return name.partition(" (")[0]


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


def described(event: Event) -> str:
    """Return where an operation is and what it is: `blocks.3.mlp, my_gpt.py:57, gelu`."""
    operation = event.operation.removeprefix("torch.nn.").removeprefix("torch.")
    return ", ".join(part for part in (event.module, event.site, operation) if part)


def _with_logits(
    alignment: Alignment, trace: Trace, logits: Logits, target: Target
) -> Alignment:
    """Return an alignment in which the last target is what the model returns, and nothing else."""
    found = {name: places for name, places in alignment.found.items() if name != target.name}
    value = target.value[:, -logits.tensor.shape[1] :]
    layout, error = find_layout(logits.tensor, value, limit=alignment.limit)
    if layout is not None:
        leaves = zip(leaves_of(alignment.result), leaves_of(trace.result), strict=False)
        made = [trace.made.get(id(then)) for now, then in leaves if now is logits.raw]
        number = next((one for one in made if one is not None), (-1, 0))
        found[target.name] = [Place(number=number, layout=layout, part=None, error=error)]
    return dataclasses.replace(alignment, found=found)


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


def _cuts(
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


def _output_of_module(
    trace: Trace, target: Target, mistakes: Iterable[Mistake]
) -> Place | None:
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
        vocab_size: int,
        profile: Profile,
        last_only: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model = model
        self.way, self.places, self.order = way, places, order
        self.vocab_size, self.profile, self.last_only = vocab_size, profile, last_only
        self.dtype = dtype

    def in_dtype(self, dtype: torch.dtype) -> "WatchedModel":
        """Return the candidate in another dtype."""
        return WatchedModel(
            rebuilt(self.model, dtype) or self.model,
            self.way,
            self.places,
            order=self.order,
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
        shown: dict[tuple[str, int | None], Tensor] = {}

        def visit(number: Number, tensor: Tensor) -> None:
            for name, place in at.get(number[0], ()):
                if number[0] < 0 and number != place.number:
                    continue  # converted parameters have only their own numbers
                # A conversion of dtype behind the event replaces it: it is what is used.
                shown[name, place.part] = place.layout.restore(tensor).to(self.dtype, copy=True)
                if self.answers is not None:
                    target = Target(name=name, value=self.answers[name], heads=1)
                    write_target(tensor, target, place)

        with in_dtype(self.model, self.dtype):
            result = replay(self.model, lambda: self.way.call(self.model, inputs), visit)
        for name in self.order:
            heads = [value for (one, _), value in sorted(shown.items(), key=_head) if one == name]
            if heads and tap is not None:
                tap(name, heads[0] if (name, None) in shown else torch.stack(heads, 1))
        logits = logits_in(result, token_ids, self.vocab_size).tensor
        return logits if tap is None else tap("logits", logits)

    def _first_places(self) -> Iterator[tuple[str, Place]]:
        """Yield each tap with its first place, or the first of each head."""
        for name in self.order:
            parts: dict[int | None, Place] = {}
            for place in self.places.get(name, ()):
                parts.setdefault(place.part, place)
            whole = {None: parts[None]} if None in parts else parts
            yield from ((name, place) for place in whole.values())


def _head(item: tuple[tuple[str, int | None], Tensor]) -> int:
    return item[0][1] or 0


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
