"""Which machine measured, and what nobody needs to know of it."""

import getpass
import json
import platform
from pathlib import Path

import pytest

from bench.baseline import SAME, describe_machine, differences, processor

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
        "gpu: 'not said' there, 'x' here"
    ]
