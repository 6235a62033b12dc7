"""What a report says is read by its type; what is no report, whole and ours, is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.checks.drift import reading
from parity.checks.drift.reading import read_report
from parity.core.fingerprints import CHUNK, Draws, Sketch, encoded
from parity.core.metrics import Status
from parity.core.results import Verdict
from parity.errors import EnvironmentUnfitError, InputRejectedError, ParityError

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
    expected = ("layerwise", Verdict.PASS, "2.6.0", "", [made.ORACLE, made.THEIRS])
    assert expected == (found.check, found.verdict, found.environment["torch"], found.why, taken)


def test_the_worst_numbers_are_found(made: Made, put: Put) -> None:
    """Slopes have a larger bound and do not count."""
    found = read_report(put(made.report()))
    expected = (3e-12, "h.0.mlp.gelu", 1.25, "logits")
    assert expected == (
        found.float64.value,
        found.float64.tap,
        found.ratio.value,
        found.ratio.tap,
    )


def test_an_error_that_could_not_be_had_is_the_worst(made: Made, put: Put) -> None:
    rows = [made.row("logits"), made.row("loss", error_ours=None)]
    found = read_report(put(made.report(results=rows)))
    assert (math.inf, "loss") == (found.float64.value, found.float64.tap)


def test_a_report_without_such_numbers_has_none(made: Made, put: Put) -> None:
    found = read_report(put(made.report(results=[made.row("corpus", mode="exact")])))
    expected = (None, None)
    assert expected == (found.float64.value, found.ratio.value)


def test_what_was_found_is_not_what_was_asked(made: Made, put: Put) -> None:
    inputs = {"time": 5, "ties": 2, "not_run": {"triton": "no GPU"}}
    found = read_report(put(made.report(inputs=inputs)))
    expected = {
        "inputs.time": "5",
        "config.n_layer": "2",
        "weights.sha256": f'"{"0" * 64}"',
        "planned.plain": "(6,)",
    }
    assert expected == dict(found.about)


def test_a_candidate_is_its_file_and_not_its_path(made: Made, put: Put) -> None:
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
def test_what_failed_says_why(parts: Document, why: str, made: Made, put: Put) -> None:
    assert why == read_report(put(made.report(verdict="fail", **parts))).why


def test_an_older_report_has_no_fingerprints(made: Made, put: Put) -> None:
    document = made.report()
    del document["fingerprints"]
    expected = ()
    assert expected == read_report(put(document)).fingerprints


def _with(made: Made, **other: object) -> Document:
    document: Document = made.report(fingerprints=[made.fingerprint(made.OURS, "logits", **other)])
    return document


IMPOSSIBLE = "no tensor of its norm"


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no JSON": (lambda _: b"verdict: pass", "no JSON"),
    "empty": (lambda _: b"", "no JSON"),
    "cut off": (lambda made: json.dumps(made.report()).encode()[:-9], "not all of it"),
    "not UTF-8": (lambda _: b'{"check": "\xff"}', "no JSON"),
    "NaN": (lambda _: b'{"check": NaN}', "no JSON"),
    "a key twice": (lambda _: b'{"check": 1, "check": 2}', "twice"),
    "nested": (lambda _: b"[" * 100_000, "nested"),
    "a list": (lambda _: [], "no report"),
    "a config": (lambda _: {"n_layer": 12}, "no report"),
    "no version": (lambda _: {"check": "layerwise"}, "schema_version"),
    "another version": (lambda made: made.report(schema_version=1), "reads 2"),
    "a version that is true": (lambda made: made.report(schema_version=True), "whole number"),
    "a drift": (lambda made: made.report("drift"), "answer of drift"),
    "no verdict": (lambda made: made.report(verdict="perhaps"), "verdict"),
    "verdict no text": (lambda made: made.report(verdict=0), "verdict is not text"),
    "results no list": (lambda made: made.report(results={}), "results is not a list"),
    "a result no object": (lambda made: made.report(results=[1]), "results[0]"),
    "a result without tap": (
        lambda made: made.report(results=[{"mode": "float64", "status": "pass", "bound": 0}]),
        "results[0].tap",
    ),
    "an error that is text": (
        lambda made: made.report(results=[made.row("logits", error_ours="small")]),
        "results[0].error_ours",
    ),
    "environment of numbers": (
        lambda made: made.report(environment={"torch": 2.6}),
        "environment.torch",
    ),
    "a plan of words": (
        lambda made: made.report(plan=made.plan(plain=6) | {"per_backend": {"plain": ["6"]}}),
        "plan.per_backend.plain",
    ),
    "a shape of words": (lambda made: _with(made, shape=["1"]), "fingerprints[0].shape"),
    "a digest that is a number": (lambda made: _with(made, digest=1), "fingerprints[0].digest"),
    "a norm that is text": (lambda made: _with(made, norm="2"), "fingerprints[0].norm"),
    "a negative norm": (lambda made: _with(made, norm=-1.0), "no finite number"),
    "a norm too large": (lambda made: _with(made, norm=10**400), "no finite number"),
    "a norm without sketch": (lambda made: _with(made, sketch=""), "without a sketch"),
    "a sketch without norm": (lambda made: _with(made, norm=None), "without a norm"),
    "a sketch no base64": (lambda made: _with(made, sketch="?"), ""),
    "a short sketch": (lambda made: _with(made, sketch="AAAAAAAAAAA="), "61"),
    "a sketch of infinities": (lambda made: _with(made, sketch=made.sketch(math.inf)), IMPOSSIBLE),
    "a sketch of no numbers": (lambda made: _with(made, sketch=made.sketch(math.nan)), IMPOSSIBLE),
    "a sketch too large to square": (
        lambda made: _with(made, sketch=made.sketch(1e300)),
        IMPOSSIBLE,
    ),
    # three elements of the norm 2 add up to 3.46 at most
    "a sketch above its norm": (lambda made: _with(made, sketch=made.sketch(3.47)), IMPOSSIBLE),
    "a norm too large to square": (
        lambda made: _with(made, norm=1e200, sketch=made.sketch(1e200)),
        "too large",
    ),
    "a digest of fewer digits": (lambda made: _with(made, digest="0" * 15), "16 hexadecimal"),
    "a digest of more digits": (lambda made: _with(made, digest="0" * 17), "16 hexadecimal"),
    "a digest of other letters": (lambda made: _with(made, digest="g" * 16), "16 hexadecimal"),
    "a digest and a line end": (lambda made: _with(made, digest="0" * 15 + "\n"), "16 hexadecimal"),
    "a shape below nought": (lambda made: _with(made, shape=[-1, -3]), "no shape of a tensor"),
    "a shape too large": (lambda made: _with(made, shape=[10**400]), "no shape of a tensor"),
    "a fingerprint twice": (
        lambda made: made.report(fingerprints=[made.fingerprint(made.OURS, "logits")] * 2),
        "earlier one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_report_is_refused(name: str, made: Made, put: Put) -> None:
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
def test_a_verdict_is_not_believed_against_the_rest(lie: str, made: Made, put: Put) -> None:
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


def test_a_real_sketch_is_believed(made: Made, put: Put) -> None:
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
    monkeypatch.setattr(reading, "LARGEST", file.stat().st_size)
    assert read_report(file).check == "layerwise"
    monkeypatch.setattr(reading, "LARGEST", file.stat().st_size - 1)
    with pytest.raises(InputRejectedError, match="more than"):
        read_report(file)


def test_what_cannot_be_opened_has_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("folder.json", "gone.json"):
        with pytest.raises(ParityError) as refused:
            read_report(tmp_path / name)
        assert isinstance(refused.value, InputRejectedError | EnvironmentUnfitError)
