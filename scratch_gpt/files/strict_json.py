"""JSON as its specification has it: what Python's reader lets pass besides is refused."""

import json
import math
from typing import Any

from scratch_gpt.files.shown import shown


def loads(text: bytes) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the value that `text` spells.

    Raises:
        ValueError: It is not UTF-8 or not JSON, repeats a key within one object, holds a number
            that is not finite, or is nested deeper than Python's stack; the message is one line.

    Source: RFC 8259; of duplicate keys it says "SHOULD be unique", and here they must be.
    """
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        places = {name: place for place, (name, _) in enumerate(pairs)}  # the last of each
        twice = next(name for place, (name, _) in enumerate(pairs) if places[name] != place)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return found


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"{literal} is not JSON")


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(literal)} is too large")
    return value
