"""Published facts of GPT-1: repositories, digests of the files, and golden numbers.

The golden numbers are in `goldens/`, with the source of each. A file is one JSON object: `about`,
`goldens` (a list of rows) and `shared` (fields of every row, which a row may override). `SCHEMAS`
has the form of each kind. Nothing here was computed from files of this machine.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from importlib import resources
from typing import Any, Literal

from reference.errors import RejectedError

Standing = Literal["known", "unknown", "differs"]

REPOSITORIES = ("openai-gpt", "openai-community/openai-gpt")
"""Ids of one and the same repository on Hugging Face's hub; the first is its name of 2018."""

REVISION = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"
"""Commit of that repository that is used by default.

Source: the head of openai-community/openai-gpt's main branch, 21 commits, from its pages.
"""

PARAMETERS = 116_534_784
"""Source: the shapes in openai/finetune-transformer-lm@a69b5c4, model/params_shapes.json."""

_VOCABULARY = "fdf49b19e7de236852091da09b84a7a3cd5e7b0e79916376cf45f6b8127b8078"
_MERGES = "0ea9b51ae695073cd871e0358f7016311d671a7ff3963e367d5236522f294725"

SHA256 = {
    "model.safetensors": "25c82cdf1844d2d93e9120b3b628fc6c2b4fcc7801a1297f58465ba67d45deb3",
    "pytorch_model.bin": "16e27229889ec4dc473665eb83c9cc3441b3b67be77e0e306d1bbb653b40e0fc",
    "vocab.json": _VOCABULARY,
    "merges.txt": _MERGES,
    "encoder_bpe_40000.json": _VOCABULARY,
    "vocab_40000.bpe": _MERGES,
}
"""By file name. The hub's vocabulary is the release's under other names.

Source: the file pages of openai-community/openai-gpt for the weights, which are kept under their
SHA-256 there; for the vocabulary, the files of openai/finetune-transformer-lm@a69b5c4.
"""

GIT_BLOBS = {
    "params_0.npy": "84d83ac1f1cc878f56f33b167482c184491875d2",
    "params_1.npy": "0f19f4d4cda3d8f908e3faffd2cb2a8b9a4039da",
    "params_2.npy": "25bc19c72fdff69505a828ec6d73b32063532148",
    "params_3.npy": "5b2e6958d42a930966c9d602a012eb846ca67c83",
    "params_4.npy": "87ad158987e307e6aa64952610f466d750b73bc7",
    "params_5.npy": "74f3853316bba327229605dbedfe921996f11448",
    "params_6.npy": "5ef44e40bc076d0c9686d1273d54cbc16c3f0980",
    "params_7.npy": "d8d5c8d3bee9b20a677605ac1fe6c7af4df57c94",
    "params_8.npy": "f980f4b393716f396ae5ae6401708dcf4f270dc9",
    "params_9.npy": "d389eb2074dd74754444b8062aba78b49f6a9053",
    "params_shapes.json": "29fac299ae848d7e447be84a33345edcf1b5353c",
    "encoder_bpe_40000.json": "9dc3f0af5a80956e57dc8d9401e16dfadcade7c2",
    "vocab_40000.bpe": "0023a687b3d4d0b795a5e97cc914bdabb5a253df",
}
"""By file name, as `git hash-object` prints them.

Source: the tree of openai/finetune-transformer-lm@a69b5c4, model/.
"""


def standing(
    name: str, *, sha256: str, git_blob: str | None = None, released: bool = False
) -> Standing:
    """Return the provenance status of a file: `known`, `differs` or `unknown`.

    Many models have a `model.safetensors`, so a name alone claims nothing. `differs` needs a caller
    that claims the `released` weights. The name is without folders; digests are hexadecimal.
    """
    published = {SHA256.get(name), GIT_BLOBS.get(name)} - {None}
    if published & {sha256, git_blob}:
        return "known"
    return "differs" if released and published else "unknown"


# A golden: one number, list or text that others computed from the released weights.


class Kind(StrEnum):
    """The quantity that was computed from the weights."""

    GREEDY_IDS = "greedy_ids"
    LOGITS_SHAPE = "logits_shape"
    ARGMAX = "argmax"
    LOGIT = "logit"
    WORD_PROBABILITIES = "word_probabilities"
    MEDIAN_DIFFERENCE = "median_difference"
    EXP_LOSS = "exp_loss"
    MATRIX_NORMS = "matrix_norms"
    FIRST_PARAMETERS = "first_parameters"
    PARAMETER_COUNT = "parameter_count"
    FILE_DIGEST = "file_digest"
    BEAM_TEXTS = "beam_texts"


class Grade(StrEnum):
    """The reliability of a published value."""

    HARD = "H"
    """Deterministic, and published with its numbers."""
    MEDIUM = "M"
    """The same with one ambiguity."""


class Measure(StrEnum):
    """A distance of two values."""

    EXACT = "exact"
    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    LOG = "log"
    """Difference of the natural logarithms: of probabilities, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """A measure and its bound."""

    measure: Measure
    bound: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Symptom:
    """A wrong value `got`, and its cause `means`."""

    got: float
    means: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """One published value."""

    key: str  # `group/name`
    kind: Kind
    grade: Grade
    inputs: Mapping[str, Any]  # the kind's schema has the keys
    expected: Any  # a number, a list of numbers, a text or a list of texts
    tolerance: Tolerance
    source: str
    symptoms: tuple[Symptom, ...] = ()
    note: str = ""

    @property
    def group(self) -> str:
        """The part of the key before the slash."""
        return self.key.partition("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goldens:
    """Goldens of one set of weights, with distinct keys."""

    about: str  # the weights, in words
    rows: tuple[Golden, ...]
    sha256: str | None = None  # over the tensors; None if the files identify the weights


@dataclasses.dataclass(frozen=True)
class Form:
    """A requirement on a value, `what` in words for the error."""

    what: str
    holds: Callable[[Any], bool]


def _whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _real(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(holds, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


TEXT = Form("a text", _is_text)
_TEXTS = Form("a list of texts", _list_of(_is_text))
_COUNT = Form("a whole number of at least 1", lambda value: _whole(value, 1))
_ID = Form("a token id", _whole)
_IDS = Form("a list of token ids", _list_of(_whole))
NUMBER = Form("a finite number", _real)
_NUMBERS = Form("a list of finite numbers", _list_of(_real))
_PROBABILITIES = Form(
    "a list of probabilities above 0", _list_of(lambda p: _real(p) and 0.0 < p <= 1.0)
)
_BAN = Form("0 or 1", lambda value: _whole(value) and value <= 1)
_YES_NO = Form("true or false", lambda value: isinstance(value, bool))


def one_of(*values: str) -> Form:
    """Return the form of one of some values."""
    return Form(f"one of {', '.join(values)}", lambda value: value in values)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The forms of a kind's inputs and of its expected value."""

    inputs: Mapping[str, Form]
    expected: Form
    exact: bool = False  # whether the value must be equal; else it has a tolerance
    agree: Form = Form("anything", lambda _pair: True)  # of the pair (inputs, expected)


QUANTITIES = ("rms", "frobenius_over_sqrt2", "half_sigma_max_squared", "stable_rank")
STATISTICS = ("least", "largest", "mean")
ALGORITHMS = ("sha256", "git_blob")

_BEAM = {
    "prompt": TEXT,
    **dict.fromkeys(("num_beams", "max_length", "num_return_sequences"), _COUNT),
    "length_penalty": NUMBER,
    "no_repeat_ngram_size": _ID,
    "early_stopping": _YES_NO,
}

_CONTINUES = Form(
    "token_ids and what follows them, total_length in all",
    lambda pair: (
        len(pair[1]) == pair[0]["total_length"] > len(pair[0]["token_ids"])
        and pair[1][: len(pair[0]["token_ids"])] == pair[0]["token_ids"]
    ),
)
_ONE_EACH = Form(
    "one probability for each word", lambda pair: len(pair[1]) == len(pair[0]["words"])
)
_GREEDY = {"token_ids": _IDS, "total_length": _COUNT, "no_repeat_ngram_size": _BAN}
_WORDS = {"token_ids": _IDS, "words": _IDS}
_NORMS = {
    "matrices": _COUNT,
    "quantity": one_of(*QUANTITIES),
    "statistic": one_of(*STATISTICS),
}

SCHEMAS: dict[Kind, Schema] = {
    Kind.GREEDY_IDS: Schema(_GREEDY, _IDS, exact=True, agree=_CONTINUES),
    Kind.LOGITS_SHAPE: Schema({"token_ids": _IDS}, _IDS, exact=True),
    Kind.ARGMAX: Schema({"token_ids": _IDS}, _ID, exact=True),
    Kind.LOGIT: Schema({"token_ids": _IDS, "id": _ID}, NUMBER),
    Kind.WORD_PROBABILITIES: Schema(_WORDS, _PROBABILITIES, agree=_ONE_EACH),
    Kind.MEDIAN_DIFFERENCE: Schema({"group": TEXT}, NUMBER),
    Kind.EXP_LOSS: Schema({"token_ids": _IDS}, NUMBER),
    Kind.MATRIX_NORMS: Schema(_NORMS, NUMBER),
    Kind.FIRST_PARAMETERS: Schema({"tensor": TEXT}, _NUMBERS),
    Kind.PARAMETER_COUNT: Schema({}, _COUNT, exact=True),
    Kind.FILE_DIGEST: Schema({"file": TEXT, "algorithm": one_of(*ALGORITHMS)}, TEXT, exact=True),
    Kind.BEAM_TEXTS: Schema(_BEAM, _TEXTS, exact=True),
}

# The reader of the files in `goldens/`.

FILES = tuple(
    f"{name}.json" for name in ("generation", "losses", "word_probabilities", "matrices", "files")
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
        RejectedError: A file is not well formed; file and row are named.
    """
    folder = resources.files("reference").joinpath("goldens")
    texts = {name: folder.joinpath(name).read_text("utf-8") for name in FILES}
    rows = [row for name, text in texts.items() for row in parse(text, where=name)]
    return Goldens(about="the released openai-gpt weights", rows=_distinct(rows))


def parse(text: str, *, where: str) -> list[Golden]:
    """Return the goldens of the text of one file, whose name is `where`.

    Raises:
        RejectedError: It is not well formed; the row is named.
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
    """Return one row, completed by the shared fields; errors name its key."""
    fields = {**shared, **_mapping(row, "a row", where)}
    where = f"{where} ({fields.get('key')!r})"
    _names(set(fields), _FIELDS, _OPTIONAL, where)
    for name, form in _FORMS.items():
        _require(form, fields.get(name, _ABSENT[name]), name, where)
    kind, inputs, expected = Kind(fields["kind"]), fields["inputs"], fields["expected"]
    schema = SCHEMAS[kind]
    _names(set(inputs), set(schema.inputs), set(), f"{where}, inputs")
    for name, form in schema.inputs.items():
        _require(form, inputs[name], f"inputs.{name}", where)
    _require(schema.expected, expected, "expected", where)
    _require(schema.agree, (inputs, expected), "inputs and expected", where)
    return Golden(
        key=fields["key"],
        kind=kind,
        grade=Grade(fields["grade"]),
        inputs=inputs,
        expected=expected,
        tolerance=_tolerance(schema, fields["tolerance"], where),
        source=fields["source"],
        symptoms=tuple(_symptom(entry, where) for entry in fields.get("symptoms", [])),
        note=fields.get("note", ""),
    )


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
    """Return the rows, whose keys must differ."""
    by_key: dict[str, Golden] = {}
    for row in rows:
        if row.key in by_key:
            raise _refused("two rows have this key", row.key)
        by_key[row.key] = row
    return tuple(by_key.values())


def _names(given: set[str], required: set[str], optional: set[str], where: str) -> None:
    found = {"missing": required - given, "unknown": given - required - optional}
    faults = [f"{what} {sorted(names)}" for what, names in found.items() if names]
    if faults:
        raise _refused("; ".join(faults), where)


def _mapping(value: object, name: str, where: str) -> dict[str, Any]:
    _require(_OBJECT, value, name, where)
    assert isinstance(value, dict)  # noqa: S101 - just required
    return value


def _require(form: Form, value: object, name: str, where: str) -> None:
    if not form.holds(value):
        raise _refused(f"{name} must be {form.what}, got {value!r}", where)


def _refused(what: str, where: str) -> RejectedError:
    return RejectedError(what, where=where, fix="correct the file in reference/goldens")
