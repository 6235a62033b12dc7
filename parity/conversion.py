"""Weights from one side's names and forms to another's: a bijection, or an error.

Nothing is computed: a tensor is renamed and, for the release's convolutions, gains or loses a
leading axis of length one. So every bit survives, and the way back gives the same dictionary.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

from parity.errors import InputRefusedError
from parity.mapping import ALIASES, Row, Side, is_buffer, rows, sizes


class Reshapable(Protocol):
    """What a tensor has to be able to do here; torch's and NumPy's both are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        ...

    def reshape(self, shape: tuple[int, ...], /) -> Self:
        """Return the same elements in another shape."""
        ...


TensorT = TypeVar("TensorT", bound=Any)


def convert(
    state: Mapping[str, TensorT], config: Mapping[str, Any], *, source: Side, target: Side
) -> dict[str, TensorT]:
    """Return `state` in the target's names and forms, in the release's order.

    Args:
        state: Name to tensor (torch or NumPy) on the source side. Left as it is; the result's
            tensors may share its memory.
        config: `vocab_size`, `n_positions`, `n_embd` and `n_layer` of the model.
        source: Whose names and forms `state` has.
        target: Whose the result shall have. Aliases and buffers are not written.

    Raises:
        InputRefusedError: Names missing or unexpected, or shapes that differ: all of them,
            gathered. Nothing is broadcast, squeezed or dropped.
    """
    table = rows(config["n_layer"])
    axis_sizes = sizes(config)
    problems = _problems(state, table, axis_sizes, source)
    if problems:
        raise InputRefusedError(
            f"the weights do not fit a GPT-1 of {config['n_layer']} blocks: {'; '.join(problems)}",
            where=f"{source} state of {len(state)} tensors, {len(table)} expected",
            fix="check that the file and the config belong together",
        )
    return {
        row.name(target): state[row.name(source)].reshape(row.shape(target, axis_sizes))
        for row in table
    }


def _problems(
    state: Mapping[str, Reshapable], table: list[Row], axis_sizes: Mapping[str, int], side: Side
) -> list[str]:
    """Return one phrase for each kind of problem, with every name concerned."""
    wanted = {row.name(side): row.shape(side, axis_sizes) for row in table}
    missing = [name for name in wanted if name not in state]
    unexpected = [
        name
        for name in state
        if name not in wanted and name not in ALIASES[side] and not is_buffer(side, name)
    ]
    shapes = [
        _misshapen(name, tuple(state[name].shape), shape)
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    untied = [
        f"{alias} differs from {name}"
        for alias, name in ALIASES[side].items()
        if alias in state and name in state and not _same_values(state[alias], state[name])
    ]
    found = {"missing": missing, "unexpected": unexpected, "shape": shapes, "untied": untied}
    problems = [f"{kind}: {_listed(names)}" for kind, names in found.items() if names]
    return [*problems, *_other_names(state, wanted)]


def _misshapen(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    turned = len(wanted) == 2 and found == wanted[::-1]  # noqa: PLR2004 - a matrix
    hint = " (matrices are [in, out])" if turned else ""
    return f"{name} is {list(found)}, expected {list(wanted)}{hint}"


_LISTED = 12
"""Names told of one kind of problem: all of a block's; of a wrong file's hundreds, these."""


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _other_names(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what the names have too much, if no name fits and without it some do."""
    if not state or any(name in wanted for name in state):
        return []
    none = f"none of {len(wanted)} names was found"
    name = next(iter(state))
    surplus = [name[: place + 1] for place, sign in enumerate(name) if sign == "."]
    fitting = {s: sum(other.removeprefix(s) in wanted for other in state) for s in surplus}
    best = max(fitting, key=lambda s: fitting[s], default="")
    return [f"{none}; without {best!r} {fitting[best]} are" if fitting.get(best) else none]


def _same_values(alias: Any, tensor: Any) -> bool:  # noqa: ANN401 - torch's or NumPy's
    if tuple(alias.shape) != tuple(tensor.shape):
        return False
    both_nan = (alias != alias) & (tensor != tensor)  # noqa: PLR0124 - NaN alone differs from itself
    return bool(((alias == tensor) | both_nan).all())
