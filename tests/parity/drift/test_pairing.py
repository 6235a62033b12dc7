"""What differs between rows, and what has to be known before a cause is read into a movement."""

from collections.abc import Callable
from typing import Any

import pytest

from parity.results import Report, Verdict

Made = Any
Laid = Callable[..., Report]


def test_what_differs_between_rows_is_listed(made: Made, laid: Laid) -> None:
    """By value, and of each pair by both; what is the same is not."""
    newer = made.on(made.report(), torch="2.8.0")
    report = laid(a=[made.report()], b=[newer], c=[newer])
    assert report.drift is not None
    pairs = [pair.differs for pair in report.drift.pairs]
    expected = (
        {"torch": {"2.6.0": ["a"], "2.8.0": ["b", "c"]}},
        [{"torch": ("2.6.0", "2.8.0")}, {}, {"torch": ("2.6.0", "2.8.0")}],
        [],
    )
    assert expected == (report.drift.differences, pairs, report.drift.notes)


@pytest.mark.parametrize("name", ["threads", "cpu_capability"])
def test_another_order_of_sums_is_noted(name: str, made: Made, laid: Laid) -> None:
    """Where threads or vectors differ, a version is not the only cause that there may be."""
    report = laid(a=[made.report()], b=[made.on(made.report(), **{name: "other"})])
    assert report.drift is not None
    (note,) = report.drift.notes
    expected = (Verdict.PASS, True)
    assert expected == (report.verdict, name in note and "not for a version" in note)


def test_other_code_is_noted(made: Made, laid: Laid) -> None:
    """It is a cause of its own."""
    identity = made.report()["identity"] | {"code": "gpt1-parity 0.2.0"}
    report = laid(a=[made.report()], b=[made.report(identity=identity)])
    assert report.drift is not None
    (note,) = report.drift.notes
    expected = (Verdict.PASS, True)
    assert expected == (report.verdict, "different code" in note)


def test_an_oracle_that_moved_is_noted(made: Made, laid: Laid) -> None:
    """What it gives operations that are run alone has moved with it."""
    report = laid(a=[made.report()], b=[made.moved(made.report(), made.ORACLE, "logits", 0.0)])
    assert report.drift is not None
    (note,) = report.drift.notes
    assert "oracle moved" in note
