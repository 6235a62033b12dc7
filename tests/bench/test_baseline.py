"""The regression gate and the description of the machine."""

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
    compare,
    describe_machine,
    differences,
    exit_code,
    gate,
    processor,
)
from bench.results import BenchRun, Outcome, Spread, Status
from parity.errors import InputRejectedError

MACHINE = dict.fromkeys(SAME, "this")


def row(name: str, ratio: float | None, *, around: float = 0.0) -> Outcome:
    """Return a row whose ratio has quartiles that far on either side; none at all where None."""
    found = None if ratio is None else Spread(ratio, ratio - around, ratio + around, 5)
    status = Status.OOM if found is None else Status.REPORTED
    return Outcome(name=name, work="w", against="p", status=status, ratio=found)


def run(*outcomes: Outcome, **machine: str) -> BenchRun:
    """Return a run on this machine, but for what is said otherwise."""
    return BenchRun(machine=MACHINE | machine, limits={}, outcomes=outcomes)


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
def test_a_change_is_what_neither_spread_explains(
    now: float | None, then: float, around: float, change: Change
) -> None:
    """The margin lies beyond both spreads; no number, and no figure, are no luck."""
    before = row("a", then, around=around).ratio
    assert before is not None
    assert change is changed(row("a", now, around=around).ratio, before)


def test_a_worse_ratio_fails() -> None:
    """One row among those that held is enough."""
    now, then = [row("a", 1.0), row("b", 2.0)], [row("a", 1.0), row("b", 1.0)]
    found = gate(run(*now), run(*then), asked={"a", "b"}, force=False)
    expected = [("a", Change.SAME), ("b", Change.WORSE)]
    assert expected == [(each.name, each.change) for each in found]
    assert exit_code(found) == 1


def test_a_figure_that_is_gone_leaves_the_gate_open() -> None:
    """A row that runs out of memory now has not become better."""
    assert exit_code(compare([row("a", None)], [row("a", 1.0)], asked={"a"})) == 3
    assert exit_code(compare([], [row("a", 1.0)], asked={"a"})) == 3


def test_rows_not_asked_for_are_no_concern() -> None:
    """A run of some rows is compared by those, and by none is no pass."""
    then = [row("a", 1.0), row("b", 1.0), row("c", None)]
    assert exit_code(compare([row("a", 1.0)], then, asked={"a", "c"})) == 0
    assert exit_code(compare([row("a", 1.0)], then, asked={"c"})) == 3


@pytest.mark.parametrize("field", SAME)
def test_another_machines_baseline_is_refused(field: str) -> None:
    """Unless somebody insists."""
    other = run(row("a", 1.0), **{field: "that"})
    with pytest.raises(InputRejectedError, match=f"from another machine: {field}"):
        gate(run(row("a", 1.0)), other, asked={"a"}, force=False)
    assert exit_code(gate(run(row("a", 1.0)), other, asked={"a"}, force=True)) == 0


def test_seconds_alone_change_nothing() -> None:
    """Both sides a hundred times slower: the ratio is the same, and so is the verdict."""
    slow, fast = (
        Outcome(name="a", work="w", against="p", status=Status.REPORTED,
                ratio=Spread(0.5, 0.5, 0.5, 5), ours=Spread(s, s, s, 5))
        for s in (100.0, 1.0)
    )  # fmt: skip
    assert exit_code(compare([slow], [fast], asked={"a"})) == 0


LISTING = "processor\t: {at}\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A CPU\nstepping\t: 1\n"


def test_neither_host_nor_user_is_named() -> None:
    """What is written down names the machine's kind and never the machine."""
    machine = describe_machine()
    text = json.dumps(machine)
    assert set(SAME) < set(machine)
    assert platform.node() not in text
    assert getpass.getuser() not in text.split('"')


def test_a_processor_is_its_name_and_numbers(tmp_path: Path) -> None:
    """The same marketing name is sold for years; family, model and stepping tell them apart."""
    listing = tmp_path / "cpuinfo"
    listing.write_text(LISTING.format(at=0) + "\n" + LISTING.format(at=1), encoding="utf-8")
    expected = "A CPU (25.17.1)"
    assert expected == processor(listing)


@pytest.mark.parametrize("text", [None, "Hardware : something else\n"])
def test_without_a_listing_there_is_still_a_name(text: str | None, tmp_path: Path) -> None:
    """Other systems have no such file, and other processors other fields."""
    listing = tmp_path / "cpuinfo"
    if text is not None:
        listing.write_text(text, encoding="utf-8")
    assert processor(listing)


def test_each_field_tells_machines_apart() -> None:
    """One that differs is named with both values, one that is missing as well; others are not."""
    machine = dict.fromkeys([*SAME, "torch"], "x")
    assert not differences(machine, machine | {"torch": "y"})
    for key in SAME:
        assert [f"{key}: 'y' there, 'x' here"] == differences(machine, machine | {key: "y"})
    assert differences(machine, {key: value for key, value in machine.items() if key != "gpu"}) == [
        "gpu: 'not recorded' there, 'x' here"
    ]
