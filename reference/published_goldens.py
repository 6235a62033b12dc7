"""Published numbers of the released weights, read from `goldens/` and checked to be well formed.

The files hold data and where each row comes from; nothing here has run those weights. A file is
one JSON object: `about`, `goldens` (a list of rows), and `shared` (what all its rows have in
common, so that it is written once; a row's own word wins). What a row must hold is
`reference.golden_schema`.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from reference.golden_schema import (
    NUMBER,
    SCHEMAS,
    TEXT,
    Form,
    Golden,
    Goldens,
    Grade,
    Kind,
    Measure,
    Schema,
    Symptom,
    Tolerance,
    one_of,
)
from reference.refusal import RefusedError

FILES = (
    "generation.json",
    "losses.json",
    "word_probabilities.json",
    "matrices.json",
    "files.json",
)
"""In the order in which they are reported."""

_OBJECT = Form("an object", lambda entry: isinstance(entry, dict))
_FORMS = {
    "key": Form("a name of the form group/name", lambda key: TEXT.holds(key) and "/" in key[1:-1]),
    "source": TEXT,
    "kind": one_of(*Kind),
    "grade": one_of(*Grade),
    "inputs": _OBJECT,
    "tolerance": _OBJECT,
    "symptoms": Form("a list", lambda entry: isinstance(entry, list)),
    "note": Form("a text", lambda entry: isinstance(entry, str)),
}
_ABSENT: dict[str, Any] = dict.fromkeys(_FORMS) | {"symptoms": [], "note": ""}
_FIELDS = {"key", "kind", "grade", "inputs", "expected", "tolerance", "source"}
_OPTIONAL = {"symptoms", "note"}
_FILE_FIELDS = {"about", "shared", "goldens", "licence"}


def published() -> Goldens:
    """Return every published golden of the released openai-gpt weights.

    Raises:
        RefusedError: A file is not well formed; file and row are named.
    """
    folder = resources.files("reference").joinpath("goldens")
    rows = [
        row for name in FILES for row in parse(folder.joinpath(name).read_text("utf-8"), where=name)
    ]
    return Goldens(about="the released openai-gpt weights", rows=_distinct(rows))


def parse(text: str, *, where: str) -> list[Golden]:
    """Return the goldens of one file's text.

    Args:
        text: JSON, as the module says.
        where: The file's name, for errors.

    Raises:
        RefusedError: It is not well formed; the row is named.
    """
    try:
        document = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise _refused(f"not strict JSON: {error}", where) from error
    if not isinstance(document, dict) or not isinstance(document.get("goldens"), list):
        raise _refused("no object with a list of goldens", where)
    _names(set(document), _FILE_FIELDS - {"licence"}, {"licence"}, where)
    _require(TEXT, document["about"], "about", where)
    _mapping(document["shared"], "shared", where)
    if not document["goldens"]:
        raise _refused("its list of goldens is empty", where)
    return [
        _golden(row, document["shared"], f"{where}, row {index}")
        for index, row in enumerate(document["goldens"])
    ]


def _no_number(literal: str) -> None:
    message = f"{literal} is no number of JSON's"
    raise ValueError(message)


def _golden(row: object, shared: Mapping[str, Any], where: str) -> Golden:
    """Return one row with what it shares; where its key can be read, errors name it."""
    fields = {**shared, **_mapping(row, "a row", where)}
    where = f"{where} ({fields.get('key')!r})"
    _names(set(fields), _FIELDS, _OPTIONAL, where)
    for name, form in _FORMS.items():
        _require(form, fields.get(name, _ABSENT[name]), name, where)
    schema = SCHEMAS[Kind(fields["kind"])]
    _check_kind(schema, fields, where)
    return Golden(
        key=fields["key"],
        kind=Kind(fields["kind"]),
        grade=Grade(fields["grade"]),
        inputs=fields["inputs"],
        expected=fields["expected"],
        tolerance=_tolerance(schema, fields["tolerance"], where),
        source=fields["source"],
        symptoms=tuple(_symptom(entry, where) for entry in fields.get("symptoms", [])),
        note=fields.get("note", ""),
    )


def _check_kind(schema: Schema, fields: Mapping[str, Any], where: str) -> None:
    """Require the inputs and the answer that the kind has."""
    inputs, expected = fields["inputs"], fields["expected"]
    _names(set(inputs), set(schema.inputs), set(), f"{where}, inputs")
    for name, form in schema.inputs.items():
        _require(form, inputs[name], f"inputs.{name}", where)
    _require(schema.expected, expected, "expected", where)
    _require(schema.agree, (inputs, expected), "inputs and expected", where)


def _tolerance(schema: Schema, fields: dict[str, Any], where: str) -> Tolerance:
    _names(set(fields), {"measure", "bound"}, set(), f"{where}, tolerance")
    measures = [m for m in Measure if schema.exact == (m is Measure.EXACT)]
    _require(one_of(*measures), fields["measure"], "tolerance.measure", where)
    bound = (
        Form("0, being exact", lambda value: NUMBER.holds(value) and value == 0.0)
        if schema.exact
        else Form("a finite number above 0", lambda value: NUMBER.holds(value) and value > 0.0)
    )
    _require(bound, fields["bound"], "tolerance.bound", where)
    return Tolerance(measure=Measure(fields["measure"]), bound=fields["bound"])


def _symptom(entry: object, where: str) -> Symptom:
    fields = _mapping(entry, "a symptom", where)
    _names(set(fields), {"got", "means"}, set(), f"{where}, symptoms")
    _require(NUMBER, fields["got"], "symptoms.got", where)
    _require(TEXT, fields["means"], "symptoms.means", where)
    return Symptom(got=fields["got"], means=fields["means"])


def _distinct(rows: Iterable[Golden]) -> tuple[Golden, ...]:
    """Return the rows; two with one key would be one in a report.

    Raises:
        RefusedError: Two have the same key.
    """
    by_key: dict[str, Golden] = {}
    for row in rows:
        if row.key in by_key:
            raise _refused("two rows have this key", row.key)
        by_key[row.key] = row
    return tuple(by_key.values())


def _names(given: set[str], required: set[str], optional: set[str], where: str) -> None:
    found = {
        "missing": sorted(required - given),
        "unknown": sorted(given - required - optional),
    }
    if any(found.values()):
        raise _refused(
            "; ".join(f"{what} {names}" for what, names in found.items() if names), where
        )


def _mapping(value: object, name: str, where: str) -> dict[str, Any]:
    _require(_OBJECT, value, name, where)
    assert isinstance(value, dict)  # noqa: S101 - just required
    return value


def _require(form: Form, value: object, name: str, where: str) -> None:
    if not form.holds(value):
        raise _refused(f"{name} must be {form.what}, got {value!r}", where)


def _refused(what: str, where: str) -> RefusedError:
    return RefusedError(what, where=where, fix="correct the file in reference/goldens")
