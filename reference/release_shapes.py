"""The shapes of OpenAI's release: `params_shapes.json`, and what a GPT-1's must be."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from reference.refusal import RefusedError

Shape = tuple[int, ...]

NAME = "params_shapes.json"
PER_BLOCK = 12
"""Tensors of one block; before the first stand positions and tokens."""

RELEASED_SIZES = {"n_positions": 512, "vocab_size": 40_478, "n_embd": 768, "n_layer": 12}
RELEASED_HEADS = 12
"""Of the published model. In no tensor's shape: other shapes need a config to say it."""

_FIX = "give the params_shapes.json that belongs to these shards"


def gpt(*, n_positions: int, vocab_size: int, n_embd: int, n_layer: int) -> list[Shape]:
    """Return every shape of a GPT-1 of these sizes, in the release's order.

    Positions `[n_positions, width]` come first, then tokens `[vocab, width]`, then the blocks, in
    which each matrix is a convolution of width one: `[1, in, out]`.

    Source: openai/finetune-transformer-lm, model/params_shapes.json and train.py:404-411.
    """
    width, inner = n_embd, 4 * n_embd
    block: list[Shape] = [
        *((1, width, 3 * width), (3 * width,), (1, width, width), (width,)),
        *((width,), (width,)),
        *((1, width, inner), (inner,), (1, inner, width), (width,)),
        *((width,), (width,)),
    ]
    return [(n_positions, width), (vocab_size, width), *block * n_layer]


def parse(text: bytes, where: str) -> list[Shape]:
    """Return the shapes that `params_shapes.json` lists.

    Raises:
        RefusedError: It is not JSON, no list of lists of positive integers, or not a GPT-1's.
    """
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{NAME} is not JSON ({type(error).__name__})"
        raise RefusedError(what, where=where, fix=_FIX) from error
    if not isinstance(listed, list) or not all(map(_is_shape, listed)):
        what = f"{NAME} is not a list of lists of positive integers"
        raise RefusedError(what, where=where, fix=_FIX)
    shapes = [tuple(shape) for shape in listed]
    sizes(shapes, where)
    return shapes


def dump(shapes: Sequence[Shape]) -> bytes:
    """Return `params_shapes.json` as the release writes it: one line, no newline at its end."""
    return json.dumps(shapes).encode()


def sizes(shapes: Sequence[Shape], where: str) -> dict[str, int]:
    """Return the sizes, in Hugging Face's field names, of the GPT-1 that has these shapes.

    Raises:
        RefusedError: No GPT-1 has them.
    """
    n_layer, left = divmod(len(shapes) - 2, PER_BLOCK)
    if n_layer < 1 or left:
        what = f"there are {len(shapes)} tensors, where a GPT-1 has 2 and {PER_BLOCK} a block"
        raise RefusedError(what, where=where, fix=_FIX)
    found = {
        "n_positions": shapes[0][0],
        "vocab_size": shapes[1][0],
        "n_embd": shapes[0][-1],
        "n_layer": n_layer,
    }
    for index, (shape, due) in enumerate(zip(shapes, gpt(**found), strict=True)):
        if shape != due:
            what = f"tensor {index} has shape {list(shape)!s:.60}, where {list(due)} is due"
            raise RefusedError(what, where=where, fix=_FIX)
    return found


def count(shapes: Sequence[Shape]) -> int:
    """Return the number of parameters of all shapes together."""
    return sum(math.prod(shape) for shape in shapes)


def check_config(shapes: Sequence[Shape], config: Mapping[str, Any] | None, where: str) -> None:
    """Hold a config against the shapes; without one, hold the shapes against the published ones.

    Raises:
        RefusedError: A size differs, or no config says how many heads these shapes have.
    """
    found = sizes(shapes, where)
    if config is None:
        if found == RELEASED_SIZES:
            return
        what = (
            "no config.json says how many heads there are, and these are not the published shapes"
        )
        raise RefusedError(what, where=where, fix="put the model's config.json beside the shards")
    for name, size in found.items():
        said = config.get(name)
        if said != size or isinstance(said, bool):
            what = f"config.json says {name}={said!r:.40}, the tensors say {size}"
            raise RefusedError(what, where=where, fix="give the config.json of these shards")


def _is_shape(entry: object) -> bool:
    """Return whether `entry` is a list of positive integers; `true` is none."""
    return (
        isinstance(entry, list)
        and bool(entry)
        and all(type(size) is int and size > 0 for size in entry)
    )
