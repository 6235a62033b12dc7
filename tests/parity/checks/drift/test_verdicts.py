"""Rows side by side: what is a pass, and what is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from parity import check
from parity.checks.drift.check import HAVE_NONE, drift
from parity.checks.drift.reading import gather_reports
from parity.core.metrics import Status
from parity.core.results import Report, Verdict
from parity.errors import ExitCode

Made = Any
Document = dict[str, Any]
Laid = Callable[..., Report]
Write = Callable[..., Path]


def words(report: Report) -> str:
    return "\n".join(f"{r.code.name} {r.what} | {r.where} | {r.fix}" for r in report.reasons)


def test_rows_that_pass_are_a_pass(made: Made, laid: Laid) -> None:
    both = [made.report("layerwise"), made.ids("tokens")]
    report = laid(a=both, b=both, c=both)
    expected = (Verdict.PASS, ExitCode.PASS, [], 6, 6, {"a": (2, 2), "b": (2, 2), "c": (2, 2)})
    plan = report.plan
    assert expected == (
        report.verdict,
        report.exit_code,
        report.reasons,
        plan.planned,
        plan.compared,
        plan.per_backend,
    )


def test_movement_is_no_failure(made: Made, laid: Laid) -> None:
    one = made.report()
    report = laid(a=[one], b=[made.moved(one, made.OURS, "logits", 0.5)])
    expected = (Verdict.PASS, 1)
    assert expected == (report.verdict, sum(move.moved for move in report.details["moves"]))


def test_reports_of_other_code_are_no_verdict_on_this(made: Made, write: Write) -> None:
    report = made.report()
    code = str(report["identity"]["code"])
    older = report | {"identity": report["identity"] | {"code": "older"}}
    rows = gather_reports([write("a", report), write("b", older)], (), lambda *_: None)
    assert drift(rows, {"code": code}).exit_code == ExitCode.PASS
    asked = drift(rows, {"code": code}, same_code=True)
    assert (asked.exit_code, "row b" in words(asked)) == (ExitCode.INCONCLUSIVE, True)
    assert "row a" not in words(asked)
    alike = gather_reports([write("a", report), write("c", report)], (), lambda *_: None)
    assert drift(alike, {"code": code}, same_code=True).exit_code == ExitCode.PASS
    assert drift(alike, {"code": "newer"}, same_code=True).exit_code == ExitCode.INCONCLUSIVE


def _fail(document: Document) -> Document:
    said = {"tap": "h.0", "why": "off by 3"}
    return document | {"verdict": "fail", "exit_code": 1, "first_divergence": said}


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (("pass", "fail"), ExitCode.FAIL),
        (("fail", "pass"), ExitCode.FAIL),
        (("fail", "fail"), ExitCode.FAIL),
        (("pass", "error"), ExitCode.FAIL),
        (("error", "error"), ExitCode.FAIL),
        (("pass", "inconclusive"), ExitCode.FAIL),
        (("inconclusive", "inconclusive"), ExitCode.INCONCLUSIVE),
    ],
)
def test_a_verdict_that_is_no_pass_is_none_here(
    verdicts: tuple[str, ...], code: ExitCode, made: Made, laid: Laid
) -> None:
    why = [{"what": "because of this"}]
    rows = {
        name: [made.report(verdict=verdict, reasons=[] if verdict == "pass" else why)]
        for name, verdict in zip("ab", verdicts, strict=True)
    }
    report = laid(**rows)
    assert (code, True) == (report.exit_code, "layerwise" in words(report))
    assert "because of this" in words(report)


def test_the_first_divergence_is_passed_on(made: Made, laid: Laid) -> None:
    report = laid(a=[made.report()], b=[_fail(made.report())])
    (row,) = (row for row in report.results if row.backend == "b")
    expected = (Status.FAIL, "h.0: off by 3", True)
    assert expected == (row.status, row.detail, "b: h.0: off by 3" in words(report))


def test_a_report_that_is_missing_is_no_pass(made: Made, laid: Laid) -> None:
    report = laid(a=[made.report(), made.ids()], b=[made.report()])
    expected = (ExitCode.INCONCLUSIVE, True, 4, 3)
    assert expected == (
        report.exit_code,
        "no report of tokens | row b" in words(report),
        report.plan.planned,
        report.plan.compared,
    )


def test_a_row_that_was_not_run_is_no_pass(made: Made, laid: Laid) -> None:
    report = laid(("b",), a=[made.report()], c=[made.report()])
    expected = (ExitCode.INCONCLUSIVE, True, [("a", "c")], {Status.NOT_RUN})
    assert expected == (
        report.exit_code,
        "not run: it has no report | row b" in words(report),
        [(pair.first, pair.second) for pair in report.details["pairs"]],
        {row.status for row in report.results if row.backend == "b"},
    )


def test_an_expected_row_that_is_there_is_nothing_more(made: Made, laid: Laid) -> None:
    assert laid(("b", "a"), a=[made.report()], b=[made.report()]).verdict is Verdict.PASS


def test_one_row_is_no_comparison(made: Made, laid: Laid) -> None:
    for rows in ({"a": [made.report()]}, {"a": [made.report()], "b": []}, {"a": [], "b": []}):
        assert laid(**rows).exit_code is ExitCode.INCONCLUSIVE


def test_where_several_codes_apply_the_worst_does(made: Made, laid: Laid) -> None:
    report = laid(a=[_fail(made.report()), made.ids()], b=[made.report()])
    assert report.exit_code is ExitCode.FAIL


def _plan(**taps: int) -> Document:
    per_backend = {path: [count, count] for path, count in taps.items()}
    return {"planned": 6, "compared": 6, "per_backend": per_backend}


@pytest.mark.parametrize(
    ("other", "name"),
    [
        pytest.param({"inputs": {"batch": 1, "time": 6}}, "inputs.time is", id="time"),
        pytest.param(
            {"inputs": {"batch": 1, "time": 5, "dtype": "bfloat16"}}, "inputs.dtype", id="dtype"
        ),
        pytest.param(
            {"inputs": {"batch": 1, "time": 5, "ids": "sha256 1"}}, "inputs.ids", id="ids"
        ),
        pytest.param({"plan": _plan(plain=5)}, "planned.plain", id="planned"),
        pytest.param({"plan": _plan(tiled=6)}, "planned.tiled", id="another path"),
        pytest.param(
            {"identity": {"weights": {"sha256": "1"}, "config": {"n_layer": 2}}},
            "weights.sha256",
            id="weights",
        ),
        pytest.param(
            {"identity": {"weights": {"sha256": "0" * 64}, "config": {"n_layer": 3}}},
            "config.n_layer",
            id="config",
        ),
        pytest.param(
            {"identity": {"vocabulary": {"digest": "1"}}}, "vocabulary.digest", id="vocabulary"
        ),
    ],
)
def test_different_things_are_not_compared(
    other: Document, name: str, made: Made, laid: Laid
) -> None:
    report = laid(a=[made.report()], b=[made.report(**other)])
    expected = (ExitCode.INCONCLUSIVE, True, [], 1)
    assert expected == (
        report.exit_code,
        name in words(report) and " in a" in words(report) and " in b" in words(report),
        report.details["moves"],
        len(report.details["unknown"]),
    )


def test_ties_and_what_was_left_out_are_no_inputs(made: Made, laid: Laid) -> None:
    rows = {name: [made.report(inputs={"time": 5, "ties": name})] for name in "ab"}
    assert laid(**rows).verdict is Verdict.PASS


def test_a_row_is_of_one_environment(made: Made, laid: Laid) -> None:
    stale = made.on(made.ids(), torch="2.5.1")
    report = laid(a=[made.report(), stale], b=[made.report(), made.ids()])
    said = "not made under one torch: 2.5.1 in tokens; 2.6.0 in layerwise | row a"
    expected = (ExitCode.INCONCLUSIVE, True)
    assert expected == (report.exit_code, said in words(report))


def test_taps_that_one_row_alone_has_are_no_pass(made: Made, laid: Laid) -> None:
    fewer = made.report()
    del fewer["fingerprints"][-1]
    report = laid(a=[made.report()], b=[made.report()], c=[fewer])
    said = "huggingface/plain float32 per-op logits | layerwise of a and c"
    expected = (ExitCode.INCONCLUSIVE, True)
    assert expected == (report.exit_code, said in words(report))


def test_movement_of_some_taps_alone_is_not_told(made: Made, laid: Laid) -> None:
    other = made.fingerprint(("another", "float32", "end-to-end"), "logits")
    for fingerprints in (made.report()["fingerprints"][:5], [other]):
        report = laid(a=[made.report()], b=[made.report(fingerprints=fingerprints)])
        expected = (ExitCode.INCONCLUSIVE, [], ["the taps are not the same"])
        assert expected == (
            report.exit_code,
            report.details["moves"],
            [unknown.why for unknown in report.details["unknown"]],
        )


def test_without_fingerprints_there_is_no_verdict(made: Made, laid: Laid) -> None:
    bare = made.report("training", fingerprints=[])
    for first, where in ((made.report("training"), "training of b"), (bare, "training of a, b")):
        report = laid(a=[first], b=[bare])
        (reason,) = report.reasons
        expected = (ExitCode.INCONCLUSIVE, where, "python -m parity.check training --fingerprints")
        fix = reason.fix.partition(": ")[2].removesuffix(" --output FILE.json")
        assert expected == (report.exit_code, reason.where, fix)


@pytest.mark.parametrize("verb", sorted(HAVE_NONE))
def test_what_takes_no_fingerprints_needs_none(verb: str, made: Made, laid: Laid) -> None:
    both = [made.report(), made.report(verb, fingerprints=[])]
    report = laid(a=both, b=both)
    assert report.verdict is Verdict.PASS
    assert [(verb, "the check takes no fingerprints")] == [
        (unknown.check, unknown.why) for unknown in report.details["unknown"]
    ]


def test_the_command_line_knows_which_these_are() -> None:
    verbs = typer.main.get_command(check.app).commands  # type: ignore[attr-defined]
    without = {
        name
        for name, verb in verbs.items()
        if "--fingerprints" not in {option for param in verb.params for option in param.opts}
    }
    assert HAVE_NONE | {"drift"} == without


LIES = [{"norm": 2.5}, {"shape": [3, 1]}, {"norm": None, "sketch": ""}]


@pytest.mark.parametrize("lie", [*LIES, {"sketch": "other"}], ids=["norm", "shape", "no", "sketch"])
def test_one_digest_is_one_tensor(lie: Document, made: Made, laid: Laid) -> None:
    lie = {key: made.sketch(2.0, 1.0) if value == "other" else value for key, value in lie.items()}
    others = made.report()["fingerprints"]
    changed = {**others[-1], **lie}
    moved = made.moved(made.report(), made.ALONE, "logits", 0.5)  # between them, another digest
    report = laid(
        a=[made.report()], b=[moved], c=[made.report(fingerprints=[*others[:-1], changed])]
    )
    said = "one digest has two norms, sketches or shapes: huggingface/plain float32 per-op logits"
    expected = (ExitCode.INCONCLUSIVE, True, [2])
    assert expected == (
        report.exit_code,
        said in words(report) and "layerwise of a, b, c" in words(report),
        [unknown.pair for unknown in report.details["unknown"]],
    )


def test_rounding_of_another_machine_is_no_lie(made: Made, laid: Laid) -> None:
    """Norms and sketches are sums, whose last digit may differ between machines."""
    almost = made.report()
    almost["fingerprints"][0] |= {"norm": 2.0 + 1e-15, "sketch": made.sketch(2.0 - 1e-15)}
    assert laid(a=[made.report()], b=[almost]).verdict is Verdict.PASS
