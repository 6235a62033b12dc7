"""Find reference tensors in a model that names and arranges them in its own way, by their values.

A parameter of the candidate is a reference tensor, its transpose, a slice of it (query, key and
value; one head), or several joined ones. Its lines along one axis are looked up among the lines of
all reference tensors, so that no name is needed.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, permutations
from operator import mul
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.watch import Event, Number, Trace
from parity.watch.fingerprint import fingerprint_of
from parity.watch.trace import Visit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A run of lines that a parameter and a reference tensor have in common.

    A line of a matrix is a row or a column; a vector is one line, and then `start` and `stop` count
    its elements.

    Attributes:
        reference: Name of the reference tensor.
        axis: The axis of the reference tensor that is cut from `start` to `stop`.
        turned: Whether the lines lie along the other axis of the parameter.
    """

    reference: str
    axis: int
    start: int
    stop: int
    whole: bool
    turned: bool

    def __str__(self) -> str:
        """Return the part as indexing: `h.0.attn.c_attn.weight[:, :768].T`."""
        cut = f"{self.start or ''}:{self.stop}"
        index = "" if self.whole else f"[{':, ' * self.axis}{cut}]"
        return self.reference + index + (".T" if self.turned else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """The reference tensors that a parameter is made of.

    Attributes:
        name: The parameter's name.
        parts: In the order in which they are joined; empty if nothing matches.
        padding: Lines at the end that are in no reference tensor, all of one number.
        axis: The axis of the parameter along which the lines of matrices lie.
        constant: The number that all elements have, if they have one.
    """

    name: str
    shape: tuple[int, ...]
    parts: Sequence[Part] = ()
    padding: int = 0
    axis: int = 0
    constant: float | None = None

    def __str__(self) -> str:
        """Return one line of the table of parameters."""
        if not self.parts:
            known = f"{self.constant:g} throughout" if self.constant is not None else "no match"
            return f"{self.name} {list(self.shape)}: {known}"
        joined = ", ".join(map(str, self.parts))
        joined = joined if len(self.parts) == 1 else f"cat({joined})"
        return f"{self.name} = {joined}" + (f", {self.padding} more lines" * bool(self.padding))


Line = tuple[str, int, int]
"""A line of a reference tensor: its name, the axis that numbers its lines, and its number."""


class ParameterIndex:
    """The lines of all reference tensors, and the elements of their vectors, by value."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in reference.items()}
        self._lines: dict[bytes, list[Line]] = defaultdict(list)
        self._elements: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
        self._vectors: dict[str, NDArray[np.float32]] = {}
        for name, tensor in reference.items():
            array = _array(tensor)
            if array.ndim == 1:
                self._vectors[name] = array
                for place, value in enumerate(array):
                    self._elements[value.tobytes()].append((name, place))
                continue
            for axis, lines in enumerate((array, array.T)):
                for number, line in enumerate(np.ascontiguousarray(lines)):
                    self._lines[line.tobytes()].append((name, axis, number))

    def match(self, name: str, parameter: Tensor) -> Match:
        """Return the reference tensors that a parameter or buffer is made of."""
        array, shape = _array(parameter), tuple(parameter.shape)
        values = np.unique(array)
        if values.size == 1:
            return Match(name=name, shape=shape, constant=float(values[0]))
        flat = array.reshape(-1)
        if parts := list(self._of_vectors(flat)):
            return Match(name=name, shape=shape, parts=parts)
        axes = range(array.ndim) if array.ndim > 1 else ()
        found = [(*self._of_lines(array, axis), axis) for axis in axes]
        best = max(found, key=lambda one: -one[1] if one[0] else -np.inf, default=([], 0, 0))
        padding = best[1] if best[0] else 0
        return Match(name=name, shape=shape, parts=best[0], padding=padding, axis=best[2])

    def _of_vectors(self, flat: NDArray[np.float32]) -> Iterator[Part]:
        """Yield the parts of reference vectors that are joined to one; nothing if some is left."""
        found: list[Part] = []
        at = 0
        while at < flat.size:
            best: tuple[int, str, int] | None = None
            for name, start in self._elements.get(flat[at].tobytes(), ()):
                rest = self._vectors[name][start:]
                length = min(rest.size, flat.size - at)
                same = rest[:length] == flat[at : at + length]
                run = length if same.all() else int(np.argmin(same))
                if best is None or run > best[0]:
                    best = run, name, start
            if best is None:
                return
            run, name, start = best
            size = self._vectors[name].size
            found.append(
                Part(
                    reference=name,
                    axis=0,
                    start=start,
                    stop=start + run,
                    whole=run == size,
                    turned=False,
                )
            )
            at += run
        yield from found

    def _of_lines(self, array: NDArray[np.float32], axis: int) -> tuple[list[Part], int]:
        """Return the parts whose lines are those along an axis, and the lines that are left."""
        lines = np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(-1, array.shape[axis])
        runs: list[list[Line]] = []
        left = 0
        for place, line in enumerate(lines):
            known = self._lines.get(line.tobytes(), ())
            if not known:
                left = len(lines) - place
                break
            following = next((p for p in known if runs and p == _next(runs[-1][-1])), None)
            if following is not None:
                runs[-1].append(following)
            else:
                runs.append([known[0]])
        if left and np.unique(lines[-left:]).size > 1:
            return [], 0
        numbered_first = axis == array.ndim - 1  # the lines are rows: they are numbered by axis 0
        return [self._part(run, numbered_first=numbered_first) for run in runs], left

    def _part(self, run: Sequence[Line], *, numbered_first: bool) -> Part:
        name, axis, start = run[0]
        return Part(
            reference=name,
            axis=axis,
            start=start,
            stop=start + len(run),
            whole=len(run) == self.shapes[name][axis],
            turned=numbered_first != (axis == 0),
        )


def _next(place: Line) -> Line:
    name, axis, number = place
    return name, axis, number + 1


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """Return float32 numbers: those of weights are exact in it, whatever the model's dtype."""
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).cpu().numpy()
    return array


def match_parameters(
    candidate: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> list[Match]:
    """Return what each parameter or buffer of a candidate is made of, in the candidate's order."""
    index = ParameterIndex(reference)
    kept = {name: t for name, t in candidate.items() if t.is_floating_point() and t.numel()}
    return [index.match(name, tensor) for name, tensor in kept.items()]


# Activations.


Slot = tuple[int, int]
"""An axis of a target and an index: one head, or one row of the batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A tensor of the reference run, to be found in the candidate's.

    Attributes:
        value: Float64.
        inputs: Names of the targets that its operation takes.
        heads: The axis of heads, which a model may compute one by one; None without one.
        causal: Whether only entries on and below the diagonal of the last two axes count.
    """

    name: str
    value: Tensor
    inputs: Sequence[str] = ()
    heads: int | None = None
    causal: bool = False

    def counts(self) -> Tensor:
        """Return which entries count, as a mask of the value's shape."""
        every = torch.ones_like(self.value, dtype=torch.bool)
        return every.tril() if self.causal else every

    def part(self, part: "Slot | None") -> Tensor:
        """Return the value at one index of an axis, or the whole value."""
        return self.value if part is None else self.value.select(*part)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a candidate arranges a target: its axes in another order, then joined or split.

    Attributes:
        order: The target's axes, in the candidate's order.
        sizes: The target's shape.
    """

    order: tuple[int, ...]
    sizes: tuple[int, ...]

    def arrange(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a target's value as the candidate has it, in the candidate's shape."""
        return value.permute(self.order).reshape(tuple(shape))

    def restore(self, tensor: Tensor) -> Tensor:
        """Return a candidate's tensor with the target's axes."""
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return tensor.reshape([self.sizes[axis] for axis in self.order]).permute(back)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a target is in the candidate's run.

    Attributes:
        part: The head or row, if the event has only one.
        error: The largest difference, over the target's RMS.
    """

    number: Number
    layout: Layout
    part: Slot | None
    error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where the targets are in one run.

    Attributes:
        found: The places of each target in the order of the run; absent if there is none. A target
            whose heads are computed one by one has places for all heads.
        narrow: The events whose float32 or half precision moved a target, with the target.
        limit: How far what the model returns may be from a target.
        result: What the model returned.
    """

    found: Mapping[str, Sequence[Place]]
    narrow: Mapping[Number, str]
    limit: float
    result: Any


TOLERANCE = 1e-9
"""Largest difference over the reference's RMS, as in every float64 comparison."""

Cuts = Mapping[Number, tuple[Target, Place]]
"""Events whose tensors are replaced by a target's value, so that the rest runs on right inputs."""


def find_activations(
    trace: Trace,
    targets: Sequence[Target],
    replay: Callable[[Visit], object],
    cuts: Cuts,
    *,
    first: bool = False,
) -> Alignment:
    """Find every target in a candidate's run, element by element.

    With `first` it looks for the first place of each alone, which is faster.
    `replay` runs the model again. Events are preselected by fingerprint. A tensor behind an
    operation in a narrower dtype may differ by that dtype's rounding. It is then replaced by the
    target's value, so that what follows it is compared to full precision.
    """
    events = {event.number: event for event in trace.events}
    likely = _likely(trace, targets)
    places: dict[tuple[str, Slot | None], list[Place]] = defaultdict(list)
    narrow: dict[Number, str] = {}
    touched: dict[Number, torch.dtype] = {}  # behind a narrow operation, since the last target
    replaced = {target.name: number for number, (target, _) in cuts.items()}

    def visit(number: Number, tensor: Tensor) -> None:
        event = events.get(number)
        if event is None:
            return  # the run is another one than the watched; what it should show is not found
        kinds = [event.narrow, *(touched.get(one) for one in event.inputs)]
        kind = min((one for one in kinds if one is not None), key=str, default=None)
        limit = TOLERANCE if kind is None else allowed_rounding(kind)
        held = False
        for target, part in likely.get(number, ()):
            if first and (target.name, part) in places and kind is None:
                held = True
                continue
            layout, error = find_layout(
                tensor, target.part(part), causal=target.causal, limit=limit
            )
            if layout is None:
                continue
            held = True
            if number > replaced.get(target.name, number):
                continue  # it comes from the replaced tensor
            place = Place(number=number, layout=layout, part=part, error=error)
            places[target.name, part].append(place)
            if error > TOLERANCE:
                narrow[number] = target.name
                write_target(tensor, target, place)
        if kind is not None and not held:
            touched[number] = kind
        if number in cuts:
            touched.pop(number, None)
            write_target(tensor, *cuts[number])

    result = replay(visit)
    loosest = max(map(allowed_rounding, touched.values()), default=TOLERANCE)
    found = dict(_found(targets, places))
    return Alignment(found=found, narrow=narrow, limit=loosest, result=result)


def _found(
    targets: Sequence[Target], places: Mapping[tuple[str, Slot | None], Sequence[Place]]
) -> Iterator[tuple[str, Sequence[Place]]]:
    """Yield each target that is somewhere as a whole, or with all its heads or rows."""
    for target in targets:
        if whole := places.get((target.name, None)):
            yield target.name, whole
            continue
        for slots in _slots(target):
            parts = [places.get((target.name, slot), ()) for slot in slots]
            if all(parts):
                yield target.name, [place for part in parts for place in part]
                break


def _slots(target: Target) -> Iterator[list[Slot]]:
    """Yield the heads of a target, and its rows, if there are several."""
    for axis in dict.fromkeys((target.heads, 0)):
        if axis is not None and (count := target.value.shape[axis]) > 1:
            yield [(axis, index) for index in range(count)]


def write_target(tensor: Tensor, target: Target, place: Place) -> None:
    """Give a candidate's tensor the value of a target; a repeated one cannot be written to.

    Entries that do not count stay: they may be masked already.
    """
    repeated = any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    if repeated:
        return
    value = place.layout.arrange(target.part(place.part), tensor.shape).to(tensor)
    if target.causal:
        sizes = torch.ones(place.layout.sizes, dtype=torch.bool, device=tensor.device)
        kept = place.layout.arrange(sizes.tril(), tensor.shape)
        value = torch.where(kept, value, tensor)
    tensor.copy_(value)


def _likely(
    trace: Trace, targets: Sequence[Target]
) -> dict[Number, list[tuple[Target, Slot | None]]]:
    """Return the targets, or their heads or rows, whose fingerprint an event has, by the event."""
    by_size: dict[int, list[Event]] = defaultdict(list)
    for event in trace.events:
        by_size[event.fingerprint.size].append(event)
    kinds = {event.narrow for event in trace.events} - {None}
    near = 1e-6 if kinds <= {torch.float32} else 1e-2
    likely: dict[Number, list[tuple[Target, Slot | None]]] = defaultdict(list)
    for target in targets:
        wanted = fingerprint_of(target.value)
        whole = [e for e in by_size[wanted.size] if e.fingerprint.is_like(wanted, near)]
        for event in whole:
            likely[event.number].append((target, None))
        slots = [] if whole else [slot for of_axis in _slots(target) for slot in of_axis]
        for part in slots:
            wanted = fingerprint_of(target.part(part))
            for event in by_size[wanted.size]:
                if event.fingerprint.is_like(wanted, near):
                    likely[event.number].append((target, part))
    return likely


def allowed_rounding(dtype: torch.dtype) -> float:
    """Return how far one operation in a narrow dtype may be off, over the RMS: 32 units."""
    return 16 * torch.finfo(dtype).eps


def find_layout(
    tensor: Tensor, value: Tensor, *, causal: bool = False, limit: float = TOLERANCE
) -> tuple[Layout | None, float]:
    """Return how a tensor arranges a value's axes, and its largest difference over the RMS.

    The layout is None if no order of the axes brings them within the limit.
    """
    if tensor.numel() != value.numel():
        return None, float("inf")
    value = value.to(tensor.device, torch.float64)
    counts = torch.ones_like(value, dtype=torch.bool).tril() if causal else None
    counted = value if counts is None else value[counts]
    rms = float(counted[counted.isfinite()].square().mean().sqrt())
    given = tensor.detach().to(torch.float64)
    for order in permutations(range(value.ndim)):
        if not is_canonical([value.shape[axis] for axis in order], given.shape):
            continue
        gaps = _gaps(given, value.permute(order).reshape(given.shape))
        if counts is not None:
            gaps = gaps[counts.permute(order).reshape(given.shape)]
        error = float(gaps.max()) / max(rms, torch.finfo(torch.float64).tiny)
        if error <= limit:  # NaN is not
            return Layout(order, tuple(value.shape)), error
    return None, float("inf")


def _gaps(given: Tensor, value: Tensor) -> Tensor:
    """Return the differences; NaN or an infinity on both sides is none."""
    gaps = (given - value).abs()
    if not bool(gaps.isfinite().all()):
        same = (given == value) | (given.isnan() & value.isnan())
        gaps = gaps.masked_fill(same, 0.0)
    return gaps


def fitting(event: Event, target: Target) -> Layout | None:
    """Return how an event may arrange a target, by its shape alone."""
    sizes = tuple(target.value.shape)
    if event.fingerprint.size == target.value.numel():
        for order in permutations(range(len(sizes))):
            if is_canonical([sizes[axis] for axis in order], event.shape):
                return Layout(order, sizes)
    return None


def is_canonical(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a shape joins whole axes of some sizes, or splits them.

    `[head time head_width]` read as `[time width]` has the same numbers in another order.
    """
    ends, others = (set(accumulate(of, mul)) | {1} for of in (sizes, shape))
    return ends <= others or others <= ends


# The verdict.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Departure:
    """A place where a candidate computes something else than the reference.

    Attributes:
        target: Name of the reference's tensor that is not there although its inputs are.
        event: The candidate's operation that took them; None if nothing did.
    """

    target: str
    event: Event | None


def departures(
    trace: Trace,
    targets: Sequence[Target],
    alignment: Alignment,
    cuts: Cuts,
    right: Collection[Number],
) -> list[Departure]:
    """Return where the candidate departs: at each target that is missing and whose inputs are not.

    `right` has the events that led to a target, of `events_before`.
    A target that is missing while something behind it is found was not formed: one fused call of
    attention has no scores. What is behind a cut says nothing about what is before it.
    """
    cut = {target.name for target, _ in cuts.values()}
    behind: dict[str, set[str]] = defaultdict(set)  # what depends on a target
    for target in reversed(targets):
        for name in target.inputs:
            behind[name] |= {target.name}
            if target.name not in cut:
                behind[name] |= behind[target.name]
    by_name = {target.name: target for target in targets}
    wrong: set[str] = set()
    departed: list[Departure] = []
    for target in targets:
        if target.name in alignment.found or behind[target.name] & alignment.found.keys():
            continue
        if not any(name in wrong and name not in cut for name in target.inputs):
            sources = _sources(target, by_name, alignment, cuts)
            event = _departing(trace, sources, right)
            event = event and _masking(event, trace, alignment, by_name)
            departed.append(Departure(target=target.name, event=event))
        wrong.add(target.name)
    return departed


def _masking(
    event: Event, trace: Trace, alignment: Alignment, targets: Mapping[str, Target]
) -> Event:
    """Return the operation that masked the input of another one, if the mask is wrong.

    Masked scores still hold the right entries, so that only what takes them differs.
    """
    made = {one.number: one for one in trace.events}
    for name, places in alignment.found.items():
        numbers = [p.number for p in places if p.number in made and not made[p.number].shares]
        if not (name in targets and targets[name].causal and numbers):
            continue
        for number in event.inputs:
            while (one := made[number]).shares and len(one.inputs) == 1:
                number = one.inputs[0]  # noqa: PLW2901 - what the view is of
            if number in numbers[1:] and one.fingerprint.ahead:
                return one
    return event


def events_before(trace: Trace, alignment: Alignment, cuts: Cuts) -> set[Number]:
    """Return the events that hold a target, and those that led to one."""
    right = {place.number for places in alignment.found.values() for place in places}
    for event in reversed(trace.events):
        if event.number in right:
            right |= {one for one in event.inputs if one not in cuts}
    return right


def _sources(
    target: Target, by_name: Mapping[str, Target], alignment: Alignment, cuts: Cuts
) -> set[Number]:
    """Return the events of the nearest targets that feed one and are found, or replaced."""
    sources: set[Number] = set()
    for name in target.inputs:
        held = {place.number for place in alignment.found.get(name, ())}
        held |= {number for number, (one, _) in cuts.items() if one.name == name}
        sources |= held or _sources(by_name[name], by_name, alignment, cuts)
    return sources


def _departing(trace: Trace, sources: set[Number], right: Collection[Number]) -> Event | None:
    """Return the operation that took some tensors and led to none that is right.

    A view counts if it exchanges elements of a right tensor.
    """
    sizes = {event.number: event.fingerprint.size for event in trace.events}
    reached = set(sources)
    for event in trace.events:
        # Embeddings have no source: what reads a parameter alone is where they start.
        starts = not sources and not event.inputs and event.leaves and not event.shares
        if event.number in right or not (starts or reached & set(event.inputs)):
            continue
        reached.add(event.number)
        whole = any(sizes.get(one) == event.fingerprint.size for one in event.inputs)
        known = all(one in right or one in sources for one in event.inputs)
        if not event.shares or (whole and known):
            return event
    return _first_beside(trace, right)


def _first_beside(trace: Trace, right: Collection[Number]) -> Event | None:
    """Return the first operation that something right is combined with and that is not right."""
    made = {event.number: event for event in trace.events}
    for event in trace.events:
        if event.number in right or not any(number in right for number in event.inputs):
            continue
        while others := [number for number in event.inputs if number not in right]:
            event = made[others[0]]  # noqa: PLW2901 - what it takes beside
        return event
    return next((e for e in trace.events if not e.shares and e.number not in right), None)
