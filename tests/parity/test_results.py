"""Which exit code wins, and what it stands for."""

from itertools import permutations

import pytest

from parity.core.results import Verdict, verdict_for, worst
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
    """Internal, refused, environment, fail, inconclusive, pass."""
    for count in range(1, 4):
        for codes in permutations(WORST_FIRST, count):
            expected = min(codes, key=WORST_FIRST.index)
            assert expected == worst([ExitCode(code) for code in codes])


def test_no_code_is_a_pass() -> None:
    """Where nothing speaks against it, the run has passed."""
    assert worst([]) is ExitCode.PASS


@pytest.mark.parametrize("code", [code for code in ExitCode if code != 0], ids=str)
def test_nothing_but_a_pass_becomes_one(code: ExitCode) -> None:
    """Whatever else a run ends with, alone or beside a pass, is what it ends with."""
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
    """A difference and a lack of evidence are answers; everything else is an error."""
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
    """And says what, where, and what to do."""
    raised = error("what", where="where", fix="fix")
    expected = (code, "what", "where", "fix", "what (where; fix)")
    assert expected == (raised.exit_code, raised.what, raised.where, raised.fix, str(raised))
