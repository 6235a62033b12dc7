"""What differs between rows, and what has to be known before a cause is read into a movement."""

from collections.abc import Callable
from typing import Any

import pytest

from parity.core.results import Report, Verdict

Made = Any
Laid = Callable[..., Report]


def test_what_differs_between_rows_is_listed(made: Made, laid: Laid) -> None:
    newer = made.on(made.report(), torch="2.8.0")
    report = laid(a=[made.report()], b=[newer], c=[newer])
    pairs = [pair.differs for pair in report.details["pairs"]]
    expected = (
        {"torch": {"2.6.0": ["a"], "2.8.0": ["b", "c"]}},
        [{"torch": ("2.6.0", "2.8.0")}, {}, {"torch": ("2.6.0", "2.8.0")}],
        [],
    )
    assert expected == (report.details["differences"], pairs, report.details["notes"])


@pytest.mark.parametrize("name", ["threads", "cpu_capability"])
def test_another_order_of_sums_is_noted(name: str, made: Made, laid: Laid) -> None:
    changed = made.on(made.report(), **{name: "other"})
    report = laid(a=[made.report()], b=[made.report()], c=[changed])
    (note,) = report.details["notes"]
    expected = (Verdict.PASS, [1, 2], True)
    said = name in note.what and "without a change of version" in note.what
    assert expected == (report.verdict, note.pairs, said)


def test_other_code_is_noted(made: Made, laid: Laid) -> None:
    identity = made.report()["identity"] | {"code": "gpt1-parity 0.2.0"}
    report = laid(a=[made.report()], b=[made.report(identity=identity)], c=[made.report()])
    (note,) = report.details["notes"]
    expected = (Verdict.PASS, [0, 1], True)
    assert expected == (report.verdict, note.pairs, "different code" in note.what)


def test_an_oracle_that_moved_is_noted(made: Made, laid: Laid) -> None:
    moved = made.moved(made.report(), made.ORACLE, "logits", 1e-16)
    given = made.moved(moved, made.GIVEN, "logits", 1e-8)
    report = laid(a=[made.report()], b=[moved], c=[given])
    expected = [([0], False), ([1, 2], True)]
    assert expected == [
        (note.pairs, "is unknown" in note.what)
        for note in report.details["notes"]
        if "oracle changed" in note.what
    ]


def test_taps_in_another_order_are_noted(made: Made, laid: Laid) -> None:
    turned = made.report(fingerprints=made.report()["fingerprints"][::-1])
    report = laid(a=[made.report()], b=[turned], c=[turned])
    (note,) = report.details["notes"]
    expected = (Verdict.PASS, [0, 2], True)
    assert expected == (report.verdict, note.pairs, "another order" in note.what)
