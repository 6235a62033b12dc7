"""From paths to rows: folders, files, folders of folders, and rows that are not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.checks.drift.reading import Run, gather_reports
from parity.errors import InputRejectedError, UsageError

Write = Callable[..., Path]
Made = Any


def gather(*paths: Path, expect: tuple[str, ...] = ()) -> list[Run]:
    return gather_reports(paths, expect, lambda *_: None)


def test_a_folder_is_a_row_of_its_reports(made: Made, write: Write) -> None:
    folder = write("row", made.report("training"), made.report("layerwise"), made.ids("tokens"))
    (folder / "layerwise.txt").write_text("PASS")
    (row,) = gather(folder)
    expected = ("row", ["tokens", "layerwise", "training"])
    assert expected == (row.label, list(row.reports))


def test_a_file_is_a_row(made: Made, write: Write) -> None:
    (row,) = gather(write("row", made.report()) / "layerwise.json")
    expected = ("layerwise", ["layerwise"])
    assert expected == (row.label, list(row.reports))


def test_a_folder_of_rows_is_all_of_them(made: Made, write: Write, tmp_path: Path) -> None:
    for name in ("torch213", "torch26", ".hidden", "torch28"):
        write(f"all/{name}", made.report())
    rows = gather(tmp_path / "all")
    expected = ["torch26", "torch28", "torch213"]
    assert expected == [row.label for row in rows]


def test_rows_of_a_folder_come_as_expected(made: Made, write: Write, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(f"all/{name}", made.report())
    rows = gather(tmp_path / "all", expect=("c", "gone", "b"))
    expected = [("c", 1), ("b", 1), ("gone", 0)]
    assert expected == [(row.label, len(row.reports)) for row in rows]


def test_a_folder_of_other_rows_than_expected_has_none(
    made: Made, write: Write, tmp_path: Path
) -> None:
    write("all/half-a-name", made.report())
    rows = gather(tmp_path / "all", expect=("name",))
    assert [(row.label, row.reports) for row in rows] == [("name", {})]


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        gather(tmp_path / "gone")
    assert (str(tmp_path / "gone"), True) == (refused.value.where, "--require" in refused.value.fix)
    rows = gather(tmp_path / "gone", expect=("gone",))
    expected = [("gone", {})]
    assert expected == [(row.label, row.reports) for row in rows]


def test_a_path_that_is_not_there_is_not_another_of_its_name(
    made: Made, write: Write, tmp_path: Path
) -> None:
    old, new = write("old/row", made.report()), tmp_path / "new" / "row"
    rows = gather(new, old, expect=("row",))
    expected = [("new/row", {}), ("old/row", ["layerwise"])]
    assert expected == [(row.label, list(row.reports) or {}) for row in rows]


def test_an_expected_row_may_be_called_by_its_label(made: Made, write: Write) -> None:
    paths = [write(f"{name}/row", made.report()) for name in ("a", "b")]
    rows = gather(*paths, expect=("a/row", "row"))
    expected = ["a/row", "b/row"]
    assert expected == [row.label for row in rows]


def test_an_empty_folder_is_a_row_without_reports(tmp_path: Path) -> None:
    (tmp_path / "row").mkdir()
    (row,) = gather(tmp_path / "row")
    expected = ("row", {})
    assert expected == (row.label, row.reports)


def test_two_reports_of_a_check_are_refused(made: Made, write: Write) -> None:
    folder = write("row", made.report())
    (folder / "older.json").write_text(json.dumps(made.report()))
    with pytest.raises(InputRejectedError, match="two reports of layerwise") as refused:
        gather(folder)
    assert str(folder / "older.json") == refused.value.where


def test_reports_beside_rows_are_refused(made: Made, write: Write, tmp_path: Path) -> None:
    write("all", made.report())
    (tmp_path / "all" / "pictures").mkdir()
    (row,) = gather(tmp_path / "all")
    for name in ("b", "a", ".hidden"):
        write(f"all/{name}", made.report())
    with pytest.raises(InputRejectedError, match="one row, or many") as refused:
        gather(tmp_path / "all")
    expected = ("all", ["layerwise"], f"{tmp_path / 'all'}, with a, b in it")
    assert expected == (row.label, list(row.reports), refused.value.where)


def test_nothing_given_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="drift A B"):
        gather()
