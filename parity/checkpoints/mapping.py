"""Names and layouts of every tensor, ours, Hugging Face's and the release's, and the conversion.

A row has the name and the layout of one tensor on each side; `{i}` is the block's number. Rows are
in the release's order, which is part of that format: its shards hold no names. Hugging Face's head
is the token embedding under a second name, and its causal masks are buffers. The release keeps
both embeddings as rows of one matrix `we`.

A conversion computes nothing: a tensor is renamed and, for the release's convolutions, gains or
loses a leading axis of length one. So every bit survives, and the way back gives the same state.

Source: finetune-transformer-lm train.py 404-412, model/params_shapes.json (a69b5c4).
"""

import dataclasses
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from parity.errors import InputRejectedError


class Side(StrEnum):
    """The implementation whose names and layouts a state has; `Row` has a field of each name."""

    OURS = "ours"
    HUGGINGFACE = "huggingface"
    RELEASE = "release"


class Form(StrEnum):
    """The release's layout of a tensor; the other two sides have the same."""

    SAME = "as ours"
    CONVOLUTION = "a convolution of width one: [1, in, out]"


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor.

    Attributes:
        huggingface: Name in `OpenAIGPTLMHeadModel`.
        release: Name in the release's graph.
        axes: Keys of `shape_sizes`.
    """

    ours: str
    huggingface: str
    release: str
    axes: tuple[str, ...]
    form: Form = Form.SAME

    def name(self, side: Side) -> str:
        """Return the tensor's name on that side."""
        name: str = getattr(self, side.value)
        return name

    def of_block(self, index: int) -> "Row":
        """Return the row with the block's number in every name."""
        ours, theirs, release = (self.name(side).format(i=index) for side in Side)
        return Row(ours, theirs, release, self.axes, self.form)

    def shape(self, side: Side, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the tensor's shape on that side."""
        shape = tuple(sizes[axis] for axis in self.axes)
        return (1, *shape) if side is Side.RELEASE and self.form is Form.CONVOLUTION else shape


def _block_row(name: str, release: str, *axes: str) -> Row:
    """Return a row of the block's table: our and Hugging Face's names differ by a prefix."""
    form = Form.CONVOLUTION if len(axes) == 2 else Form.SAME  # noqa: PLR2004 - a matrix
    return Row(f"h.{{i}}.{name}", f"transformer.h.{{i}}.{name}", release, axes, form)


EMBEDDING_ROWS = (
    Row(
        "positions_embed.weight",
        "transformer.positions_embed.weight",
        "model/we[positions]",
        ("n_positions", "width"),
    ),
    Row(
        "tokens_embed.weight",
        "transformer.tokens_embed.weight",
        "model/we[tokens]",
        ("vocab", "width"),
    ),
)

BLOCK_ROWS = (
    _block_row("attn.c_attn.weight", "model/h{i}/attn/c_attn/w", "width", "three_width"),
    _block_row("attn.c_attn.bias", "model/h{i}/attn/c_attn/b", "three_width"),
    _block_row("attn.c_proj.weight", "model/h{i}/attn/c_proj/w", "width", "width"),
    _block_row("attn.c_proj.bias", "model/h{i}/attn/c_proj/b", "width"),
    _block_row("ln_1.weight", "model/h{i}/ln_1/g", "width"),
    _block_row("ln_1.bias", "model/h{i}/ln_1/b", "width"),
    _block_row("mlp.c_fc.weight", "model/h{i}/mlp/c_fc/w", "width", "inner"),
    _block_row("mlp.c_fc.bias", "model/h{i}/mlp/c_fc/b", "inner"),
    _block_row("mlp.c_proj.weight", "model/h{i}/mlp/c_proj/w", "inner", "width"),
    _block_row("mlp.c_proj.bias", "model/h{i}/mlp/c_proj/b", "width"),
    _block_row("ln_2.weight", "model/h{i}/ln_2/g", "width"),
    _block_row("ln_2.bias", "model/h{i}/ln_2/b", "width"),
)

ALIASES: dict[Side, dict[str, str]] = {
    Side.OURS: {},
    Side.HUGGINGFACE: {"lm_head.weight": "transformer.tokens_embed.weight"},
    Side.RELEASE: {},
}
"""Second names of one tensor: if present, they must hold the same values."""

BUFFERS: dict[Side, tuple[str, ...]] = {
    Side.OURS: (),
    Side.HUGGINGFACE: (r"transformer\.h\.\d+\.attn\.bias", r"transformer\.position_ids"),
    Side.RELEASE: (),
}
"""Names, as regular expressions, of constants that some versions save among the weights."""


def rows(n_layer: int) -> list[Row]:
    """Return the rows of all tensors: 2 + 12 a block."""
    return [*EMBEDDING_ROWS, *(row.of_block(i) for i in range(n_layer) for row in BLOCK_ROWS)]


def shape_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of every axis that the table names, from Hugging Face's field names."""
    width = config["n_embd"]
    return {
        "vocab": config["vocab_size"],
        "n_positions": config["n_positions"],
        "width": width,
        "three_width": 3 * width,
        "inner": 4 * width,
    }


def is_buffer(side: Side, name: str) -> bool:
    """Return whether `name` is a constant that a checkpoint may contain."""
    return any(re.fullmatch(pattern, name) for pattern in BUFFERS[side])


TensorT = TypeVar("TensorT", bound=Any)


def convert(
    state: Mapping[str, TensorT], config: Mapping[str, Any], *, source: Side, target: Side
) -> dict[str, TensorT]:
    """Return `state` in the target's names and forms, in the release's order.

    Tensors are torch's or NumPy's. The state is not changed; the result may share its memory, and
    has no aliases and no buffers. `config` has `vocab_size`, `n_positions`, `n_embd`, `n_layer`.

    Raises:
        InputRejectedError: Names are missing or unexpected, or shapes differ; all are listed.
            Nothing is broadcast, squeezed or dropped.
    """
    table = rows(config["n_layer"])
    axis_sizes = shape_sizes(config)
    problems = _problems(state, table, axis_sizes, source)
    if problems:
        raise InputRejectedError(
            f"the weights do not fit a GPT-1 of {config['n_layer']} blocks: {'; '.join(problems)}",
            where=f"{source} state of {len(state)} tensors, {len(table)} expected",
            fix="check that the file and the config belong together",
        )
    return {
        row.name(target): state[row.name(source)].reshape(row.shape(target, axis_sizes))
        for row in table
    }


def _problems(
    state: Mapping[str, Any], table: list[Row], axis_sizes: Mapping[str, int], side: Side
) -> list[str]:
    """Return one phrase for each kind of problem, with its names."""
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
    transposed = len(wanted) == 2 and found == wanted[::-1]  # noqa: PLR2004 - a matrix
    hint = " (matrices are [in, out])" if transposed else ""
    return f"{name} is {list(found)}, expected {list(wanted)}{hint}"


_LISTED = 12
"""Names listed for one kind of problem: enough for a block."""


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _other_names(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a hint at a superfluous prefix, if no name fits and without it some do."""
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
