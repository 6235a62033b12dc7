"""Exit codes, and how a report gets its own."""

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import permutations

import pytest

from parity.core.liveness import BlockHealth
from parity.core.metrics import Status
from parity.core.results import (
    Finding,
    Mode,
    ParityFailedError,
    Plan,
    Reason,
    Report,
    Row,
    Section,
    Verdict,
    compared,
    count,
    difference_found,
    error_report,
    exit_code,
    finish,
    first_divergence,
    first_exact_difference,
    verdict_for,
    worst,
)
from parity.core.taps import Tap, never_formed, taps, undefined_taps
from parity.errors import (
    EnvironmentUnfitError,
    ExitCode,
    InconclusiveError,
    InputRejectedError,
    ParityError,
    UsageError,
)
from parity.report import rendered

WORST_FIRST = [70, 4, 5, 1, 3, 0]


def test_the_worst_code_wins_in_whatever_order_they_come() -> None:
    assert worst([]) is ExitCode.PASS
    for length in range(1, 4):
        for codes in permutations(WORST_FIRST, length):
            assert worst([ExitCode(code) for code in codes]) == min(codes, key=WORST_FIRST.index)


def test_only_a_pass_is_a_pass() -> None:
    verdicts = {0: "pass", 1: "fail", 3: "inconclusive"}
    for code in ExitCode:
        assert verdict_for(code).value == verdicts.get(code, "error")
        assert worst([code]) is worst([ExitCode.PASS, code]) is code


def test_every_error_has_its_code() -> None:
    for error, code in (
        (ParityError, 70),
        (UsageError, 2),
        (InconclusiveError, 3),
        (InputRejectedError, 4),
        (EnvironmentUnfitError, 5),
    ):
        raised = error("what", where="where", fix="fix")
        assert (raised.exit_code, str(raised)) == (code, "what (where; fix)")
        assert (raised.what, raised.where, raised.fix) == ("what", "where", "fix")


def row(tap: str, status: Status = Status.PASS, mode: Mode = Mode.FLOAT64, **more: object) -> Row:
    """Return one row of the plain backend, of a float64 comparison with the oracle."""
    numbers = {"error_ours": 1e-3, "ratio": 7.0, "bound": 1e-9, "required_tolerance": 7.0}
    given = numbers | {"backend": "plain", "dtype": "float64", "against": "oracle"} | more
    return Row(tap=tap, status=status, mode=mode, **given)


def finished(plan: tuple[int, int], *statuses: Status, **parts: object) -> Report:
    rows = [row(str(number), status) for number, status in enumerate(statuses)]
    return finish("any", rows=rows, plan=Plan.of({"plain": plan}), **parts)  # type: ignore[arg-type]


def test_a_report_has_what_its_check_gives() -> None:
    given = {
        "identity": {"weights": {"source": "tiny"}},
        "environment": {"torch": "2.6"},
        "summary": "two things",
    }
    report = finished((1, 1), Status.PASS, **given)
    assert given == {name: getattr(report, name) for name in given}
    assert [mode.value for mode in Mode] == [
        "exact",
        "float64",
        "end-to-end",
        "per-op",
        "float64-per-op",
        "published",
    ]


def test_a_finding_that_is_a_problem_is_inconclusive() -> None:
    fit = [Finding(name="a", found="x"), Finding(name="b", found="y", fit=True)]
    problem = Finding(name="c", found="z", fit=False)
    assert finished((1, 1), findings=fit).verdict is Verdict.PASS
    assert finished((1, 1), findings=[*fit, problem]).verdict is Verdict.INCONCLUSIVE


def test_nothing_compared_is_explained_once() -> None:
    reason = Reason(what="no text", where="--text", fix="give one", code=ExitCode.INCONCLUSIVE)
    assert [r.what for r in finished((1, 0)).reasons] == ["nothing was compared"]
    assert [r.what for r in finished((1, 0), reasons=[reason]).reasons] == ["no text"]


def test_a_name_counts_when_all_its_rows_were_compared() -> None:
    rows = [row("a"), row("b"), row("b", Status.NOT_RUN), row("c", Status.MISSING)]
    assert compared(["a", "b", "c", "d"], rows) == 1


def test_a_plan_sums_its_backends() -> None:
    both, none = Plan.of({"plain": (3, 3), "fused": (2, 1)}), Plan.of({})
    assert (both.planned, both.compared) == (5, 4)
    assert (none.planned, none.compared) == (0, 0)


# Where the sides part.


ALL = taps(2)
HEALTHY = BlockHealth(block="h.0", largest_weight=0.5, times_uniform=9.0, cosine=0.3)
DEGENERATE = BlockHealth(block="h.1", largest_weight=0.5, times_uniform=9.0, cosine=1.0)


def planned(*paths: str) -> dict[str, list[Tap]]:
    return {path: [t for t in ALL if t.name not in never_formed(path, 2)] for path in paths}


def rows_of(status: Mapping[str, Status], *modes: Mode) -> list[Row]:
    chosen = modes or (Mode.FLOAT64,)
    return [row(t.name, status.get(t.name, Status.PASS), mode) for mode in chosen for t in ALL]


def counted(rows: Sequence[Row], *paths: str) -> Plan:
    paths = paths or ("plain",)
    return count(planned(*paths), rows, {path: never_formed(path, 2) for path in paths})


def judged(
    rows: Sequence[Row], reasons: Sequence[Reason] = (), blocks: Sequence[BlockHealth] = (HEALTHY,)
) -> tuple[ExitCode, list[Reason]]:
    return exit_code(counted(rows), rows, reasons, blocks)


def test_everything_compared_is_everything_planned() -> None:
    """33 taps of two blocks on the plain backend, four fewer on the tiled one."""
    tiled = [dataclasses.replace(r, backend="tiled") for r in rows_of({})]
    absent = never_formed("tiled", 2)
    rows = [*rows_of({}), *(r for r in tiled if r.tap not in absent)]
    found = counted(rows, "plain", "tiled")
    assert found.planned == 62
    assert found.compared == 62
    assert found.per_backend == {"plain": (33, 33), "tiled": (29, 29)}


@pytest.mark.parametrize("status", [Status.MISSING, Status.NOT_RUN], ids=str)
def test_a_tap_is_compared_when_every_row_of_it_is(status: Status) -> None:
    rows = [*rows_of({}, Mode.FLOAT64, Mode.END_TO_END), *rows_of({"h.1.mlp": status}, Mode.PER_OP)]
    assert (counted(rows).planned, counted(rows).compared) == (33, 32)


@pytest.mark.parametrize(
    "status", [Status.FAIL, Status.NONFINITE, Status.SHAPE, Status.DTYPE], ids=str
)
def test_a_tap_that_differs_was_compared(status: Status) -> None:
    assert counted(rows_of({"h.1.mlp": status})).compared == 33


def test_a_tap_without_rows_was_not_compared() -> None:
    rows = [r for r in rows_of({}) if r.tap != "h.1.mlp"]
    rows += [row("h.1.mlp", backend="tiled"), row("h.2.mlp", Status.EXTRA)]
    assert (counted(rows).planned, counted(rows).compared) == (33, 32)


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    absent = {path: never_formed(path, 2) | undefined_taps(1) for path in ("plain", "tiled")}
    found = count(planned("plain", "tiled"), [], absent).exempt
    scores = [("tiled", f"h.{i}.attn.{name}") for i in range(2) for name in ("scores", "weights")]
    assert [(entry["backend"], entry["tap"]) for entry in found] == [
        ("plain", "loss"),
        *scores,
        ("tiled", "loss"),
    ]
    assert all(entry["reason"] for entry in found)


def test_where_everything_passes_nothing_diverges() -> None:
    rows = rows_of({}, *Mode)
    assert first_divergence(planned("plain"), rows) is None
    assert judged(rows) == (ExitCode.PASS, [])


def test_the_first_divergence_is_first_in_the_network() -> None:
    rows = rows_of({"h.1.ln_1": Status.FAIL, "h.0.attn": Status.FAIL, "logits": Status.FAIL})
    for order in (rows, rows[::-1]):
        first = first_divergence(planned("plain"), order)
        assert first.tap == "h.0.attn"
        assert first.suspects == next(t.kind.suspects for t in ALL if t.name == "h.0.attn")
        assert first.row in rows


@pytest.mark.parametrize(
    ("status", "suspects"),
    [
        (Status.FAIL, "any operation after h.0.ln_2: the taps between are not shown"),
        (Status.SHAPE, ""),
    ],
    ids=str,
)
def test_after_hidden_taps_any_operation_is_suspected(status: Status, suspects: str) -> None:
    shown = [tap for tap in ALL if not tap.name.startswith("h.1.")]
    first = first_divergence({"plain": shown}, [row("logits", status)])
    assert (first.tap, first.suspects) == ("logits", suspects)


def test_a_tap_that_another_backend_alone_forms_keeps_its_suspects() -> None:
    found = row("h.0.attn.scores", Status.FAIL, backend="tiled")
    first = first_divergence(planned("plain", "tiled"), [found])
    assert first.suspects == next(t.kind.suspects for t in ALL if t.name == "h.0.attn.scores")


@pytest.mark.parametrize("paths", [("plain", "tiled"), ("tiled", "plain")], ids=str)
def test_no_path_stands_before_another(paths: tuple[str, ...]) -> None:
    """A tap that one backend never forms keeps its place in the network."""
    rows = [
        row("h.0.attn.scores", Status.FAIL),
        row("h.0.attn.context", Status.FAIL, backend="tiled"),
    ]
    assert first_divergence(planned(*paths), rows).tap == "h.0.attn.scores"


def test_float64_comes_before_per_op_and_that_before_end_to_end() -> None:
    last = row("embeddings", Status.FAIL, Mode.END_TO_END)
    middle = row("h.0.ln_1", Status.FAIL, Mode.PER_OP)
    best = row("h.1.ln_1", Status.FAIL, Mode.FLOAT64)
    for rows, expected in (([last], last), ([last, middle], middle), ([middle, best, last], best)):
        assert expected is first_divergence(planned("plain"), rows).row


def test_an_unplanned_tap_comes_last() -> None:
    extra = row("h.2.ln_1", Status.EXTRA, detail="shown, but not in the plan")
    first = first_divergence(planned("plain"), [extra, row("loss", Status.FAIL)])
    assert first.tap == "loss"
    first = first_divergence(planned("plain"), [extra])
    assert first.tap == "h.2.ln_1"
    assert first.why == "extra: shown, but not in the plan"
    assert not first.suspects


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (row("logits", Status.FAIL), ("float64", "oracle", "0.001", "1e-09")),
        (
            row("logits", Status.FAIL, Mode.PER_OP, dtype="float32", bound=4.0),
            ("float32", "per-op", "7", "4"),
        ),
        (
            row("logits", Status.FAIL, Mode.END_TO_END, dtype="bfloat16", bound=3.0),
            ("bfloat16", "end-to-end", "7", "3"),
        ),
        (row("logits", Status.NONFINITE, detail="at [1]"), ("nonfinite: at [1]",)),
        (row("logits", Status.MISSING), ("missing",)),
        *(
            (row("logits", Status.FAIL, mode, required_tolerance=None), ("no finite number",))
            for mode in (Mode.FLOAT64, Mode.PER_OP, Mode.END_TO_END)
        ),
    ],
)
def test_the_finding_has_the_numbers(found: Row, words: tuple[str, ...]) -> None:
    first = first_divergence(planned("plain"), [found])
    assert first.tap == "logits"
    assert not [word for word in words if word not in first.why]


def test_the_first_tensor_that_differs_is_named() -> None:
    rows = [
        row("a", mode=Mode.EXACT),
        row("b", Status.FAIL, Mode.EXACT, error_ours=12_345.0, against="huggingface"),
        row("c", Status.MISSING, Mode.EXACT),
    ]
    first = first_exact_difference(rows)
    assert (first.tap, first.row) == ("b", rows[1])
    assert "12,345" in first.why
    assert "Hugging Face" in first.why
    assert first_exact_difference(rows[:1]) is None


@pytest.mark.parametrize("status", [Status.MISSING, Status.NOT_RUN], ids=str)
def test_nothing_compared_is_inconclusive(status: Status) -> None:
    rows = rows_of({tap.name: status for tap in ALL})
    code, reasons = judged([*rows, row("model.h.0.ln_1", Status.EXTRA)])
    assert code is ExitCode.INCONCLUSIVE
    assert [reason.what for reason in reasons] == ["nothing was compared"]
    assert judged([])[0] is ExitCode.INCONCLUSIVE
    assert exit_code(count({}, [], {}), [], [], [])[0] is ExitCode.INCONCLUSIVE


def test_half_matched_fails_at_the_first_one_missing() -> None:
    rows = rows_of({tap.name: Status.MISSING for tap in ALL[17:]})
    assert judged(rows)[0] is ExitCode.FAIL
    assert first_divergence(planned("plain"), rows).tap == ALL[17].name
    assert judged([*rows_of({}), row("h.2.ln_1", Status.EXTRA)])[0] is ExitCode.FAIL


@pytest.mark.parametrize(
    "status",
    [Status.FAIL, Status.NONFINITE, Status.MISSING, Status.SHAPE, Status.DTYPE],
    ids=str,
)
def test_one_row_that_differs_fails(status: Status) -> None:
    modes = (Mode.FLOAT64, Mode.PER_OP)
    rows = [*rows_of({}, *modes), *rows_of({"h.0.ln_1": status}, Mode.END_TO_END)]
    assert judged(rows) == (ExitCode.FAIL, [])


def test_one_row_that_was_not_run_is_inconclusive() -> None:
    rows = rows_of({"h.0.ln_1": Status.NOT_RUN})
    assert judged(rows)[0] is ExitCode.INCONCLUSIVE
    rows = rows_of({"h.0.ln_1": Status.NOT_RUN, "logits": Status.FAIL})
    assert judged(rows)[0] is ExitCode.FAIL


def test_a_degenerate_block_is_inconclusive() -> None:
    code, reasons = judged(rows_of({}), blocks=[HEALTHY, DEGENERATE])
    assert (code, len(reasons)) == (ExitCode.INCONCLUSIVE, 1)
    assert "h.1" in reasons[0].where
    assert judged(rows_of({"logits": Status.FAIL}), blocks=[DEGENERATE])[0] is ExitCode.FAIL


@pytest.mark.parametrize("code", [1, 3, 4, 5, 70])
@pytest.mark.parametrize("status", [Status.PASS, Status.FAIL, Status.NOT_RUN], ids=str)
def test_the_worst_of_rows_and_reasons_is_the_exit_code(status: Status, code: int) -> None:
    given = Reason(what="what", where="where", fix="fix", code=ExitCode(code))
    of_rows = {Status.PASS: 0, Status.FAIL: 1, Status.NOT_RUN: 3}[status]
    found, reasons = judged(rows_of({"h.0.ln_1": status}), [given])
    assert found == min(code, of_rows, key=WORST_FIRST.index)
    assert [given] == reasons
    nothing = rows_of({tap.name: Status.NOT_RUN for tap in ALL})
    assert judged(nothing, [given])[0] == code


# Every field and every sentence.


def test_of_all_codes_the_worst_wins() -> None:
    """A crash, then rejected input and the environment; a wrong call comes before a failure."""
    order = [70, 4, 5, 2, 130, 141, 1, 3, 0]
    assert sorted(order) == sorted(code.value for code in ExitCode)
    for first, second in permutations(order, 2):
        expected = min(first, second, key=order.index)
        assert worst([ExitCode(first), ExitCode(second)]) == expected


def test_reasons_of_its_own_have_place_and_fix() -> None:
    blocks = [dataclasses.replace(DEGENERATE, block=f"h.{i}") for i in range(4)]
    _, (dead,) = judged(rows_of({}), blocks=blocks)
    assert dead == Reason(
        what="the model is dead at depth: faults inside such a block do not show",
        where="; ".join(str(block.dead) for block in blocks[:3]),
        fix="compare on trained or surrogate weights, and on ids that differ",
        code=ExitCode.INCONCLUSIVE,
    )
    _, (nothing,) = judged([])
    assert nothing == Reason(
        what="nothing was compared",
        where="33 taps were planned",
        fix="check that the model shows its taps under the names of parity/core/taps.py",
        code=ExitCode.INCONCLUSIVE,
    )


def test_a_reason_given_twice_is_one() -> None:
    given = Reason(what="what", where="where", fix="fix", code=ExitCode.FAIL)
    assert judged(rows_of({}), [given, given]) == (ExitCode.FAIL, [given])


def test_an_error_is_a_report_without_rows() -> None:
    found = error_report(InputRejectedError("what", where="where", fix="fix"), "weights")
    assert (found.check, found.verdict, found.exit_code) == ("weights", Verdict.ERROR, 4)
    assert found.reasons == [Reason(what="what", where="where", fix="fix", code=ExitCode.REFUSED)]
    assert (found.summary, found.identity, found.environment) == ("what", {}, {})
    assert found.plan == Plan(planned=0, compared=0, per_backend={}, exempt=[])
    assert repr(found) == "<Report weights: error, 0 of 0 compared>"


FINISHED = finished((2, 1), Status.PASS, Status.NOT_RUN, liveness=[HEALTHY])


def test_a_report_is_made_of_its_parts() -> None:
    assert FINISHED.check == "any"
    assert [row.status for row in FINISHED.results] == [Status.PASS, Status.NOT_RUN]
    assert FINISHED.plan == Plan.of({"plain": (2, 1)})
    assert (FINISHED.identity, FINISHED.environment, FINISHED.reasons) == ({}, {}, [])
    assert (FINISHED.liveness, FINISHED.verdict) == ([HEALTHY], Verdict.INCONCLUSIVE)
    assert FINISHED.version == metadata.version("gpt1-parity")
    assert repr(FINISHED) == "<Report any: inconclusive, 1 of 2 compared>"
    with pytest.raises(ParityFailedError, match=r"^inconclusive: .+\n") as raised:
        FINISHED.raise_for_verdict()
    assert raised.value.report is FINISHED
    finished((1, 1), Status.PASS).raise_for_verdict()


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (row("t", Status.SHAPE, detail="[1]"), "shape: [1]"),
        (row("t", Status.EXTRA), "extra"),
        (row("t", Status.FAIL, Mode.PUBLISHED, detail="too far"), "too far"),
        (
            row("t", Status.FAIL, required_tolerance=None, against="uncached"),
            "its error to the uncached is no finite number",
        ),
        (
            row("t", Status.FAIL, Mode.EXACT, error_ours=1e4, against="huggingface"),
            "10,000 of its elements differ from Hugging Face's",
        ),
        (
            row("t", Status.FAIL, bound=4.0),
            "in float64 it differs from the oracle by 0.001 of its RMS; right code stays within 4",
        ),
        (
            row("t", Status.FAIL, Mode.FLOAT64_PER_OP, against="x", bound=1.0, detail="a note"),
            "in float64 on equal inputs it differs from the x by 0.001 of its RMS; "  # noqa: ISC004
            "right code stays within 1",
        ),
        (
            row("t", Status.FAIL, Mode.PER_OP, dtype="float32", bound=4.0),
            "in float32 (per-op) its error to the oracle is 7 times Hugging Face's; the bound is 4",
        ),
        (
            row("t", Status.FAIL, Mode.PUBLISHED, dtype="float32", bound=0.5, ratio=None),
            "in float32 (published) its error to the oracle is 7 in all; the bound is 0.5",
        ),
    ],
)
def test_a_difference_is_one_sentence(found: Row, sentence: str) -> None:
    assert difference_found(found) == sentence


def test_the_first_tensor_that_differs_has_its_usual_causes() -> None:
    first = first_exact_difference([row("a", Status.FAIL, Mode.EXACT, error_ours=2.0)])
    assert first.why == "2 of its elements differ from the oracle's"
    expected = "a transposed, swapped or cast tensor; a name that the mapping does not have"
    assert first.suspects == expected


USUAL = next(tap.kind.suspects for tap in ALL if tap.name == "h.0.attn")


@pytest.mark.parametrize(
    ("details", "cause"),
    [
        ({}, USUAL),
        ({"note": "", "cause": "dropout"}, "dropout"),
        ({"note": "in row 3", "cause": "dropout"}, "in row 3; dropout"),
        ({"note": "in row 3", "cause": ""}, f"in row 3; {USUAL}"),
    ],
)
def test_the_cause_is_that_of_the_numbers_else_the_usual_one(
    details: Mapping[str, str], cause: str
) -> None:
    """A row of the same tensor in another mode may have it; one of another backend may not."""
    other = {"note": "of another", "cause": "tensor"}
    rows = [
        row("h.0.attn", backend="tiled", details=other),
        row("h.0.ln_1", details=other),
        row("h.0.attn", Status.FAIL),
        row("h.0.attn", Status.PASS, Mode.END_TO_END, details=details),
    ]
    assert first_divergence(planned("plain"), rows).suspects == cause


@pytest.mark.parametrize(
    ("error", "dtype", "finer"),
    [
        (2.0**-10, "float32", "bfloat16"),
        (2.0**-13, "float32", "float16"),
        (2.0**-10, "bfloat16", "a type narrower than bfloat16"),
        (0.5, "float32", "a type narrower than float32"),
        (None, "float32", "a type narrower than float32"),
    ],
)
def test_what_is_right_in_float64_computes_too_narrowly(
    error: float | None, dtype: str, finer: str
) -> None:
    failing = row("h.0.attn", Status.FAIL, Mode.PER_OP, dtype=dtype, error_ours=error)
    first = first_divergence(planned("plain"), [row("h.0.attn"), failing])
    assert first.suspects == (
        f"the function is right in float64: an operation here computes in {finer}, or sums in it; "
        "or it is right and loses digits (a difference of large numbers)"
    )
    # Without its row in float64 nothing is known about the function.
    for rows in ([failing], [row("h.0.ln_1"), failing]):
        assert first_divergence(planned("plain"), rows).suspects == USUAL


def test_before_the_first_shown_tap_are_the_token_ids() -> None:
    shown = [tap for tap in ALL if tap.name in ("h.0.ln_1", "logits")]
    first = first_divergence({"plain": shown}, [row("h.0.ln_1", Status.FAIL)])
    assert first.suspects.startswith("any operation after the token ids: ")
    looked_up = [tap for tap in ALL if tap.name == "embeddings.tokens"]
    first = first_divergence({"plain": looked_up}, [row("embeddings.tokens", Status.FAIL)])
    assert first.suspects == looked_up[0].kind.suspects


def test_the_json_form_has_its_version_and_empty_texts() -> None:
    """A key without a text is an empty string, and not null."""
    found = finished((1, 1), findings=[Finding(name="a", found="x")], sections=[Section()])
    document = json.loads(rendered(found, "json"))
    assert document["schema_version"] == 2
    assert document["findings"] == [{"name": "a", "found": "x", "fit": None, "why": ""}]
    (section,) = document["sections"]
    assert [section[name] for name in ("name", "title", "group", "note")] == [""] * 4


def test_in_a_notebook_a_report_is_a_page_in_a_frame() -> None:
    page = html.escape(rendered(FINISHED, "html"))
    assert FINISHED._repr_html_() == (
        f'<iframe sandbox srcdoc="{page}" title="report of any" '
        'style="width: 100%; height: 40em; border: 0"></iframe>'
    )
