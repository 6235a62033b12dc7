"""Reports, labels and runs that are read from files and folders."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.checks.drift import reading
from parity.checks.drift.reading import Run, gather_reports, label_runs, read_report
from parity.core.fingerprints import CHUNK, Draws, Sketch, encoded
from parity.core.metrics import Status
from parity.core.results import Verdict
from parity.errors import EnvironmentUnfitError, InputRejectedError, ParityError, UsageError

Document = dict[str, Any]
Made = Any
Put = Callable[[object], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def to_file(content: object) -> Path:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "layerwise.json").write_bytes(data)
        return tmp_path / "layerwise.json"

    return to_file


def test_a_report_is_read(made: Made, put: Put) -> None:
    found = read_report(put(made.report()))
    taken = [(one.subject, one.dtype, one.mode) for one in found.fingerprints[:2]]
    assert found.check == "layerwise"
    assert found.verdict == Verdict.PASS
    assert found.environment["torch"] == "2.6.0"
    assert found.why == ""
    assert taken == [made.ORACLE, made.THEIRS]


def test_the_worst_numbers_are_found(made: Made, put: Put) -> None:
    """Slopes have a larger bound and do not count."""
    found = read_report(put(made.report()))
    assert found.float64.value == 3e-12
    assert found.float64.tap == "h.0.mlp.gelu"
    assert found.ratio.value == 1.25
    assert found.ratio.tap == "logits"


def test_a_missing_error_is_the_worst(made: Made, put: Put) -> None:
    rows = [made.row("logits"), made.row("loss", error_ours=None)]
    found = read_report(put(made.report(results=rows)))
    assert (math.inf, "loss") == (found.float64.value, found.float64.tap)


def test_a_report_without_such_numbers_has_none(made: Made, put: Put) -> None:
    found = read_report(put(made.report(results=[made.row("corpus", mode="exact")])))
    assert (found.float64.value, found.ratio.value) == (None, None)


def test_ties_are_a_result_and_not_an_input(made: Made, put: Put) -> None:
    inputs = {"time": 5, "ties": 2, "not_run": {"triton": "no GPU"}}
    found = read_report(put(made.report(inputs=inputs)))
    assert dict(found.about) == {
        "inputs.time": "5",
        "config.n_layer": "2",
        "weights.sha256": f'"{"0" * 64}"',
        "planned.plain": "(6,)",
    }


def test_a_candidate_is_identified_by_its_contents(made: Made, put: Put) -> None:
    at = {"candidate": "here/my_gpt.py", "candidate_file": "sha256 1"}
    both = [
        read_report(put(made.report(inputs=given))).about
        for given in (at, at | {"candidate": "b.py"})
    ]
    assert both[0] == both[1]
    assert both[0]["inputs.candidate_file"] == '"sha256 1"'
    imported = read_report(put(made.report(inputs={"candidate": "mine:build"}))).about
    assert imported["inputs.candidate"] == '"mine:build"'


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        pytest.param(
            {"first_divergence": {"tap": "h.1.mlp", "why": "off by 3"}},
            "h.1.mlp: off by 3",
            id="a divergence",
        ),
        pytest.param({"reasons": [{"what": "no disk"}]}, "no disk", id="a reason"),
        pytest.param({}, "it does not say why", id="neither"),
    ],
)
def test_a_report_that_does_not_pass_has_its_reason(
    parts: Document, why: str, made: Made, put: Put
) -> None:
    assert why == read_report(put(made.report(verdict="fail", **parts))).why


def test_an_older_report_has_no_fingerprints(made: Made, put: Put) -> None:
    document = made.report()
    del document["fingerprints"]
    assert read_report(put(document)).fingerprints == ()


def _with(made: Made, **other: object) -> Document:
    document: Document = made.report(fingerprints=[made.fingerprint(made.OURS, "logits", **other)])
    return document


IMPOSSIBLE = "no tensor of its norm"
REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no JSON": (lambda _: b"verdict: pass", "no JSON"),
    "empty": (lambda _: b"", "no JSON"),
    "cut off": (lambda m: json.dumps(m.report()).encode()[:-9], "not all of it"),
    "not UTF-8": (lambda _: b'{"check": "\xff"}', "no JSON"),
    "NaN": (lambda _: b'{"check": NaN}', "no JSON"),
    "a key twice": (lambda _: b'{"check": 1, "check": 2}', "twice"),
    "nested": (lambda _: b"[" * 100_000, "nested"),
    "a list": (lambda _: [], "no report"),
    "a config": (lambda _: {"n_layer": 12}, "no report"),
    "no version": (lambda _: {"check": "layerwise"}, "schema_version"),
    "another version": (lambda m: m.report(schema_version=1), "reads 2"),
    "a version that is true": (lambda m: m.report(schema_version=True), "whole number"),
    "a drift": (lambda m: m.report("drift"), "answer of drift"),
    "no verdict": (lambda m: m.report(verdict="perhaps"), "verdict"),
    "verdict no text": (lambda m: m.report(verdict=0), "verdict is not text"),
    "results no list": (lambda m: m.report(results={}), "results is not a list"),
    "a result no object": (lambda m: m.report(results=[1]), "results[0]"),
    "a result without tap": (
        lambda m: m.report(results=[{"mode": "float64", "status": "pass", "bound": 0}]),
        "results[0].tap",
    ),
    "an error that is text": (
        lambda m: m.report(results=[m.row("logits", error_ours="small")]),
        "results[0].error_ours",
    ),
    "environment of numbers": (lambda m: m.report(environment={"torch": 2.6}), "environment.torch"),
    "a plan of words": (
        lambda m: m.report(plan=m.plan(plain=6) | {"per_backend": {"plain": ["6"]}}),
        "plan.per_backend.plain",
    ),
    "a shape of words": (lambda m: _with(m, shape=["1"]), "fingerprints[0].shape"),
    "a digest that is a number": (lambda m: _with(m, digest=1), "fingerprints[0].digest"),
    "a norm that is text": (lambda m: _with(m, norm="2"), "fingerprints[0].norm"),
    "a negative norm": (lambda m: _with(m, norm=-1.0), "no finite number"),
    "a norm too large": (lambda m: _with(m, norm=10**400), "no finite number"),
    "a norm without sketch": (lambda m: _with(m, sketch=""), "without a sketch"),
    "a sketch without norm": (lambda m: _with(m, norm=None), "without a norm"),
    "a sketch no base64": (lambda m: _with(m, sketch="?"), ""),
    "a short sketch": (lambda m: _with(m, sketch="AAAAAAAAAAA="), "61"),
    "a sketch of infinities": (lambda m: _with(m, sketch=m.sketch(math.inf)), IMPOSSIBLE),
    "a sketch of no numbers": (lambda m: _with(m, sketch=m.sketch(math.nan)), IMPOSSIBLE),
    "a sketch too large to square": (lambda m: _with(m, sketch=m.sketch(1e300)), IMPOSSIBLE),
    # three elements of the norm 2 add up to 3.46 at most
    "a sketch above its norm": (lambda m: _with(m, sketch=m.sketch(3.47)), IMPOSSIBLE),
    "a norm too large to square": (
        lambda m: _with(m, norm=1e200, sketch=m.sketch(1e200)),
        "too large",
    ),
    "a digest of fewer digits": (lambda m: _with(m, digest="0" * 15), "16 hexadecimal"),
    "a digest of more digits": (lambda m: _with(m, digest="0" * 17), "16 hexadecimal"),
    "a digest of other letters": (lambda m: _with(m, digest="g" * 16), "16 hexadecimal"),
    "a digest and a line end": (lambda m: _with(m, digest="0" * 15 + "\n"), "16 hexadecimal"),
    "a negative shape": (lambda m: _with(m, shape=[-1, -3]), "no shape of a tensor"),
    "a shape of 65 axes": (lambda m: _with(m, shape=[1] * 65), "no shape of a tensor"),
    "a shape too large": (lambda m: _with(m, shape=[10**400]), "no shape of a tensor"),
    "a fingerprint twice": (
        lambda m: m.report(fingerprints=[m.fingerprint(m.OURS, "logits")] * 2),
        "earlier one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_report_is_rejected(name: str, made: Made, put: Put) -> None:
    content, words = REFUSED[name]
    file = put(content(made))
    with pytest.raises(InputRejectedError) as refused:
        read_report(file)
    expected = (str(file), True, True)
    error = refused.value
    assert expected == (error.where, words in error.what, "--fingerprints" in error.fix)


LIES: dict[str, tuple[Document, str]] = {
    "a pass that exits otherwise": ({"exit_code": 3}, "verdict is pass, and its exit_code 3"),
    "a failure that exits as a pass": ({"verdict": "fail", "exit_code": 0}, "verdict is fail"),
    "an error that exits as a failure": ({"verdict": "error", "exit_code": 1}, "verdict is error"),
    "an exit code of nothing": ({"exit_code": 99}, "exit_code 99"),
    "nothing compared": (
        {"plan": {"planned": 0, "compared": 0, "per_backend": {}}},
        "0 of 0 were compared",
    ),
    "not all compared": (
        {"plan": {"planned": 6, "compared": 5, "per_backend": {}}},
        "5 of 6 were compared",
    ),
    "a reason": ({"reasons": [{"what": "no disk"}]}, "a reason against it"),
    "a divergence": ({"first_divergence": {"tap": "h.0", "why": "off by 3"}}, "diverge"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_verdict_that_contradicts_the_rest_is_rejected(lie: str, made: Made, put: Put) -> None:
    other, words = LIES[lie]
    with pytest.raises(InputRejectedError) as refused:
        read_report(put(made.report(**other)))
    assert words in refused.value.what


@pytest.mark.parametrize("status", [one for one in Status if one not in ("pass", "not_run")])
def test_a_pass_has_no_row_that_fails(status: str, made: Made, put: Put) -> None:
    rows = [made.row("logits"), made.row("loss", status=status)]
    with pytest.raises(InputRejectedError) as refused:
        read_report(put(made.report(results=rows)))
    assert f"loss is {status}" in refused.value.what
    assert read_report(put(made.report(verdict="fail", results=rows))).verdict is Verdict.FAIL


def test_an_error_is_read_whatever_its_code(made: Made, put: Put) -> None:
    codes = (2, 4, 5, 70, 130)
    found = {
        read_report(put(made.report(verdict="error", exit_code=code))).verdict for code in codes
    }
    assert found == {Verdict.ERROR}


def test_a_real_sketch_is_accepted(made: Made, put: Put) -> None:
    largest = _with(made, sketch=made.sketch(2.0 * math.sqrt(3.0)))
    assert read_report(put(largest)).fingerprints
    for values in (np.full(CHUNK, -3.0), np.array([7.0]), np.array([]), np.full(99, 1e-170)):
        sketch = Sketch(Draws())
        sketch.add(values)
        shape = list(values.shape) if values.size != 1 else []
        taken = {"norm": sketch.norm, "sketch": encoded(sketch.sums), "shape": shape}
        (found,) = read_report(put(_with(made, **taken))).fingerprints
        assert found.norm == sketch.norm


def test_a_file_too_large_is_refused(made: Made, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(made.report())
    monkeypatch.setattr(reading, "LARGEST_REPORT", file.stat().st_size)
    assert read_report(file).check == "layerwise"
    monkeypatch.setattr(reading, "LARGEST_REPORT", file.stat().st_size - 1)
    with pytest.raises(InputRejectedError, match="more than"):
        read_report(file)


@pytest.mark.parametrize("kind", ["pipe", "zero", "huge"])
def test_a_report_that_never_ends_is_rejected(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if kind == "zero" else tmp_path / "r.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 5 << 30)
    with pytest.raises(InputRejectedError):
        read_report(path)


def test_a_file_that_cannot_be_opened_has_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("folder.json", "gone.json"):
        with pytest.raises(ParityError) as refused:
            read_report(tmp_path / name)
        assert isinstance(refused.value, InputRejectedError | EnvironmentUnfitError)


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
def test_a_label_is_the_shortest_unique_end_of_the_path(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert expected == label_runs(_places(tmp_path, *names))


def test_the_same_path_twice_is_a_usage_error(tmp_path: Path) -> None:
    (row,) = _places(tmp_path, "row")
    with pytest.raises(UsageError) as refused:
        label_runs([row, row / ".." / "row"])
    assert str(row) == refused.value.where


Write = Callable[..., Path]


def gather(*paths: Path, expect: tuple[str, ...] = ()) -> list[Run]:
    return gather_reports(paths, expect, lambda *_: None)


def test_a_folder_is_a_row_of_its_reports(made: Made, write: Write) -> None:
    folder = write("row", made.report("training"), made.report("layerwise"), made.ids("tokens"))
    (folder / "layerwise.txt").write_text("PASS")
    (row,) = gather(folder)
    assert (row.label, list(row.reports)) == ("row", ["tokens", "layerwise", "training"])


def test_a_file_is_a_row(made: Made, write: Write) -> None:
    (row,) = gather(write("row", made.report()) / "layerwise.json")
    assert (row.label, list(row.reports)) == ("layerwise", ["layerwise"])


def test_a_folder_of_folders_is_all_of_them(made: Made, write: Write, tmp_path: Path) -> None:
    for name in ("torch213", "torch26", ".hidden", "torch28"):
        write(f"all/{name}", made.report())
    rows = gather(tmp_path / "all")
    assert [row.label for row in rows] == ["torch26", "torch28", "torch213"]


def test_runs_of_a_folder_come_in_the_expected_order(
    made: Made, write: Write, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        write(f"all/{name}", made.report())
    rows = gather(tmp_path / "all", expect=("c", "gone", "b"))
    assert [(row.label, len(row.reports)) for row in rows] == [("c", 1), ("b", 1), ("gone", 0)]


def test_a_folder_of_unexpected_runs_has_none(made: Made, write: Write, tmp_path: Path) -> None:
    write("all/half-a-name", made.report())
    rows = gather(tmp_path / "all", expect=("name",))
    assert [(row.label, row.reports) for row in rows] == [("name", {})]


def test_a_missing_path_is_a_usage_error_unless_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        gather(tmp_path / "gone")
    assert (str(tmp_path / "gone"), True) == (refused.value.where, "--require" in refused.value.fix)
    rows = gather(tmp_path / "gone", expect=("gone",))
    assert [(row.label, row.reports) for row in rows] == [("gone", {})]


def test_a_missing_path_is_not_another_of_its_name(
    made: Made, write: Write, tmp_path: Path
) -> None:
    old, new = write("old/row", made.report()), tmp_path / "new" / "row"
    rows = gather(new, old, expect=("row",))
    assert [(row.label, list(row.reports) or {}) for row in rows] == [
        ("new/row", {}),
        ("old/row", ["layerwise"]),
    ]


def test_an_expected_run_may_be_named_by_its_label(made: Made, write: Write) -> None:
    paths = [write(f"{name}/row", made.report()) for name in ("a", "b")]
    rows = gather(*paths, expect=("a/row", "row"))
    assert [row.label for row in rows] == ["a/row", "b/row"]


def test_an_empty_folder_is_a_row_without_reports(tmp_path: Path) -> None:
    (tmp_path / "row").mkdir()
    (row,) = gather(tmp_path / "row")
    assert (row.label, row.reports) == ("row", {})


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
    assert row.label == "all"
    assert list(row.reports) == ["layerwise"]
    assert refused.value.where == f"{tmp_path / 'all'}, with a, b in it"


def test_nothing_given_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="drift A B"):
        gather()
