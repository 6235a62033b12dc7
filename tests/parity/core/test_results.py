"""Exit codes, and how a report gets its own."""

from itertools import permutations

import pytest

from parity.core.metrics import Status
from parity.core.results import (
    Finding,
    Mode,
    Plan,
    Reason,
    Report,
    Row,
    Verdict,
    compared,
    finish,
    verdict_for,
    worst,
)
from parity.errors import (
    EnvironmentUnfitError,
    ExitCode,
    InconclusiveError,
    InputRejectedError,
    ParityError,
    UsageError,
)

WORST_FIRST = [70, 4, 5, 1, 3, 0]


def test_the_worst_code_wins_in_whatever_order_they_come() -> None:
    for count in range(1, 4):
        for codes in permutations(WORST_FIRST, count):
            assert worst([ExitCode(code) for code in codes]) == min(codes, key=WORST_FIRST.index)


def test_no_code_is_a_pass() -> None:
    assert worst([]) is ExitCode.PASS


@pytest.mark.parametrize("code", [code for code in ExitCode if code != 0], ids=str)
def test_nothing_but_a_pass_becomes_one(code: ExitCode) -> None:
    assert code is worst([code])
    assert code is worst([ExitCode.PASS, code])
    assert verdict_for(code) is not Verdict.PASS


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0, "pass"),
        (1, "fail"),
        (2, "error"),
        (3, "inconclusive"),
        (4, "error"),
        (5, "error"),
        (70, "error"),
        (130, "error"),
        (141, "error"),
    ],
)
def test_every_code_has_its_verdict(code: int, verdict: str) -> None:
    assert verdict == verdict_for(ExitCode(code)).value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ParityError, 70),
        (UsageError, 2),
        (InconclusiveError, 3),
        (InputRejectedError, 4),
        (EnvironmentUnfitError, 5),
    ],
)
def test_every_error_has_its_code(error: type[ParityError], code: int) -> None:
    raised = error("what", where="where", fix="fix")
    assert raised.exit_code == code
    assert raised.what == "what"
    assert raised.where == "where"
    assert raised.fix == "fix"
    assert str(raised) == "what (where; fix)"


def row(name: str, status: Status = Status.PASS) -> Row:
    return Row(
        tap=name,
        backend="plain",
        dtype="float64",
        mode=Mode.FLOAT64,
        against="oracle",
        status=status,
        bound=1e-9,
    )


def finished(plan: tuple[int, int], *statuses: Status, **parts: object) -> Report:
    rows = [row(str(number), status) for number, status in enumerate(statuses)]
    return finish("any", rows=rows, plan=Plan.of({"plain": plan}), **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "status", "verdict"),
    [
        ((1, 1), Status.PASS, "pass"),
        ((1, 1), Status.FAIL, "fail"),
        ((1, 1), Status.SHAPE, "fail"),
        ((2, 1), Status.PASS, "inconclusive"),
        ((2, 1), Status.FAIL, "fail"),
        ((1, 0), Status.NOT_RUN, "inconclusive"),
        ((0, 0), Status.PASS, "inconclusive"),
    ],
)
def test_rows_and_plan_give_the_verdict(
    plan: tuple[int, int], status: Status, verdict: str
) -> None:
    report = finished(plan, status)
    assert (verdict, plan) == (report.verdict.value, (report.plan.planned, report.plan.compared))


def test_a_finding_that_is_a_problem_is_inconclusive() -> None:
    findings = [Finding(name="a", found="x"), Finding(name="b", found="y", fit=True)]
    problem = Finding(name="c", found="z", fit=False)
    expected = [Verdict.PASS, Verdict.INCONCLUSIVE]
    found = [finished((1, 1), findings=entries) for entries in (findings, [*findings, problem])]
    assert expected == [report.verdict for report in found]


def test_nothing_compared_is_explained_once() -> None:
    reason = Reason(what="no text", where="--text", fix="give one", code=ExitCode.INCONCLUSIVE)
    expected = ["nothing was compared"], ["no text"]
    found = finished((1, 0)), finished((1, 0), reasons=[reason])
    assert expected == tuple([entry.what for entry in report.reasons] for report in found)


def test_a_name_counts_when_all_its_rows_were_compared() -> None:
    rows = [row("a"), row("b"), row("b", Status.NOT_RUN), row("c", Status.MISSING)]
    assert compared(["a", "b", "c", "d"], rows) == 1


def test_a_plan_sums_its_backends() -> None:
    expected = (5, 4), (0, 0)
    found = Plan.of({"plain": (3, 3), "fused": (2, 1)}), Plan.of({})
    assert expected == tuple((plan.planned, plan.compared) for plan in found)
