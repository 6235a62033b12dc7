"""A row is called by as much of its path as tells it from the others."""

from pathlib import Path

import pytest

from parity.checks.drift.reading import label_runs
from parity.errors import UsageError


def _places(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        if path.suffix == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
    return paths


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["x/torch26", "x/torch213"], ["torch26", "torch213"], id="folders"),
        pytest.param(["old.json", "new.json"], ["old", "new"], id="files"),
        pytest.param(["a/row", "b/row", "c"], ["a/row", "b/row", "c"], id="alike"),
        pytest.param(["a/x/row", "a/y/row"], ["x/row", "y/row"], id="alike, one up"),
        pytest.param(["x/a/row", "y/a/row"], ["x/a/row", "y/a/row"], id="alike, two up"),
        pytest.param(["a/layerwise.json", "b/layerwise.json"], ["a/layerwise", "b/layerwise"]),
        pytest.param(["row", "row.json"], ["row", "row.json"], id="folder and file"),
        pytest.param(["torch2.6", "torch2.8"], ["torch2.6", "torch2.8"], id="a dot"),
    ],
)
def test_a_row_is_told_from_the_others(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert expected == label_runs(_places(tmp_path, *names))


def test_a_row_is_not_held_against_itself(tmp_path: Path) -> None:
    (row,) = _places(tmp_path, "row")
    with pytest.raises(UsageError) as refused:
        label_runs([row, row / ".." / "row"])
    assert str(row) == refused.value.where
