"""The regression gate and the description of the machine."""

import dataclasses
import getpass
import json
import math
import platform
from pathlib import Path

import pytest

from bench.baseline import (
    MARGIN,
    SAME,
    Change,
    changed,
    check_machine,
    compare,
    describe_machine,
    differences,
    exit_code,
    processor,
)
from bench.results import Outcome, Spread, Status
from parity.errors import InputRejectedError

MACHINE = dict.fromkeys(SAME, "this")


def row(name: str, ratio: float | None, *, around: float = 0.0) -> Outcome:
    found = None if ratio is None else Spread(ratio, ratio - around, ratio + around, 5)
    status = Status.OOM if found is None else Status.REPORTED
    return Outcome(name=name, work="w", against="p", status=status, ratio=found)


@pytest.mark.parametrize(
    ("now", "then", "around", "change"),
    [
        (1.0, 1.0, 0.0, Change.SAME),
        (1.0 + MARGIN / 2, 1.0, 0.0, Change.SAME),
        (1.0 + 2 * MARGIN, 1.0, 0.0, Change.WORSE),
        (1.0 + 2 * MARGIN, 1.0, MARGIN, Change.SAME),
        (1.0 - 2 * MARGIN, 1.0, 0.0, Change.BETTER),
        (1.0 - 2 * MARGIN, 1.0, MARGIN, Change.SAME),
        (math.nan, 1.0, 0.0, Change.WORSE),
        (None, 1.0, 0.0, Change.GONE),
    ],
)
def test_a_change_exceeds_both_spreads(
    now: float | None, then: float, around: float, change: Change
) -> None:
    """A change counts beyond both spreads and the margin; NaN is worse, None is gone."""
    before = row("a", then, around=around).ratio
    assert before is not None
    assert change is changed(row("a", now, around=around).ratio, before)


@pytest.mark.parametrize(
    ("now", "then", "asked", "changes", "code"),
    [
        ([row("a", 1.0), row("b", 2.0)], [row("a", 1.0), row("b", 1.0)], "ab", "same worse", 1),
        ([row("a", None)], [row("a", 1.0)], "a", "gone", 3),
        ([], [row("a", 1.0)], "a", "gone", 3),
        ([row("a", 1.0)], [row("a", 1.0), row("b", 1.0), row("c", None)], "ac", "same", 0),
        ([row("a", 1.0)], [row("a", 1.0), row("b", 1.0), row("c", None)], "c", "", 3),
    ],
)
def test_selected_rows_are_compared(
    now: list[Outcome], then: list[Outcome], asked: str, changes: str, code: int
) -> None:
    """One worse row fails. A missing ratio, or nothing to compare, is inconclusive."""
    found = compare(now, then, asked=set(asked))
    assert " ".join(each.change for each in found) == changes
    assert exit_code(found) == code


@pytest.mark.parametrize("field", SAME)
def test_a_baseline_of_another_machine_is_rejected(field: str) -> None:
    other = MACHINE | {field: "that"}
    with pytest.raises(InputRejectedError, match=f"from another machine: {field}"):
        check_machine(MACHINE, other, force=False)
    check_machine(MACHINE, other, force=True)
    check_machine(MACHINE, MACHINE, force=False)


def test_seconds_alone_change_nothing() -> None:
    """If both sides are a hundred times slower, the ratio stays the same."""
    slow, fast = (dataclasses.replace(row("a", 0.5), ours=Spread(s, s, s, 5)) for s in (100.0, 1.0))
    assert exit_code(compare([slow], [fast], asked={"a"})) == 0


def test_neither_host_nor_user_is_named() -> None:
    machine = describe_machine()
    text = json.dumps(machine)
    assert set(SAME) < set(machine)
    assert platform.node() not in text
    assert getpass.getuser() not in text.split('"')


def test_a_processor_has_name_and_numbers(tmp_path: Path) -> None:
    """Family, model and stepping distinguish processors of the same name."""
    text = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A CPU\nstepping\t: 1\n"
    listing = tmp_path / "cpuinfo"
    listing.write_text(text.format(0) + "\n" + text.format(1), encoding="utf-8")
    assert processor(listing) == "A CPU (25.17.1)"


@pytest.mark.parametrize("text", [None, "Hardware : something else\n"])
def test_without_cpuinfo_the_processor_has_a_name(text: str | None, tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    if text is not None:
        listing.write_text(text, encoding="utf-8")
    assert processor(listing)


def test_differing_and_missing_fields_are_named() -> None:
    machine = dict.fromkeys([*SAME, "torch"], "x")
    assert not differences(machine, machine | {"torch": "y"})
    for key in SAME:
        assert [f"{key}: 'y' there, 'x' here"] == differences(machine, machine | {key: "y"})
    without = {key: value for key, value in machine.items() if key != "gpu"}
    assert differences(machine, without) == ["gpu: 'not recorded' there, 'x' here"]
