"""A dataclass from JSON: every field, of its type, and nothing else."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from scratch_gpt.files.shown import shown

T = TypeVar("T")


def from_json(kind: type[T], value: object) -> T:
    """Return the dataclass that a JSON object spells.

    Fields are texts, truth values, numbers that are not negative, dataclasses, or tuples of one
    of these; in JSON a tuple is an array.

    Args:
        kind: The dataclass.
        value: What was read.

    Raises:
        ValueError: A field is missing, unknown, negative or of another type; which one is said.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"the {kind.__name__.lower()} is not an object")  # noqa: TRY004 - of a file
    types = typing.get_type_hints(kind)
    if differing := sorted(types.keys() ^ value.keys()):
        raise ValueError(f"missing or unknown: {', '.join(map(shown, differing))}")
    return kind(**{name: _field(name, types[name], value[name]) for name in types})


def _field(name: str, kind: Any, value: object) -> object:  # noqa: ANN401 - any annotation
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast("type[object]", kind), value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_field(name, typing.get_args(kind)[0], item) for item in value)
    if type(value) is not kind or (isinstance(value, int | float) and value < 0):
        raise ValueError(f"{name} is {shown(value)}")
    return value
