"""What a conversion wrote down about itself, beside the weights that it wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.provenance import FileDigest, Provenance
from parity.sources import json_file
from parity.weights import Shard
from reference import compat

NAME = "conversion.json"
_VERSIONS = ("gpt1-parity", "torch", "numpy", "safetensors")


def text(
    source: Provenance,
    *,
    form: str,
    tensors: Mapping[str, Any],
    files: Sequence[FileDigest],
    shards: Sequence[Shard] | None,
) -> str:
    """Return the manifest of one conversion.

    Args:
        source: What was converted.
        form: Whose form was written.
        tensors: Our name to array: their shapes are listed.
        files: What was written.
        shards: How the release's shards are or were cut.
    """
    described = {
        "form": form,
        "source": source.identity,
        "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in files},
        "tensors": {name: list(array.shape) for name, array in tensors.items()},
        "shards": None if shards is None else [shard._asdict() for shard in shards],
        "versions": {package: compat.told(package) for package in _VERSIONS},
    }
    return json.dumps(described, indent=1, allow_nan=False) + "\n"


def shards(folder: Path, files: Sequence[FileDigest]) -> list[Shard] | None:
    """Return how the release was cut that a folder's weights were converted from, if it is known.

    A manifest of other files than were read is one of weights that are there no more.

    Args:
        folder: Where to look.
        files: What was read of it.

    Raises:
        InputRefusedError: There is a manifest, and it is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    manifest = json_file.read(path)
    found, written = manifest.get("shards"), manifest.get("files")
    if found is None:
        return None
    if not isinstance(found, list) or not all(map(_is_shard, found)):
        raise json_file.refused(path, f"its shards are no lengths and headers: {str(found)[:60]}")
    if not isinstance(written, dict) or any(
        written.get(file.name) != {"size": file.size, "sha256": file.sha256} for file in files
    ):
        return None
    return [Shard(**shard) for shard in found]


def _is_shard(found: object) -> bool:
    """Return whether something out of a manifest describes a shard; its writer looks closer."""
    return (
        isinstance(found, dict)
        and set(found) == set(Shard._fields)
        and type(found["length"]) is int
        and isinstance(found["header"], str)
    )
