"""A folder's list of its own files, with their digests: what is listed can be told from damage."""

import hashlib
import json
from pathlib import Path
from typing import Any

from scratch_gpt.files import strict_json
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.shown import one_line, shown

NAME = "manifest.json"

_LARGEST = 1_000_000
_DAMAGED = "use another checkpoint; this one is damaged"


def seal(folder: Path) -> None:
    """List every file of a folder in `manifest.json`: the last file written."""
    files = {file.name: digest_of(file) for file in sorted(folder.iterdir()) if file.name != NAME}
    text = json.dumps({"version": 1, "sha256": files}, indent=2) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def require_sealed(folder: Path, *, needed: frozenset[str]) -> None:
    """Require that every listed file is there and is what it was.

    Args:
        folder: Where the manifest is. Files that it does not list are not looked at.
        needed: Names that it has to list.

    Raises:
        CheckpointError: The manifest is missing or unsound, a file is, or it was changed.
    """
    listed = _listed(folder / NAME)
    if missing := sorted(needed - set(listed)):
        _refuse(folder / NAME, f"it does not list {', '.join(missing)}")
    for name, expected in listed.items():
        if name != Path(name).name:
            _refuse(folder / NAME, f"{shown(name)} is no name of a file")
        if digest_of(folder / name) != expected:
            _refuse(folder / name, "it is not the file that was written")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        CheckpointError: There is no such file, or it may not be read.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # BinaryIO lacks readinto


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file spells.

    Raises:
        CheckpointError: There is no such file, or it is no strict JSON object.
    """
    with opened(path) as file:
        text = file.read(_LARGEST + 1)
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"it is not sound JSON: {error}", where=one_line(path), fix=_DAMAGED
        ) from error
    if not isinstance(found, dict):
        _refuse(path, "it is not a JSON object")
    return dict(found)


def _listed(path: Path) -> dict[str, Any]:
    fields = read_json(path)
    if fields.get("version") != 1 or not isinstance(fields.get("sha256"), dict):
        _refuse(path, "it is no manifest of this version")
    return dict(fields["sha256"])


def _refuse(path: Path, what: str) -> None:
    raise CheckpointError(what, where=one_line(path), fix=_DAMAGED)
