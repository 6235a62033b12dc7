"""A report as strict JSON: versioned, and no NaN or Infinity, which are no JSON.

A number that is not finite is written as null where it is an error, and as a string
(`"nan"`, `"inf"`, `"-inf"`) where it is a value that a model produced.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from parity.core.results import SCHEMA_VERSION, Plan, Reason, Report, verdict_for
from parity.errors import ParityError


def render(report: Report) -> str:
    """Return the report as one JSON document, ending in a newline."""
    document = {"schema_version": SCHEMA_VERSION, **_plain(report)}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def render_error(error: ParityError, *, check: str) -> str:
    """Return the document, with every key of a report's, of a run that ended before one."""
    reason = Reason(what=error.what, where=error.where, fix=error.fix, code=error.exit_code)
    report = Report(
        check=check,
        verdict=verdict_for(error.exit_code),
        exit_code=error.exit_code,
        identity={},
        environment={},
        plan=Plan(planned=0, compared=0, per_backend={}, exempt=[]),
        reasons=[reason],
    )
    return render(report)


def _plain(value: Any) -> Any:  # noqa: ANN401 - the shapes of a JSON document
    """Return `value` made of dicts, lists, strings, finite numbers, booleans and None."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry) for entry in value]
    return value
