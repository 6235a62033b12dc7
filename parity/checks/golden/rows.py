"""Rows of goldens: expected value, computed value, and their difference."""

import dataclasses
import math
from typing import Any

from parity.core.metrics import Status
from parity.core.results import Mode, Row
from reference.published import Golden, Measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """Our value for a golden.

    Attributes:
        got: In the form of the expected value.
        difference: The distance from it, in the tolerance's measure. For ids it is the lead: our
            logit of our id minus our logit of the expected id.
        detail: An explanation, in one phrase.
    """

    got: Any
    difference: float | None
    detail: str = ""


class NoValueError(Exception):
    """There is no value for a golden; `status` is `NOT_RUN` or `NONFINITE`."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status


def golden_row(golden: Golden, measured: MeasuredValue, *, backend: str, dtype: str) -> Row:
    """Return the row of a golden and our value."""
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
    """Return the row of a golden without a value."""
    common = _common(golden, backend, dtype)
    return Row(**common, status=error.status, detail=str(error))


def apart(measure: Measure, got: float, expected: float) -> float:
    """Return the distance of `got` from `expected`; infinite where it is undefined."""
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
"""Relative width within which a wrong value matches a known symptom; it decides no verdict."""


def _symptoms(golden: Golden, got: object) -> list[str]:
    """Return the known causes of a value like this."""
    value = _scalar(got)
    return [
        symptom.means
        for symptom in golden.symptoms
        if value is not None and apart(Measure.RELATIVE, value, symptom.got) <= _SYMPTOM_WIDTH
    ]


def _common(
    golden: Golden, backend: str, dtype: str, measured: MeasuredValue | None = None
) -> dict[str, Any]:
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
