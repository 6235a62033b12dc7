"""The run's log: a line of JSON for every step, each step once."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scratch_gpt.files import strict_json
from scratch_gpt.files.write_error import write_error


class Log:
    """An open log. Lines appear whole or, where the process is killed, not at all after a resume.

    Raises:
        WriteError: The file system refused a line.
    """

    def __init__(self, path: Path, *, step: int, warn: Callable[[str], None]) -> None:
        """Open a log behind the line of a step; what a killed process wrote further is dropped.

        Args:
            path: The file; made where it is missing.
            step: The last step that counts.
            warn: Is told where earlier steps are missing.
        """
        self.path = path
        try:
            _cut(path, step, warn)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._told(error) from error

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write one line; numbers that are not finite become text."""
        line = json.dumps({name: _strict(value) for name, value in fields.items()})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise self._told(error) from error

    def settle(self) -> None:
        """Wait until all lines are on the disk: a checkpoint must not know more than the log."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Close the file; what could not be written was already told."""
        self._file.close()

    def _told(self, error: OSError) -> OSError:
        return write_error(error, self.path) or error


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole, in their order."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines(keepends=True):
        fields = _fields(line)
        if fields is None:
            break
        found.append(fields)
    return found


def _fields(line: bytes) -> dict[str, Any] | None:
    """Return a line's fields, None for a line that was never finished, or that is no step's."""
    try:
        fields = strict_json.loads(line)
    except ValueError:
        return None
    if not line.endswith(b"\n") or not isinstance(fields, dict):
        return None
    return fields if isinstance(fields.get("step"), int) else None


def _cut(path: Path, step: int, warn: Callable[[str], None]) -> None:
    """Keep the lines up to a step, in one step."""
    kept = [fields for fields in read(path) if fields["step"] <= step]
    if step and len(kept) != step:
        warn(f"{path.name} holds {len(kept)} of the {step} steps done")
    text = "".join(json.dumps(fields) + "\n" for fields in kept)
    aside = path.with_name(f"{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _strict(value: Any) -> Any:  # noqa: ANN401 - whatever is logged
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else repr(value)
