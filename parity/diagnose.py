"""Name the mistake of a candidate: which known fault reproduces its tensors?

Every fault of the registry is evaluated in one block, on the right inputs of that block. The fault
that makes most of the candidate's other tensors is the diagnosis, if it makes one.
"""

import dataclasses
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from parity import operations
from parity.align import TOLERANCE, Target
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS, Axes, Tap
from parity.faults.forward import FORWARD_FAULTS, ForwardFault, TensorFault
from parity.operations import OPERATIONS, Call, Op, Operation
from parity.watch import Event
from parity.watch.fingerprint import fingerprint_of
from parity.watched import Explanation, tap_of

# Steps inside an operation, which many models write on lines of their own.

_STEPS: Mapping[str, tuple[str, Operation]] = {
    "attn.scores": (
        "product",
        lambda op: op.input("attn.query") @ op.input("attn.key").transpose(-2, -1),
    ),
    "attn.context": ("heads", lambda op: op.input("attn.weights") @ op.input("attn.value")),
    "ln_1": ("centered", lambda op: _centered(op.input("ln_1.input"))),
    "ln_2": ("centered", lambda op: _centered(op.input("ln_2.input"))),
}


def _centered(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


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
        if kind in _STEPS:
            step, operation = _STEPS[kind]
            name = f"{tap.name} ({step})"
            value = operation(Op(call, values, OPERATIONS, block))
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


class _Mirrored(Op):
    """The context of an operation of the MLP's half of a block, seen as attention's half.

    A mistake at the first norm or residual is then the same mistake at the second one.
    """

    def input(self, kind: str) -> Tensor:
        """Return the input of the other half."""
        return super().input(_OTHER_HALF.get(kind, kind))

    def parameter(self, name: str) -> Tensor:
        """Return the parameter of the other half."""
        layer, _, last = name.rpartition(".")
        return super().parameter(f"{_OTHER_HALF.get(layer, layer)}.{last}")


_OTHER_HALF = {"ln_1": "ln_2", "ln_1.input": "ln_2.input", "attn": "mlp", "<x": "ln_1"}


def _mirrored(fault: ForwardFault) -> ForwardFault | None:
    """Return a fault of the first norm or residual alone as one of the second."""
    if isinstance(fault, TensorFault) or not set(fault.operations) <= {"ln_1", "ln_1.input"}:
        return None

    def moved(operation: Operation) -> Operation:
        def run(op: Op) -> Tensor:
            other = _Mirrored.__new__(_Mirrored)
            other.__dict__.update(op.__dict__)
            return operation(other)

        return run

    def renamed(text: str) -> str:
        return text.replace("ln_1", "ln_2").replace("attn", "mlp")

    return dataclasses.replace(
        fault,
        name=fault.name + "-2",
        what=renamed(fault.what),
        right=renamed(fault.right),
        fix=renamed(fault.fix),
        at=renamed(fault.at),
        code={_OTHER_HALF[kind]: moved(code) for kind, code in fault.operations.items()},
    )


FAULTS = [*FORWARD_FAULTS.values(), *filter(None, map(_mirrored, FORWARD_FAULTS.values()))]
"""Every mistake that can be named."""


class GPT1Explainer:
    """Names a fault of the registry."""

    def __init__(
        self, call: Call, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> None:
        self._call, self._parameters, self._values = call, parameters, values
        self._known: dict[int | None, list[ForwardFault]] = defaultdict(list)

    def explain(
        self, names: Sequence[str], events: Sequence[Event], expected: Mapping[str, Target]
    ) -> Explanation | None:
        """Return the fault by which events come about instead of the targets of some names."""
        block, _ = operations.split_name(names[0])
        by_size: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            by_size[event.fingerprint.size].append(event)
        best: tuple[int, ForwardFault, list[Target]] | None = None
        for fault in FAULTS:
            if fault in self._known[block]:
                continue
            changed = list(self._changed(block, fault, names[0], expected))
            if not {tap_of(target.name) for target in changed} & set(map(tap_of, names)):
                continue
            made = sum(_is_among(target, by_size) for target in changed)
            if made > (best[0] if best else 0):
                best = made, fault, changed
        if best is None:
            return None
        _, fault, changed = best
        self._known[block].append(fault)
        return Explanation(
            name=fault.name, what=fault.what, right=fault.right, fix=fault.fix, targets=changed
        )

    def _changed(
        self,
        block: int | None,
        fault: ForwardFault,
        name: str,
        expected: Mapping[str, Target],
    ) -> Iterator[Target]:
        """Yield the targets of a segment that a fault changes, with the values that it gives."""
        for target in self._evaluated(block, [*self._known[block], fault], name, expected):
            before = expected[target.name]
            if target.value.shape != before.value.shape:  # another number of heads
                yield target
                continue
            counts = before.counts()
            gaps = (target.value - before.value)[counts].abs()
            rms = before.value[counts].square().mean().sqrt()
            if not float(gaps.max()) <= TOLERANCE * rms:
                yield target

    def _evaluated(
        self,
        block: int | None,
        faults: Sequence[ForwardFault],
        name: str,
        expected: Mapping[str, Target],
    ) -> Iterator[Target]:
        """Yield the targets of a segment behind some faults, on the segment's right inputs."""
        table, wrong = dict(OPERATIONS), {}
        for fault in faults:
            table |= fault.operations
            wrong |= fault.tensors(self._parameters, block or 0)
        call = dataclasses.replace(
            self._call, parameters=ChainMap(_Widened(wrong), _Widened(self._parameters))
        )
        kinds = BLOCK_KINDS if block is not None else EMBEDDING_KINDS
        names = [kind.name if block is None else f"h.{block}.{kind.name}" for kind in kinds]
        if name.startswith("logits"):
            names = ["logits"]
        seen = {key: value for key, value in self._values.items() if key not in names}
        moved: set[str] = set()  # the kinds that differ
        for one in names:
            _, kind = operations.split_name(one)
            op = Op(call, seen, table, block)
            differs = bool(wrong) or bool(moved & set(_INPUTS[kind]))
            if differs and kind in _STEPS and (step := f"{one} ({_STEPS[kind][0]})") in expected:
                yield dataclasses.replace(expected[step], value=_STEPS[kind][1](op))
            if table[kind] is not OPERATIONS[kind] or differs:
                moved.add(kind)
                seen[one] = table[kind](op)
                yield dataclasses.replace(expected[one], value=seen[one])
            else:
                seen[one] = self._values[one]


class _Widened(dict[str, Tensor]):
    """Tensors by name, in float64 when they are read."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).double()


_INPUTS = {kind.name: kind.inputs for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)}

_ALIKE = 1e-10
"""Largest difference of the fingerprints of equal tensors; epsilon moves them by 1e-7."""


def _is_among(target: Target, events: Mapping[int, Sequence[Event]]) -> bool:
    wanted = fingerprint_of(target.value)
    return any(event.fingerprint.is_like(wanted, _ALIKE) for event in events.get(wanted.size, ()))
