"""The drift check: verdicts, causes, changes, and the command line."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from parity import check
from parity.checks.drift.changes import Change
from parity.checks.drift.check import HAVE_NONE, drift
from parity.checks.drift.reading import gather_reports
from parity.core.fingerprints import BUCKETS, ROUNDING, decoded, encoded
from parity.core.metrics import Status
from parity.core.results import Report, Verdict
from parity.errors import ExitCode

Made = Any
Document = dict[str, Any]
Compare = Callable[..., Report]
Write = Callable[..., Path]


def words(report: Report) -> str:
    return "\n".join(f"{r.code.name} {r.what} | {r.where} | {r.fix}" for r in report.reasons)


def test_runs_that_pass_are_a_pass(made: Made, compare: Compare) -> None:
    both = [made.report("layerwise"), made.ids("tokens")]
    report = compare(a=both, b=both, c=both)
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


def test_a_change_is_no_failure(made: Made, compare: Compare) -> None:
    one = made.report()
    report = compare(one, made.moved(one, made.OURS, "logits", 0.5))
    assert report.verdict == Verdict.PASS
    assert sum(move.moved for move in report.details["moves"]) == 1


def test_reports_of_other_code_are_inconclusive_with_same_code(made: Made, write: Write) -> None:
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
    message = {"tap": "h.0", "why": "off by 3"}
    return document | {"verdict": "fail", "exit_code": 1, "first_divergence": message}


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
def test_a_report_that_does_not_pass_is_no_pass(
    verdicts: tuple[str, ...], code: ExitCode, made: Made, compare: Compare
) -> None:
    why = [{"what": "because of this"}]
    rows = {
        name: [made.report(verdict=verdict, reasons=[] if verdict == "pass" else why)]
        for name, verdict in zip("ab", verdicts, strict=True)
    }
    report = compare(**rows)
    assert (code, True) == (report.exit_code, "layerwise" in words(report))
    assert "because of this" in words(report)


def test_the_first_divergence_is_quoted(made: Made, compare: Compare) -> None:
    report = compare(made.report(), _fail(made.report()))
    (row,) = (row for row in report.results if row.backend == "b")
    assert row.status == Status.FAIL
    assert row.detail == "h.0: off by 3"
    assert "b: h.0: off by 3" in words(report)


def test_a_report_that_is_missing_is_no_pass(made: Made, compare: Compare) -> None:
    report = compare(a=[made.report(), made.ids()], b=[made.report()])
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert "no report of tokens | row b" in words(report)
    assert report.plan.planned == 4
    assert report.plan.compared == 3


def test_a_run_without_reports_is_no_pass(made: Made, compare: Compare) -> None:
    report = compare(expect=("b",), a=[made.report()], c=[made.report()])
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert "not run: it has no report | row b" in words(report)
    assert [(pair.first, pair.second) for pair in report.details["pairs"]] == [("a", "c")]
    assert {row.status for row in report.results if row.backend == "b"} == {Status.NOT_RUN}


def test_an_expected_run_that_exists_changes_nothing(made: Made, compare: Compare) -> None:
    assert compare(expect=("b", "a"), a=[made.report()], b=[made.report()]).verdict is Verdict.PASS


def test_one_run_is_no_comparison(made: Made, compare: Compare) -> None:
    for rows in ({"a": [made.report()]}, {"a": [made.report()], "b": []}, {"a": [], "b": []}):
        assert compare(**rows).exit_code is ExitCode.INCONCLUSIVE


def test_the_worst_exit_code_wins(made: Made, compare: Compare) -> None:
    report = compare(a=[_fail(made.report()), made.ids()], b=[made.report()])
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
def test_reports_with_different_inputs_are_not_compared(
    other: Document, name: str, made: Made, compare: Compare
) -> None:
    report = compare(made.report(), made.report(**other))
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert name in words(report)
    assert " in a" in words(report)
    assert " in b" in words(report)
    assert report.details["moves"] == []
    assert len(report.details["unknown"]) == 1


def test_ties_are_no_difference_of_inputs(made: Made, compare: Compare) -> None:
    rows = {name: [made.report(inputs={"time": 5, "ties": name})] for name in "ab"}
    assert compare(**rows).verdict is Verdict.PASS


def test_a_run_has_one_environment(made: Made, compare: Compare) -> None:
    stale = made.on(made.ids(), torch="2.5.1")
    report = compare(a=[made.report(), stale], b=[made.report(), made.ids()])
    message = "not made under one torch: 2.5.1 in tokens; 2.6.0 in layerwise | row a"
    assert (report.exit_code, message in words(report)) == (ExitCode.INCONCLUSIVE, True)


def test_taps_of_one_run_alone_are_no_pass(made: Made, compare: Compare) -> None:
    fewer = made.report()
    del fewer["fingerprints"][-1]
    report = compare(made.report(), made.report(), fewer)
    message = "huggingface/plain float32 per-op logits | layerwise of a and c"
    assert (report.exit_code, message in words(report)) == (ExitCode.INCONCLUSIVE, True)


def test_changes_of_only_some_taps_are_not_reported(made: Made, compare: Compare) -> None:
    other = made.fingerprint(("another", "float32", "end-to-end"), "logits")
    for fingerprints in (made.report()["fingerprints"][:5], [other]):
        report = compare(made.report(), made.report(fingerprints=fingerprints))
        assert report.exit_code == ExitCode.INCONCLUSIVE
        assert report.details["moves"] == []
        assert [unknown.why for unknown in report.details["unknown"]] == [
            "the taps are not the same"
        ]


def test_without_fingerprints_there_is_no_verdict(made: Made, compare: Compare) -> None:
    bare = made.report("training", fingerprints=[])
    for first, where in ((made.report("training"), "training of b"), (bare, "training of a, b")):
        report = compare(first, bare)
        (reason,) = report.reasons
        expected = (ExitCode.INCONCLUSIVE, where, "python -m parity.check training --fingerprints")
        fix = reason.fix.partition(": ")[2].removesuffix(" --output FILE.json")
        assert expected == (report.exit_code, reason.where, fix)


@pytest.mark.parametrize("verb", sorted(HAVE_NONE))
def test_checks_without_fingerprints_need_none(verb: str, made: Made, compare: Compare) -> None:
    both = [made.report(), made.report(verb, fingerprints=[])]
    report = compare(a=both, b=both)
    assert report.verdict is Verdict.PASS
    assert [(verb, "the check takes no fingerprints")] == [
        (unknown.check, unknown.why) for unknown in report.details["unknown"]
    ]


def test_those_checks_have_no_option_for_fingerprints() -> None:
    verbs = typer.main.get_command(check.app).commands  # type: ignore[attr-defined]
    without = {
        name
        for name, verb in verbs.items()
        if "--fingerprints" not in {option for param in verb.params for option in param.opts}
    }
    assert HAVE_NONE | {"drift"} == without


LIES = [{"norm": 2.5}, {"shape": [3, 1]}, {"norm": None, "sketch": ""}]


@pytest.mark.parametrize("lie", [*LIES, {"sketch": "other"}], ids=["norm", "shape", "no", "sketch"])
def test_one_digest_is_one_tensor(lie: Document, made: Made, compare: Compare) -> None:
    lie = {key: made.sketch(2.0, 1.0) if value == "other" else value for key, value in lie.items()}
    others = made.report()["fingerprints"]
    changed = {**others[-1], **lie}
    moved = made.moved(made.report(), made.ALONE, "logits", 0.5)  # between them, another digest
    report = compare(made.report(), moved, made.report(fingerprints=[*others[:-1], changed]))
    message = (
        "one digest has two norms, sketches or shapes: huggingface/plain float32 per-op logits"
    )
    assert report.exit_code == ExitCode.INCONCLUSIVE
    assert message in words(report)
    assert "layerwise of a, b, c" in words(report)
    assert [unknown.pair for unknown in report.details["unknown"]] == [2]


def test_rounding_of_another_machine_is_no_contradiction(made: Made, compare: Compare) -> None:
    """Norms and sketches are sums, whose last digit may differ between machines."""
    almost = made.report()
    almost["fingerprints"][0] |= {"norm": 2.0 + 1e-15, "sketch": made.sketch(2.0 - 1e-15)}
    assert compare(made.report(), almost).verdict is Verdict.PASS


def test_what_differs_between_rows_is_listed(made: Made, compare: Compare) -> None:
    newer = made.on(made.report(), torch="2.8.0")
    report = compare(made.report(), newer, newer)
    pairs = [pair.differs for pair in report.details["pairs"]]
    assert report.details["differences"] == {"torch": {"2.6.0": ["a"], "2.8.0": ["b", "c"]}}
    assert pairs == [{"torch": ("2.6.0", "2.8.0")}, {}, {"torch": ("2.6.0", "2.8.0")}]
    assert report.details["notes"] == []


@pytest.mark.parametrize("name", ["threads", "cpu_capability"])
def test_another_order_of_sums_is_noted(name: str, made: Made, compare: Compare) -> None:
    changed = made.on(made.report(), **{name: "other"})
    report = compare(made.report(), made.report(), changed)
    (note,) = report.details["notes"]
    expected = (Verdict.PASS, [1, 2], True)
    message = name in note.what and "without a change of version" in note.what
    assert expected == (report.verdict, note.pairs, message)


def test_other_code_is_noted(made: Made, compare: Compare) -> None:
    identity = made.report()["identity"] | {"code": "gpt1-parity 0.2.0"}
    report = compare(made.report(), made.report(identity=identity), made.report())
    (note,) = report.details["notes"]
    assert report.verdict == Verdict.PASS
    assert note.pairs == [0, 1]
    assert "different code" in note.what


def test_a_changed_oracle_is_noted(made: Made, compare: Compare) -> None:
    moved = made.moved(made.report(), made.ORACLE, "logits", 1e-16)
    given = made.moved(moved, made.GIVEN, "logits", 1e-8)
    report = compare(made.report(), moved, given)
    assert [
        (note.pairs, "is unknown" in note.what)
        for note in report.details["notes"]
        if "oracle changed" in note.what
    ] == [([0], False), ([1, 2], True)]


def test_taps_in_another_order_are_noted(made: Made, compare: Compare) -> None:
    turned = made.report(fingerprints=made.report()["fingerprints"][::-1])
    report = compare(made.report(), turned, turned)
    (note,) = report.details["notes"]
    assert report.verdict == Verdict.PASS
    assert note.pairs == [0, 2]
    assert "another order" in note.what


def of(report: Report, subject: str, mode: str = "end-to-end", pair: int = 0) -> Change:
    (found,) = (
        move
        for move in report.details["moves"]
        if (move.subject, move.mode, move.pair) == (subject, mode, pair)
    )
    return found


def test_the_first_and_the_largest_change_are_named(made: Made, compare: Compare) -> None:
    other = made.moved(made.report(), made.OURS, "h.1.mlp.gelu", 3e-6)
    other = made.moved(other, made.OURS, "h.0.mlp.gelu", 2e-7)
    move = of(compare(made.report(), other), "ours/plain")
    assert move.moved == 2
    assert move.compared == 6
    assert move.first == "h.0.mlp.gelu"
    assert move.largest == "h.1.mlp.gelu"
    assert (pytest.approx(2e-7), pytest.approx(3e-6)) == (move.first_change, move.largest_change)


def test_the_order_is_that_of_the_report(made: Made, compare: Compare) -> None:
    """Gradients run from the loss backwards."""
    names = ["logits", "h.1.mlp.gelu", "embeddings"]
    one = made.report("gradients", fingerprints=[made.fingerprint(made.OURS, n) for n in names])
    other = one
    for name in names[::-1]:
        other = made.moved(other, made.OURS, name, 1e-6)
    assert of(compare(one, other), "ours/plain").first == "logits"


def test_a_subject_without_changes_is_reported_too(made: Made, compare: Compare) -> None:
    report = compare(made.report(), made.moved(made.report(), made.OURS, "logits", 1e-6))
    still = of(report, "huggingface")
    assert still.moved == 0
    assert still.compared == 6
    assert still.first == ""
    assert still.largest_change == 0.0
    assert still.largest == ""
    assert still.kinds == {}


def test_operations_that_changed_alone_are_counted_by_kind(made: Made, compare: Compare) -> None:
    other = made.report()
    for tap in ("h.0.mlp.gelu", "h.1.mlp.gelu", "logits"):
        other = made.moved(other, made.ALONE, tap, 1e-7)
        other = made.moved(other, made.THEIRS, tap, 1e-7)
    report = compare(made.report(), other)
    expected = ({"mlp.gelu": 2, "logits": 1}, {})
    alone, theirs = of(report, "huggingface/plain", "per-op"), of(report, "huggingface")
    assert expected == (alone.kinds, theirs.kinds)
    assert (alone.alone, theirs.alone) == (True, False)


@pytest.mark.parametrize("known", [True, False])
def test_an_operation_with_a_changed_input_did_not_change_alone(
    *, known: bool, made: Made, compare: Compare
) -> None:
    one = made.report()
    if not known:
        taken = [f for f in one["fingerprints"] if f["subject"] != "oracle/plain"]
        one = made.report(fingerprints=taken)
    other = made.moved(one, made.ALONE, "h.1.mlp.gelu", 1e-7)
    other = made.moved(other, made.GIVEN, "h.0.mlp.gelu", 1e-8)
    move = of(compare(one, other), "huggingface/plain", "per-op")
    assert (move.alone, move.kinds, move.moved, move.compared) == (False, {}, 1, 6)


def test_pairs_are_neighbours_and_both_ends(made: Made, compare: Compare) -> None:
    rows = {name: [made.report()] for name in "abc"}
    three, two = compare(**rows).details, compare(a=rows["a"], b=rows["b"]).details
    assert [(pair.first, pair.second) for pair in three["pairs"]] == [
        ("a", "b"),
        ("b", "c"),
        ("a", "c"),
    ]
    assert [(pair.first, pair.second) for pair in two["pairs"]] == [("a", "b")]


def test_each_pair_has_its_own_changes(made: Made, compare: Compare) -> None:
    later = made.moved(made.report(), made.OURS, "logits", 1e-6)
    report = compare(made.report(), later, later)
    assert [of(report, "ours/plain", pair=pair).moved for pair in range(3)] == [1, 0, 1]


def test_changed_ids_are_named_without_a_size(made: Made, compare: Compare) -> None:
    texts = made.ids("tokens", ("hand-picked", "generated", "corpus"))
    other = made.moved(texts, made.IDS, "generated", 0.0)
    move = of(compare(texts, other), "huggingface", "exact")
    assert move.moved == 1
    assert move.first == "generated"
    assert move.first_change is None
    assert move.largest == "generated"
    assert move.largest_change is None


def test_without_fingerprints_changes_are_unknown(made: Made, compare: Compare) -> None:
    bare = made.report(fingerprints=[])
    report = compare(made.report(), bare, made.report())
    assert report.verdict == Verdict.INCONCLUSIVE
    assert [
        (u.pair, "b was written without --fingerprints" in u.why) for u in report.details["unknown"]
    ] == [(0, True), (1, True)]
    assert {move.pair for move in report.details["moves"]} == {2}
    blocks = [changes for entry in report.details["largest"] for changes in entry.blocks.values()]
    assert {(None, None, 0.0)} == {tuple(changes) for changes in blocks}


def test_a_report_without_a_verdict_has_no_changes(made: Made, compare: Compare) -> None:
    broken = made.report(verdict="error", identity={}, environment={}, plan={"per_backend": {}})
    report = compare(made.report(), broken)
    assert report.exit_code == ExitCode.FAIL
    assert [unknown.why for unknown in report.details["unknown"]] == [
        "b has no report with a verdict"
    ]
    assert report.details["moves"] == []


def test_the_largest_changes_are_grouped_by_block_and_tap(made: Made, compare: Compare) -> None:
    second = made.moved(made.report(), made.OURS, "h.0.mlp.gelu", 2e-7)
    second = made.moved(second, made.TILED, "h.0.attn.query", 4e-7)
    third = made.moved(second, made.TILED, "h.0.attn.query", 1.4e-6)
    report = compare(made.report(), second, third)
    (ours,) = (e for e in report.details["largest"] if (e.side, e.mode) == ("ours", "end-to-end"))
    still = [0.0, 0.0, 0.0]
    assert ours.blocks == {
        "embeddings": still,
        "h.0": [4e-7, 1e-6, 1.4e-6],
        "h.1": still,
        "logits": still,
    }
    assert ours.taps == {"h.0.attn.query": 1.4e-6, "h.0.mlp.gelu": 2e-7}


def test_training_is_grouped_by_step_and_quantity(made: Made, compare: Compare) -> None:
    names = [
        *("openai.1.loss", "openai.1.gradient.h.0.ln_1.bias"),
        *("openai.1.gradient.h.0.mlp.c_fc.weight", "openai.2.gradient.tokens_embed.weight"),
    ]
    one = made.report("training", fingerprints=[made.fingerprint(made.OURS, n) for n in names])
    other = one
    for size, name in enumerate(names):
        other = made.moved(other, made.OURS, name, 1e-6 * size or 1e-17)
    report = compare(one, other)
    (ours,) = report.details["largest"]
    assert ours.blocks == {"openai.loss": [ROUNDING], "openai.gradient": [3e-6]}
    assert ours.taps == {
        "openai.1.loss": ROUNDING,
        "openai.1.gradient.h.0": 2e-6,
        "openai.2.gradient.tokens_embed.weight": 3e-6,
    }


Check = Callable[..., Any]
Strictly = Callable[[str], Any]
RUN = ["layerwise", "--weights", "tiny", "--seq-len", "9", "--fingerprints", "--quiet"]
PLACE = ("huggingface", "float32", "end-to-end", "h.3.mlp.gelu")


@pytest.fixture(scope="module")
def real(check: Check, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "real"
    folder.mkdir()
    assert check(*RUN, "--output", str(folder / "layerwise.json")).exit_code == 0
    return folder


@pytest.fixture
def copied(real: Path, tmp_path: Path) -> Callable[..., Path]:
    document = json.loads((real / "layerwise.json").read_text(encoding="utf-8"))

    def put(change: Callable[[Document], object] = lambda _: None) -> Path:
        other = copy.deepcopy(document)
        change(other)
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / "layerwise.json").write_text(json.dumps(other), encoding="utf-8")
        return folder

    return put


def _push(document: Document) -> None:
    taps = {PLACE: 3e-5, (*PLACE[:3], "h.7.ln_1"): 7e-5}
    for entry in document["fingerprints"]:
        key = (entry["subject"], entry["dtype"], entry["mode"], entry["tap"])
        if key in taps:
            direction = np.ones(BUCKETS) / np.sqrt(BUCKETS)
            entry["sketch"] = encoded(
                decoded(entry["sketch"]) + taps[key] * entry["norm"] * direction
            )
            entry["digest"] = "0" * 16  # no other tensor's


def test_an_injected_change_is_found(
    check: Check, strictly: Strictly, real: Path, copied: Callable[..., Path]
) -> None:
    result = check("drift", str(real), str(copied(_push)), "--format", "json")
    drift = strictly(result.stdout)["details"]
    (move,) = (move for move in drift["moves"] if move["moved"])
    assert (
        result.exit_code,
        *(move[name] for name in ("subject", "dtype", "mode", "first")),
        *(move[name] for name in ("moved", "compared", "largest")),
    ) == (0, *PLACE, 2, 173, "h.7.ln_1")
    changes = (move["first_change"], move["largest_change"])
    assert (pytest.approx(3e-5, rel=1e-3), pytest.approx(7e-5, rel=1e-3)) == changes
    assert sum(entry["compared"] for entry in drift["moves"]) > 1_000


def test_a_repeated_run_has_no_change(check: Check, real: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    assert check(*RUN, "--output", str(again)).exit_code == 0
    result = check("drift", str(real), str(again))
    assert (
        result.exit_code,
        result.stdout.count("no change"),
        "h.0" in result.stdout,
    ) == (0, 1, False)


def test_a_fault_is_other_inputs_and_another_verdict(
    check: Check, real: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    assert check(*RUN, "--inject-fault", "erf-gelu@3", "--output", str(other)).exit_code == 1
    result = check("drift", str(real), str(other))
    assert (
        result.exit_code,
        "fail in other" in result.stdout,
        'inputs.inject_fault is not stated in real, "erf-gelu@3" in other'
        in " ".join(result.stdout.split()),
    ) == (1, True, True)


def test_a_report_cut_off_is_refused(check: Check, real: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text((real / "layerwise.json").read_text(encoding="utf-8")[:5_000])
    result = check("drift", str(real), str(cut))
    assert (result.exit_code, result.stdout, str(cut) in result.stderr) == (4, "", True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["gone"], 2, id="missing"),
        pytest.param(["gone", "--require", "gone"], 3, id="missing, expected"),
        pytest.param([], 3, id="alone"),
    ],
)
def test_a_missing_run_has_its_exit_code(
    arguments: list[str], code: int, check: Check, real: Path
) -> None:
    assert check("drift", str(real), *arguments).exit_code == code


def test_no_run_is_a_usage_error(check: Check) -> None:
    result = check("drift")
    expected = (2, 3, True)
    lines = result.stderr.splitlines()
    assert expected == (result.exit_code, len(lines), "drift A B" in result.stderr)


def test_the_json_report_is_strict_and_complete(
    check: Check, strictly: Strictly, real: Path, copied: Callable[..., Path]
) -> None:
    document = strictly(check("drift", str(real), str(copied(_push)), "--format", "json").stdout)
    rows = [(row["tap"], row["backend"], row["details"]["verdict"]) for row in document["results"]]
    assert (document["check"], rows) == (
        "drift",
        [("layerwise", "real", "pass"), ("layerwise", "other", "pass")],
    )
    (theirs,) = (
        entry
        for entry in document["details"]["largest"]
        if (entry["side"], entry["mode"]) == ("huggingface", "end-to-end")
    )
    expected_taps = {"h.3.mlp.gelu", "h.7.ln_1"}
    assert expected_taps == set(theirs["taps"])
    assert ["embeddings", *(f"h.{i}" for i in range(12)), "logits", "loss"] == list(
        theirs["blocks"]
    )


def test_a_report_of_drift_is_rejected(check: Check, real: Path, tmp_path: Path) -> None:
    own = tmp_path / "drift.json"
    check("drift", str(real), "--output", str(own), "--quiet")
    result = check("drift", str(real), str(own))
    assert (result.exit_code, "answer of drift" in result.stderr) == (4, True)
