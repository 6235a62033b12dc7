"""Sections of a report as text: tables, facts, and tables wider than a page."""

import dataclasses

import pytest

from parity.core.results import Plan, Report, Section, finish
from parity.report.json import render as render_json
from parity.report.text import PAGE, render
from scratch_gpt.cli import render_rich


def report_of(*sections: Section) -> Report:
    return finish("some-new-check", rows=[], plan=Plan.of({"plain": (2, 2)}), sections=sections)


def text_of(*sections: Section) -> list[str]:
    text = render_rich(lambda console: render(report_of(*sections), console), None)
    return [line.rstrip() for line in text.splitlines()][:-2]


def test_a_table_has_its_columns_note_and_lines() -> None:
    section = Section(
        title="sizes",
        columns=("name", "size"),
        rows=[["a", "1"], ["b", "1,000"]],
        right=(1,),
        note="in bytes",
        lines=["and no more"],
    )
    assert text_of(section) == [
        "sizes",
        "name   size",
        "a         1",
        "b     1,000",
        "in bytes",
        "and no more",
    ]


def test_facts_have_no_header() -> None:
    assert text_of(Section(rows=[("source", "a [b]"), ("got", "1")])) == [
        "source  a [b]",
        "got     1",
    ]


def test_sections_are_apart() -> None:
    assert text_of(Section(lines=["a"]), Section(lines=["b"])) == ["a", "", "b"]


def test_tables_of_a_group_are_equally_wide() -> None:
    first, second = (
        Section(columns=("x", "y"), rows=[[name, "1"]], group="pairs") for name in ("a", "longer")
    )
    lines = text_of(first, second)
    assert {line.index(mark) for line in lines if line for mark in "1y" if mark in line} == {8}


def test_a_table_wider_than_a_page_is_split() -> None:
    names = [f"column-{number:02d}" for number in range(12)]
    section = Section(columns=("", *names), rows=[["line", *(n[-2:] for n in names)]], splits=True)
    lines = text_of(section)
    headers = [line for line in lines if "column" in line]
    assert len(headers) > 1
    assert names == [word for line in headers for word in line.split()]
    assert [line.split()[0] for line in lines if line and "column" not in line] == ["line"] * len(
        headers
    )
    assert max(map(len, lines)) <= PAGE


def test_an_unknown_check_has_a_last_line() -> None:
    report = report_of(Section(lines=["a"]))
    other = dataclasses.replace(report, summary="two things")
    lines = [
        render_rich(lambda console, one=one: render(one, console), None).splitlines()[-1]
        for one in (report, other)
    ]
    assert lines == ["PASS  2 of 2 comparisons on plain compared", "PASS  two things"]


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Section)])
def test_json_has_every_field(key: str) -> None:
    assert f'"{key}"' in render_json(report_of(Section(right=range(2))))
