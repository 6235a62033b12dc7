"""Find reference tensors in a model that names and arranges them in its own way, by their values.

A parameter of the candidate is a reference tensor, its transpose, a slice of it (query, key and
value; one head), or several joined ones. Its lines along one axis are looked up among the lines of
all reference tensors, so that no name is needed.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.watch import Event, Trace
from parity.watch.fingerprint import fingerprint_of


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
        constant: The number that all elements have, if they have one.
    """

    name: str
    shape: tuple[int, ...]
    parts: Sequence[Part] = ()
    padding: int = 0
    constant: float | None = None

    def __str__(self) -> str:
        """Return one line of the table of parameters."""
        if not self.parts:
            known = f"{self.constant:g} throughout" if self.constant is not None else "no match"
            return f"{self.name} {list(self.shape)}: {known}"
        joined = ", ".join(map(str, self.parts))
        joined = joined if len(self.parts) == 1 else f"cat({joined})"
        return f"{self.name} = {joined}" + (f", {self.padding} more lines" * bool(self.padding))


Place = tuple[str, int, int]
"""A line of a reference tensor: its name, the axis that numbers its lines, and its number."""


class ParameterIndex:
    """The lines of all reference tensors, and the elements of their vectors, by value."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in reference.items()}
        self._lines: dict[bytes, list[Place]] = defaultdict(list)
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
        found = [self._of_lines(array, axis) for axis in range(array.ndim) if array.ndim > 1]
        best = max(found, key=lambda one: -one[1] if one[0] else -np.inf, default=([], 0))
        return Match(name=name, shape=shape, parts=best[0], padding=best[1] if best[0] else 0)

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
        runs: list[list[Place]] = []
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

    def _part(self, run: Sequence[Place], *, numbered_first: bool) -> Part:
        name, axis, start = run[0]
        return Part(
            reference=name,
            axis=axis,
            start=start,
            stop=start + len(run),
            whole=len(run) == self.shapes[name][axis],
            turned=numbered_first != (axis == 0),
        )


def _next(place: Place) -> Place:
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


Numbers = dict[int, Tensor]

TOLERANCE = 1e-9
"""Largest difference over the reference's RMS, as in every float64 comparison."""


def find_activations(
    trace: Trace, targets: Sequence[Target], fetch: Callable[[Collection[int]], Numbers]
) -> dict[str, tuple[int, ...]]:
    """Return the events that hold each target, one, or one for each head; absent if there is none.

    `fetch` runs the model again and returns the tensors of some events. Events are preselected by
    fingerprint; one more run compares the next of those of every target that is not found yet.
    """
    found: dict[str, tuple[int, ...]] = {}
    open_: dict[str, list[_Search]] = {}
    for target in targets:
        whole = [_Search(target.value, target, trace)]
        parts = [] if target.heads is None else target.value.unbind(target.heads)
        searches = whole if whole[0].waiting else [_Search(part, target, trace) for part in parts]
        if searches and all(search.waiting for search in searches):
            open_[target.name] = searches
    while open_:
        wanted = {s.waiting[0] for searches in open_.values() for s in searches if s.event is None}
        tensors = fetch(wanted)
        for name, searches in list(open_.items()):
            for search in searches:
                search.step(tensors)
            if all(search.event is not None for search in searches):
                found[name] = tuple(s.event for s in searches if s.event is not None)
                del open_[name]
            elif any(search.event is None and not search.waiting for search in searches):
                del open_[name]
    return found


class _Search:
    """The events that may hold one tensor, tried one after the other."""

    def __init__(self, value: Tensor, target: Target, trace: Trace) -> None:
        self.value = value
        self.causal = target.causal
        wanted = fingerprint_of(value)
        self.waiting = [e.number for e in trace.events if e.fingerprint.is_like(wanted)]
        self.event: int | None = None

    def step(self, tensors: Numbers) -> None:
        """Try the next event, if its tensor is among these."""
        if self.event is None and self.waiting and self.waiting[0] in tensors:
            number = self.waiting.pop(0)
            if is_layout_of(tensors[number], self.value, causal=self.causal):
                self.event = number


def is_layout_of(tensor: Tensor, value: Tensor, *, causal: bool = False) -> bool:
    """Return whether a tensor is a value with its axes permuted and joined, element by element."""
    if tensor.numel() != value.numel():
        return False
    value = value.to(tensor.device, torch.float64)
    counts = torch.ones_like(value, dtype=torch.bool)
    counts = counts.tril() if causal else counts
    limit = TOLERANCE * float(value[counts].square().mean().sqrt())
    given = tensor.to(torch.float64)
    for order in permutations(range(value.ndim)):
        expected, kept = (x.permute(order).reshape(tensor.shape) for x in (value, counts))
        if bool(((given - expected).abs()[kept] <= limit).all()):
            return True
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Departure:
    """The first place where a candidate computes something else than the reference.

    Attributes:
        target: Name of the reference's tensor that is not there.
        event: The candidate's operation that took its inputs; None if nothing did.
    """

    target: str
    event: Event | None


def first_departure(
    trace: Trace, targets: Sequence[Target], found: Mapping[str, Sequence[int]]
) -> Departure | None:
    """Return where the candidate departs; None if every target is found or was not formed.

    A target that is missing while something behind it is found was not formed: one fused call of
    attention has no scores.
    """
    behind: dict[str, set[str]] = defaultdict(set)  # everything that depends on a target
    for target in reversed(targets):
        for name in target.inputs:
            behind[name] |= {target.name} | behind[target.name]
    by_name = {target.name: target for target in targets}
    for target in targets:
        if target.name in found or behind[target.name] & found.keys():
            continue
        sources = _sources(target, by_name, found)
        return Departure(target=target.name, event=_departing(trace, sources, found))
    return None


def _sources(
    target: Target, by_name: Mapping[str, Target], found: Mapping[str, Sequence[int]]
) -> set[int]:
    """Return the events of the nearest found targets that feed a target."""
    sources: set[int] = set()
    for name in target.inputs:
        sources |= set(found[name]) if name in found else _sources(by_name[name], by_name, found)
    return sources


def _departing(trace: Trace, sources: set[int], found: Mapping[str, Sequence[int]]) -> Event | None:
    """Return the operation that took some tensors and made none of those that were found.

    What leads to a found tensor is right, so the first operation that does not is the one that
    departs. Of the steps that one line of code makes, the last stands for the line.
    """
    right = {number for numbers in found.values() for number in numbers}
    for event in reversed(trace.events):
        if event.number in right:
            right |= set(event.inputs)
    reached = set(sources)
    departing: list[Event] = []
    for event in trace.events:
        if not reached & set(event.inputs) or event.number in right:
            continue
        reached.add(event.number)
        if departing and (event.site, event.module) != (departing[0].site, departing[0].module):
            break
        if not event.shares:
            departing.append(event)
    return departing[-1] if departing else None
