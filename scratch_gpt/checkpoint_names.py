"""A checkpoint's tensors under this model's names: all of them, fitting, or a refusal.

Hugging Face writes our names with the prefix `transformer.`, and the released file has them
without. Two kinds of tensors may stand beside: constants that old versions saved among the
weights, and the head as a second copy of the token embedding.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import shown

PREFIX = "transformer."

_BUFFER = re.compile(r"(transformer\.)?(h\.\d+\.attn\.bias|position_ids)")
_HEAD = "lm_head.weight"
_EMBEDDING = "tokens_embed.weight"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_NAMES = 12

Shapes = Mapping[str, tuple[int, ...]]


def match(found: Mapping[str, Tensor], wanted: Shapes, where: str) -> dict[str, str]:
    """Return the file's name of each tensor, by ours.

    Args:
        found: The file's tensors by the file's names.
        wanted: The shape of each of the model's tensors, by our name.
        where: The file, for messages.

    Raises:
        CheckpointError: Names are missing or unexpected, shapes or dtypes differ, or the head is
            not the token embedding, bit for bit. All that is wrong is said at once.
    """
    prefix = PREFIX if any(name.startswith(PREFIX) for name in found) else ""
    theirs = {name: prefix + name for name in wanted}
    problems = _problems(found, wanted, theirs)
    if problems:
        what = f"its tensors are not this model's: {'; '.join(problems)}"
        raise CheckpointError(what, where=where, fix=_fix(found, wanted, theirs))
    return theirs


def _problems(found: Mapping[str, Tensor], wanted: Shapes, theirs: Mapping[str, str]) -> list[str]:
    """Return one phrase for each kind of problem."""
    missing = [name for name in theirs.values() if name not in found]
    known = {*theirs.values(), _HEAD}
    unexpected = [name for name in found if name not in known and not _BUFFER.fullmatch(name)]
    present = {name: found[theirs[name]] for name in wanted if theirs[name] in found}
    shapes = [
        f"{theirs[name]} is {list(tensor.shape)}, expected {list(wanted[name])}"
        for name, tensor in present.items()
        if tuple(tensor.shape) != wanted[name]
    ]
    dtypes = [
        f"{theirs[name]} is {tensor.dtype}"
        for name, tensor in present.items()
        if tensor.dtype not in _DTYPES
    ]
    kinds = {
        "missing": map(shown, missing),
        "unexpected": map(shown, unexpected),
        "of another shape": shapes,
        "of a dtype that is not float32, float16 or bfloat16": dtypes,
        "untied": _untied(found, present),
    }
    return [phrase for kind, names in kinds.items() if (phrase := _phrase(kind, names))]


def _phrase(kind: str, names: Iterable[str]) -> str:
    """Return how many there are and which, or nothing where there are none."""
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return f"{len(listed)} {kind}: {', '.join(listed[:_MOST_NAMES])}{more}" if listed else ""


def _untied(found: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase where the file has a head of its own."""
    head, embedding = found.get(_HEAD), present.get(_EMBEDDING)
    if head is None or embedding is None or _same_bits(head, embedding):
        return []
    return [f"{_HEAD} differs from {_EMBEDDING}, which is the head here"]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (one, other)))


def _fix(found: Mapping[str, Tensor], wanted: Shapes, theirs: Mapping[str, str]) -> str:
    """Return the way out, with a guess at what happened where there is one."""
    if not any(name in found for name in theirs.values()):
        prefix = _strange_prefix(found, wanted)
        if prefix:
            return f"no name matches, but all would without the prefix {shown(prefix)}: rename them"
    transposed = [
        theirs[name]
        for name, shape in wanted.items()
        if theirs[name] in found and tuple(found[theirs[name]].shape) == shape[::-1] != shape
    ]
    if transposed:
        return f"transpose {transposed[0]} and its like: weights are [in, out] here"
    return "check that the file and its config.json belong together"


def _strange_prefix(found: Mapping[str, Tensor], wanted: Shapes) -> str | None:
    """Return what stands before our name in every one of the names we want."""
    prefixes = {name.removesuffix(_EMBEDDING) for name in found if name.endswith(_EMBEDDING)}
    return next((p for p in sorted(prefixes) if all(p + name in found for name in wanted)), None)
