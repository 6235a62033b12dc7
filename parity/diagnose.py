"""Name the mistake of a candidate: which known fault reproduces its tensors?

Every fault of the registry is evaluated in one block, on the right inputs of that block. The fault
that makes most of the candidate's other tensors is the diagnosis, if it makes one.
"""

import dataclasses
from collections import ChainMap, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from parity import operations
from parity.align import TOLERANCE, Target
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, Axes, Tap, taps
from parity.faults.forward import FORWARD_FAULTS, ForwardFault, TensorFault
from parity.operations import OPERATIONS, Call, Op
from parity.watch import Event, Number
from parity.watch.fingerprint import fingerprint_of
from parity.watched import Explanation, tap_of

# Steps inside an operation, which many models write on lines of their own.


def _centered(op: Op, norm: str) -> Tensor:
    x = op.input(f"{norm}.input")
    return x - x.mean(-1, keepdim=True)


def _variance(op: Op, norm: str) -> Tensor:
    return _centered(op, norm).square().mean(-1, keepdim=True)


def _normalized(op: Op, norm: str) -> Tensor:
    return _centered(op, norm) * torch.rsqrt(_variance(op, norm) + op.epsilon)


def _scaled(op: Op, norm: str) -> Tensor:
    return _normalized(op, norm) * op.parameter(f"{norm}.weight")


def _product(op: Op, _kind: str) -> Tensor:
    return op.input("attn.query") @ op.input("attn.key").transpose(-2, -1)


def _heads(op: Op, _kind: str) -> Tensor:
    return op.input("attn.weights") @ op.input("attn.value")


_NORM = {
    "centered": _centered,
    "variance": _variance,
    "normalized": _normalized,
    "scaled": _scaled,
}
_STEPS: Mapping[str, Mapping[str, Callable[[Op, str], Tensor]]] = {
    "attn.scores": {"product": _product},
    "attn.context": {"heads": _heads},
    "ln_1": _NORM,
    "ln_2": _NORM,
}


def gpt1_targets(plan: Sequence[Tap], values: Mapping[str, Tensor], call: Call) -> list[Target]:
    """Return the reference run as targets: every tap but the loss, and steps inside operations.

    Args:
        plan: The taps in network order.
        values: Their tensors in float64.
        call: The forward pass that made them.
    """
    targets = []
    for tap in plan:
        if tap.name == "loss":
            continue
        inputs = tap.inputs
        block, kind = operations.split_name(tap.name)
        for step, operation in _STEPS.get(kind, {}).items():
            name = f"{tap.name} ({step})"
            value = operation(Op(call, values, OPERATIONS, block), kind)
            heads = 1 if value.ndim == 4 else None  # noqa: PLR2004
            targets.append(Target(name=name, value=value, inputs=inputs, heads=heads))
            inputs = (*inputs, name)
        axes = tap.kind.axes
        targets.append(
            Target(
                name=tap.name,
                value=values[tap.name],
                inputs=inputs,
                heads=1 if axes in (Axes.HEADS, Axes.SCORES, Axes.WEIGHTS) else None,
                causal=axes is Axes.SCORES,
            )
        )
    return targets


class GPT1Explainer:
    """Names a fault of the registry."""

    def __init__(
        self, call: Call, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> None:
        self._call, self._parameters, self._values = call, parameters, values
        self._known: dict[int | None, list[ForwardFault]] = defaultdict(list)
        self._tried: set[tuple[int | None, str, str]] = set()
        self._inputs = {tap.name: tap.inputs for tap in taps(call.n_layer)}

    def explain(
        self, names: Sequence[str], events: Sequence[Event], expected: Mapping[str, Target]
    ) -> Explanation | None:
        """Return the fault by which events come about instead of the targets of some names."""
        block, _ = operations.split_name(names[0])
        kinds = {operations.split_name(tap_of(name))[1] for name in names}
        order = list(expected)
        alike = _ALIKE_NARROW if any(event.narrow for event in events) else _ALIKE
        by_size: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            by_size[event.fingerprint.size].append(event)
        best: tuple[tuple[object, ...], ForwardFault, list[Target]] | None = None
        find = partial(_number_of, events=by_size, tolerance=alike)
        # What was named in another block comes first, and ends the search if all of it is there.
        named = {fault.name for faults in self._known.values() for fault in faults}
        for fault in sorted(_faults_at(kinds), key=lambda one: one.name not in named):
            if (block, fault.name, fault.at) in self._tried:
                continue
            try:
                inside, made, missing = self._compared(block, fault, names[0], expected, find)
            except RuntimeError:
                continue  # shapes that do not fit: a fault of several operations, at one alone
            if not any(order.index(one.name) >= order.index(names[0]) for one in inside):
                continue
            # Of faults that make as many tensors, the one of this tap, and what comes last.
            is_here = fault.at.removeprefix("h.{i}.") in kinds
            score = (len(made), is_here, -len(fault.operations), max(made, default=(-1, 0)))
            if made and (best is None or score > best[0]):
                best = score, fault, inside
                if fault.name in named and not missing:
                    break
        if best is None:
            return None
        _, fault, inside = best
        self._tried.add((block, fault.name, fault.at))
        self._known[block].append(fault)
        return Explanation(
            name=fault.name, what=fault.what, right=fault.right, fix=fault.fix, targets=inside
        )

    def reject(self, name: str) -> None:
        """Forget the last fault of the segment that a target is in: its tensors are not there."""
        self._known[operations.split_name(name)[0]].pop()

    def _compared(
        self,
        block: int | None,
        fault: ForwardFault,
        name: str,
        expected: Mapping[str, Target],
        find: Callable[[Target], Number | None],
    ) -> tuple[list[Target], list[Number], int]:
        """Return what a fault changes in a segment, the events that it makes, and how many lack.

        It is given up after a few tensors if the candidate has none of them.
        """
        inside: list[Target] = []
        made: list[Number] = []
        missing = whole = 0
        for target in self._changed(block, fault, name, expected):
            number = find(target)
            if operations.split_name(target.name)[0] == block:
                inside.append(target)
                if number is None and tap_of(target.name) == target.name:
                    missing += 1
                    # Who computes one head after the other has the heads in no single tensor.
                    whole += target.heads is None
            if number is not None:
                made.append(number)
            elif not made and whole > _MOST_MISSING:
                break
        return inside, made, missing

    def _changed(
        self,
        block: int | None,
        fault: ForwardFault,
        name: str,
        expected: Mapping[str, Target],
    ) -> Iterator[Target]:
        """Yield the targets that a fault changes in a segment, then the first ones behind it."""
        for target in self._evaluated(block, [*self._known[block], fault], name, expected):
            before = expected[target.name]
            if target.value.shape == before.value.shape:  # else another number of heads
                counts = before.counts()
                gaps = (target.value - before.value)[counts].abs()
                rms = before.value[counts].square().mean().sqrt()
                if float(gaps.max()) <= TOLERANCE * rms:
                    continue
            yield target

    def _evaluated(
        self,
        block: int | None,
        faults: Sequence[ForwardFault],
        name: str,
        expected: Mapping[str, Target],
    ) -> Iterator[Target]:
        """Yield the targets behind some faults, on the right inputs of their segment.

        The first operations of the next block are among them.
        """
        table = dict(OPERATIONS)
        wrong: dict[str, Tensor] = {}
        for fault in faults:
            table |= fault.operations
            wrong |= fault.tensors(self._parameters, block or 0)
        call = dataclasses.replace(
            self._call, parameters=ChainMap(_Widened(wrong), _Widened(self._parameters))
        )
        kinds = BLOCK_KINDS if block is not None else EMBEDDING_KINDS
        names = [kind.name if block is None else f"h.{block}.{kind.name}" for kind in kinds]
        following = 0 if block is None else block + 1
        if name.startswith("logits"):
            names = ["logits"]
        elif following < self._call.n_layer:
            names += [f"h.{following}.attn.{part}" for part in ("query", "key", "value")]
        else:
            names.append("logits")
        seen = {key: value for key, value in self._values.items() if key not in names}
        moved: set[str] = set()  # the taps that differ
        for one in names:
            at, kind = operations.split_name(one)
            operation = table[kind] if at == block else OPERATIONS[kind]
            op = Op(call, seen, table, at)
            differs = bool(wrong) or bool(moved & set(self._inputs[one]))
            for step, made in _STEPS.get(kind, {}).items():
                if differs and (inner := f"{one} ({step})") in expected:
                    yield dataclasses.replace(expected[inner], value=made(op, kind))
            seen[one] = self._values[one]
            if operation is not OPERATIONS[kind] or differs:
                moved.add(one)
                seen[one] = operation(op)
                yield dataclasses.replace(expected[one], value=seen[one])


def _faults_at(kinds: Collection[str]) -> Iterator[ForwardFault]:
    """Yield every fault, and those of several kinds of tap also at one of some kinds alone."""
    yield from FORWARD_FAULTS.values()
    for fault in FORWARD_FAULTS.values():
        if len(fault.operations) > 1 and not isinstance(fault, TensorFault):
            for kind in sorted(kinds & fault.operations.keys()):
                at = fault.at.replace(fault.at.removeprefix("h.{i}."), kind)
                what = f"{fault.what}, at {kind} alone"
                yield dataclasses.replace(fault, what=what, at=at, code=fault.operations[kind])


class _Widened(dict[str, Tensor]):
    """Tensors by name, in float64 when they are read."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).double()


_MOST_MISSING = 4
"""Taps without heads that a fault gives and the candidate lacks, before the fault is given up."""

_ALIKE = 1e-10
"""Largest difference of the fingerprints of equal tensors; epsilon moves them by 1e-7."""


_ALIKE_NARROW = 1e-6
"""The same behind an operation in float32."""


def _number_of(
    target: Target, events: Mapping[int, Sequence[Event]], tolerance: float
) -> Number | None:
    """Return the last event that may hold a target; None if there is none."""

    def last(value: Tensor) -> Number | None:
        wanted = fingerprint_of(value)
        near = events.get(wanted.size, ())
        alike = (event.number for event in near if event.fingerprint.is_like(wanted, tolerance))
        return max(alike, default=None)

    # A model may compute one row of the batch after the other.
    return last(target.value) or (last(target.value[0]) if len(target.value) > 1 else None)
