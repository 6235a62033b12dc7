"""What a golden is: one number, list or text that others got from known weights.

Every kind has one row in `SCHEMAS`: what it needs to be given, and what form its answer has.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What was got from the weights."""

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
    """How far a published value can be trusted."""

    HARD = "H"
    """Deterministic, and published with its numbers."""
    MEDIUM = "M"
    """The same with one ambiguity."""


class Measure(StrEnum):
    """How far apart two values are."""

    EXACT = "exact"
    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    LOG = "log"
    """Difference of the natural logarithms: of probabilities, in nats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The bound of a difference, and in what it is measured."""

    measure: Measure
    bound: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Symptom:
    """A wrong value whose cause is known.

    Attributes:
        got: The value.
        means: What is wrong where it is got.
    """

    got: float
    means: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """One published value.

    Attributes:
        key: Its name, `group/name`.
        kind: What was got.
        grade: How far it can be trusted.
        inputs: What it was got from; the keys are its kind's.
        expected: The value: a number, a list of numbers, a text or a list of texts.
        tolerance: How far from it right code may be.
        source: Where it was published.
        symptoms: Wrong values whose cause is known.
        note: What else a reader should know.
    """

    key: str
    kind: Kind
    grade: Grade
    inputs: Mapping[str, Any]
    expected: Any
    tolerance: Tolerance
    source: str
    symptoms: tuple[Symptom, ...] = ()
    note: str = ""

    @property
    def group(self) -> str:
        """What its key has before the slash."""
        return self.key.partition("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goldens:
    """Goldens of one set of weights.

    Attributes:
        about: Which weights, in words.
        rows: The goldens; no two have the same key.
        sha256: The digest over tensors by which those weights are known; None where they are
            known by the files that they were published in.
    """

    about: str
    rows: tuple[Golden, ...]
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Form:
    """What a value must be.

    Attributes:
        what: In words, for the error.
        holds: Whether a value is one.
    """

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
    """Return the form of a choice."""
    return Form(f"one of {', '.join(values)}", lambda value: value in values)


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a kind is given, and the form of its answer.

    Attributes:
        inputs: The form of each input.
        expected: The form of the answer.
        exact: Whether an answer is right or wrong; else it has a tolerance.
        agree: What must hold between (inputs, expected).
    """

    inputs: Mapping[str, Form]
    expected: Form
    exact: bool = False
    agree: Form = Form("anything", lambda _pair: True)


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
"""Every kind's form."""
