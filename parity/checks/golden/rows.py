"""Rows of goldens: expected value, computed value, and their difference."""

import dataclasses
import math
from typing import Any

from parity.core.metrics import Status
from parity.core.results import Mode, Row
from reference.published import Golden, Measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """What was got for a golden.

    Attributes:
        got: In the form of what is expected.
        difference: How far that is from it, in the tolerance's measure. For ids it is the lead:
            our logit of the id that was got less that of the id that was expected.
        detail: What else there is to say, in one phrase.
    """

    got: Any
    difference: float | None
    detail: str = ""


class NoValueError(Exception):
    """Nothing can be got for a golden.

    Attributes:
        status: Why not: `NOT_RUN`, or `NONFINITE`.
    """

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status


def golden_row(golden: Golden, measured: MeasuredValue, *, backend: str, dtype: str) -> Row:
    """Return the row of what was got."""
    status = _status(golden, measured)
    symptoms = [] if status is Status.PASS else _symptoms(golden, measured.got)
    return Row(
        **_common(golden, backend, dtype, measured),
        status=status,
        error_ours=measured.difference,
        value_ours=_scalar(measured.got),
        required_tolerance=measured.difference,
        detail="; ".join(filter(None, [measured.detail, *symptoms])),
    )


def row_without(golden: Golden, error: NoValueError, *, backend: str, dtype: str) -> Row:
    """Return the row of a golden for which nothing was got."""
    common = _common(golden, backend, dtype)
    return Row(**common, status=error.status, detail=str(error))


def apart(measure: Measure, got: float, expected: float) -> float:
    """Return how far `got` is from `expected`; infinite where the measure has no number."""
    if got == expected:
        return 0.0
    if measure is Measure.RELATIVE:
        return abs(got - expected) / abs(expected) if expected else math.inf
    if measure is Measure.LOG:
        return abs(math.log(got) - math.log(expected)) if min(got, expected) > 0 else math.inf
    return abs(got - expected)


def _status(golden: Golden, measured: MeasuredValue) -> Status:
    if golden.tolerance.measure is Measure.EXACT:
        return Status.PASS if measured.got == golden.expected else Status.FAIL
    if measured.difference is None or not math.isfinite(measured.difference):
        return Status.NONFINITE
    # Written so that NaN fails.
    return Status.PASS if measured.difference <= golden.tolerance.bound else Status.FAIL


_SYMPTOM_WIDTH = 1e-3
"""A relative difference within which a wrong value is taken for a known one: it explains, and
decides nothing."""


def _symptoms(golden: Golden, got: object) -> list[str]:
    """Return what is wrong where a value like this is got."""
    value = _scalar(got)
    return [
        symptom.means
        for symptom in golden.symptoms
        if value is not None and apart(Measure.RELATIVE, value, symptom.got) <= _SYMPTOM_WIDTH
    ]


def _common(
    golden: Golden, backend: str, dtype: str, measured: MeasuredValue | None = None
) -> dict[str, Any]:
    """Return what every row has; its details say what was published, where, and what was got."""
    return {
        "tap": golden.key,
        "backend": backend,
        "dtype": dtype,
        "mode": Mode.PUBLISHED,
        "against": "published",
        "bound": golden.tolerance.bound,
        "value_against": _scalar(golden.expected),
        "details": {
            "kind": golden.kind.value,
            "grade": golden.grade.value,
            "source": golden.source,
            "expected": golden.expected,
            "got": None if measured is None else measured.got,
            "difference": None if measured is None else measured.difference,
            "tolerance": golden.tolerance,
        },
    }


def _scalar(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
