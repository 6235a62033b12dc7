"""What a conversion wrote down about itself, beside the weights that it wrote."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from parity.provenance import FileDigest, Provenance
from parity.sources import json_file

NAME = "conversion.json"
_VERSIONS = ("gpt1-parity", "torch", "numpy", "safetensors")


def text(
    source: Provenance,
    *,
    form: str,
    tensors: Mapping[str, Any],
    files: Sequence[FileDigest],
    shards: Sequence[int] | None,
) -> str:
    """Return the manifest of one conversion.

    Args:
        source: What was converted.
        form: Whose form was written.
        tensors: Our name to array: their shapes are listed.
        files: What was written.
        shards: How many numbers each of the release's shards holds or held.
    """
    described = {
        "form": form,
        "source": source.identity,
        "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in files},
        "tensors": {name: list(array.shape) for name, array in tensors.items()},
        "shards": None if shards is None else list(shards),
        "versions": {package: _version(package) for package in _VERSIONS},
    }
    return json.dumps(described, indent=1, allow_nan=False) + "\n"


def shards(folder: Path) -> list[int] | None:
    """Return how the release was cut that a folder's weights were converted from, if it is known.

    Raises:
        InputRefusedError: There is a manifest, and it is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    lengths = json_file.read(path).get("shards")
    if lengths is None:
        return None
    if not isinstance(lengths, list) or not all(type(n) is int and n > 0 for n in lengths):
        raise json_file.refused(path, f"its shards are no lengths: {str(lengths)[:60]}")
    return lengths


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
