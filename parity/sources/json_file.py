"""A small JSON file beside weights: a config, an index, a manifest."""

from pathlib import Path
from typing import Any

from parity.errors import InputRefusedError
from scratch_gpt.files import strict_json
from scratch_gpt.files.regular_file import opened

_LARGEST = 16 << 20
"""Bytes; an index of ten thousand tensors has one."""


def read(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputRefusedError: It is too large, no JSON, or no object.
        CheckpointError: There is no such file, or it cannot be read.
    """
    with opened(path) as file:
        text = file.read(_LARGEST + 1) or b""
    if len(text) > _LARGEST:
        raise refused(path, f"it has more than {_LARGEST:,} bytes")
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise refused(path, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise refused(path, f"it holds a {type(found).__name__}, not an object")
    return found


def refused(path: Path, what: str) -> InputRefusedError:
    """Return the refusal of a JSON file that is not what it must be."""
    return InputRefusedError(
        f"{path.name}: {what}", where=str(path), fix="take the file that belongs to the weights"
    )
