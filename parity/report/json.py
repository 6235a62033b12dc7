"""A report as strict JSON, a row a line: versioned, and without NaN or Infinity.

A number that is not finite is written as null where it is an error, and as a string
(`"nan"`, `"inf"`, `"-inf"`) where it is a value that a model produced.

The schema is `parity/report/report.schema.json`; `python -m parity.report.json` prints it.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.core.results import SCHEMA_VERSION, Report
from parity.errors import InputRejectedError, mapped_errors
from parity.options import LARGEST_REPORT
from scratch_gpt.checkpoint.strict_io import open_regular

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def render(report: Report) -> str:
    """Return the report as one JSON document, ending in a newline."""
    document = {"schema_version": SCHEMA_VERSION, **_plain(report)}
    lines = (f"{json.dumps(key)}: {_dumped(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dumped(value: object) -> str:
    """Return a value in one line, or a list with a line for each entry."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    entries = ",\n ".join(json.dumps(entry, allow_nan=False) for entry in value)
    return f"[\n {entries}\n]"


def _plain(value: Any) -> Any:  # noqa: ANN401 - the shapes of a JSON document
    """Return `value` made of dicts, lists, strings, finite numbers, booleans and None."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry) for entry in value]
    return value


def read_report(path: str | os.PathLike[str]) -> Report:
    """Return the report in a JSON file.

    Raises:
        InputRejectedError: It is no report, or one of another schema.
        EnvironmentUnfitError: The file cannot be read.
    """
    from pydantic import ValidationError

    rejected = partial(
        InputRejectedError,
        where=str(path),
        fix="make it again: python -m parity.check VERB --output FILE.json",
    )
    with mapped_errors(), open_regular(Path(path)) as stream:
        text = stream.read(LARGEST_REPORT + 1)
    if len(text) > LARGEST_REPORT:
        raise rejected(f"it is no report: it has more than {LARGEST_REPORT:,} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise rejected(f"it is no JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        found = "none" if version is None else str(version)[:20]
        raise rejected(f"its schema_version is {found}; this version reads {SCHEMA_VERSION}")
    try:
        return _adapter().validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise rejected(f"it is no report: {place}: {first['msg']}") from error


def schema() -> dict[str, Any]:
    """Return the JSON schema of a report."""
    found: dict[str, Any] = _adapter().json_schema()
    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_with_infinities(found),
        "title": f"A report of gpt1-parity, schema {SCHEMA_VERSION}",
    }
    found["properties"] = {"schema_version": {"const": SCHEMA_VERSION}, **found["properties"]}
    found["required"] = ["schema_version", *found["required"]]
    return found


def _with_infinities(part: Any) -> Any:  # noqa: ANN401 - a part of a schema
    """Return a part of a schema in which a number may also be one of three strings."""
    if isinstance(part, list):
        return [_with_infinities(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "number":
        return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
    return {key: _with_infinities(value) for key, value in part.items()}


def _adapter() -> "TypeAdapter[Report]":
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))  # noqa: T201 - the file is made from it
