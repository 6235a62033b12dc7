"""From rows to a verdict: what was compared, where the sides part, and the exit code."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from parity.core.liveness import BlockHealth
from parity.core.metrics import Status
from parity.core.results import (
    Mode,
    Plan,
    Reason,
    Row,
    count,
    exit_code,
    first_divergence,
    first_exact_difference,
)
from parity.core.taps import Tap, never_formed, taps
from parity.errors import ExitCode

ALL = taps(2)
ALIVE = BlockHealth(block="h.0", largest_weight=0.5, times_uniform=9.0, cosine=0.3)
DEAD = BlockHealth(block="h.1", largest_weight=0.5, times_uniform=9.0, cosine=1.0)


def row(tap: str, status: Status = Status.PASS, mode: Mode = Mode.FLOAT64, **more: object) -> Row:
    """Return one row of the plain path, of a float64 comparison with the oracle."""
    numbers = {"error_ours": 1e-3, "ratio": 7.0, "bound": 1e-9, "required_tolerance": 7.0}
    given = numbers | {"backend": "plain"} | more
    return Row(
        tap=tap, status=status, mode=mode, **{"dtype": "float64", "against": "oracle"} | given
    )


def planned(*paths: str) -> dict[str, list[Tap]]:
    """Return the plan of some attention paths."""
    return {path: [t for t in ALL if t.name not in never_formed(path, 2)] for path in paths}


def rows_of(status: Mapping[str, Status], *modes: Mode) -> list[Row]:
    """Return a row for each tap of the plain path in each mode: passes, but for those given."""
    chosen = modes or (Mode.FLOAT64,)
    return [row(t.name, status.get(t.name, Status.PASS), mode) for mode in chosen for t in ALL]


def counted(rows: Sequence[Row], *paths: str) -> Plan:
    """Return what was planned and what was compared."""
    return count(planned(*paths or ("plain",)), rows, n_layer=2, time=5)


def judged(
    rows: Sequence[Row], reasons: Sequence[Reason] = (), blocks: Sequence[BlockHealth] = (ALIVE,)
) -> tuple[ExitCode, list[Reason]]:
    """Return the exit code and the reasons of a run on the plain path."""
    return exit_code(counted(rows), rows, reasons, blocks)


def reason(code: ExitCode) -> Reason:
    """Return a reason with that code."""
    return Reason(what="what", where="where", fix="fix", code=code)


def test_everything_compared_is_everything_planned() -> None:
    """33 taps of two blocks on the plain path, four less on the tiled one."""
    tiled = [dataclasses.replace(r, backend="tiled") for r in rows_of({})]
    absent = never_formed("tiled", 2)
    rows = [*rows_of({}), *(r for r in tiled if r.tap not in absent)]
    found = counted(rows, "plain", "tiled")
    expected = (62, 62, {"plain": (33, 33), "tiled": (29, 29)})
    assert expected == (found.planned, found.compared, found.per_backend)


@pytest.mark.parametrize("status", [Status.MISSING, Status.NOT_RUN], ids=str)
def test_a_tap_is_compared_when_every_row_of_it_is(status: Status) -> None:
    """One mode in which it was not shown, or not run, is enough for it not to count."""
    rows = [
        *rows_of({}, Mode.FLOAT64, Mode.END_TO_END),
        *rows_of({"h.1.mlp": status}, Mode.PER_OP),
    ]
    expected = (33, 32)
    assert expected == (counted(rows).planned, counted(rows).compared)


@pytest.mark.parametrize(
    "status", [Status.FAIL, Status.NONFINITE, Status.SHAPE, Status.DTYPE], ids=str
)
def test_a_tap_that_differs_was_compared(status: Status) -> None:
    """To find a difference, of whatever kind, is to have looked."""
    expected = 33
    assert expected == counted(rows_of({"h.1.mlp": status})).compared


def test_a_tap_without_rows_was_not_compared() -> None:
    """Nor do rows of another path, or of a tap that nobody planned, make up for it."""
    rows = [r for r in rows_of({}) if r.tap != "h.1.mlp"]
    rows += [row("h.1.mlp", backend="tiled"), row("h.2.mlp", Status.EXTRA)]
    expected = (33, 32)
    assert expected == (counted(rows).planned, counted(rows).compared)


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    """Four taps on the tiled path; at time 1 the loss on each."""
    found = count(planned("plain", "tiled"), [], n_layer=2, time=1).exempt
    scores = [("tiled", f"h.{i}.attn.{name}") for i in range(2) for name in ("scores", "weights")]
    expected = [("plain", "loss"), *scores, ("tiled", "loss")]
    assert expected == [(entry["backend"], entry["tap"]) for entry in found]
    assert all(entry["reason"] for entry in found)


def test_where_everything_passes_nothing_diverges() -> None:
    """There is no first difference, and the run passes."""
    rows = rows_of({}, *Mode)
    assert first_divergence(planned("plain"), rows) is None
    expected = (ExitCode.PASS, [])
    assert expected == judged(rows)


def test_the_first_divergence_is_first_in_the_network() -> None:
    """Whatever order the rows are in."""
    rows = rows_of({"h.1.ln_1": Status.FAIL, "h.0.attn": Status.FAIL, "logits": Status.FAIL})
    for order in (rows, rows[::-1]):
        first = first_divergence(planned("plain"), order)
        expected = ("h.0.attn", next(t.kind.suspects for t in ALL if t.name == "h.0.attn"))
        assert expected == (first.tap, first.suspects)
        assert first.row in rows


@pytest.mark.parametrize("paths", [("plain", "tiled"), ("tiled", "plain")], ids=str)
def test_no_path_stands_before_another(paths: tuple[str, ...]) -> None:
    """What one path never forms keeps its place in the network, whichever path is named first."""
    rows = [
        row("h.0.attn.scores", Status.FAIL),
        row("h.0.attn.context", Status.FAIL, backend="tiled"),
    ]
    expected = "h.0.attn.scores"
    assert expected == first_divergence(planned(*paths), rows).tap


def test_identity_is_asked_first_and_propagated_last() -> None:
    """float64 is trusted to point before isolated, and isolated before propagated."""
    last = row("embeddings", Status.FAIL, Mode.END_TO_END)
    middle = row("h.0.ln_1", Status.FAIL, Mode.PER_OP)
    best = row("h.1.ln_1", Status.FAIL, Mode.FLOAT64)
    for rows, expected in (
        ([last], last),
        ([last, middle], middle),
        ([middle, best, last], best),
    ):
        assert expected is first_divergence(planned("plain"), rows).row


def test_what_nobody_planned_comes_last() -> None:
    """An unknown tap has no place in the network; it is named where nothing else fails."""
    extra = row("h.2.ln_1", Status.EXTRA, detail="shown, but not in the plan")
    first = first_divergence(planned("plain"), [extra, row("loss", Status.FAIL)])
    expected = "loss"
    assert expected == first.tap
    first = first_divergence(planned("plain"), [extra])
    expected = ("h.2.ln_1", "extra: shown, but not in the plan", "")
    assert expected == (first.tap, first.why, first.suspects)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(
            row("logits", Status.FAIL), ("float64", "oracle", "0.001", "1e-09"), id="identity"
        ),
        pytest.param(
            row("logits", Status.FAIL, Mode.PER_OP, dtype="float32", bound=4.0),
            ("float32", "per-op", "7", "4"),
            id="per-op",
        ),
        pytest.param(
            row("logits", Status.FAIL, Mode.END_TO_END, dtype="bfloat16", bound=3.0),
            ("bfloat16", "end-to-end", "7", "3"),
            id="end-to-end",
        ),
        pytest.param(
            row("logits", Status.NONFINITE, detail="at [1]"), ("nonfinite: at [1]",), id="detail"
        ),
        pytest.param(row("logits", Status.MISSING), ("missing",), id="no detail"),
    ],
)
def test_why_is_said_with_the_numbers(found: Row, words: tuple[str, ...]) -> None:
    """What was found, against which witness, and under which bound."""
    why = first_divergence(planned("plain"), [found]).why
    assert not [word for word in words if word not in why]


@pytest.mark.parametrize("mode", [Mode.FLOAT64, Mode.PER_OP, Mode.END_TO_END])
def test_an_error_that_is_no_number_is_put_in_words_too(mode: Mode) -> None:
    """Where the reference is zero throughout and ours is not, there is a tap and no quotient."""
    found = row("logits", Status.FAIL, mode, error_ours=None, ratio=None, required_tolerance=None)
    first = first_divergence(planned("plain"), [found])
    expected = "logits"
    assert expected == first.tap
    assert first.why


def test_the_first_tensor_that_differs_is_named() -> None:
    """In the order of the rows, with how many of its elements are not the source's."""
    rows = [
        row("a", mode=Mode.EXACT),
        row("b", Status.FAIL, Mode.EXACT, error_ours=12_345.0, against="huggingface"),
        row("c", Status.MISSING, Mode.EXACT),
    ]
    first = first_exact_difference(rows)
    expected = ("b", rows[1])
    assert expected == (first.tap, first.row)
    assert "12,345" in first.why
    assert "huggingface" in first.why
    assert first_exact_difference(rows[:1]) is None


@pytest.mark.parametrize("status", [Status.MISSING, Status.NOT_RUN], ids=str)
def test_nothing_compared_is_inconclusive(status: Status) -> None:
    """No tap matched, or no hook fired: no difference was seen, and no agreement either."""
    rows = rows_of({tap.name: status for tap in ALL})
    code, reasons = judged([*rows, row("model.h.0.ln_1", Status.EXTRA)])
    expected = (ExitCode.INCONCLUSIVE, ["nothing was compared"])
    assert expected == (code, [reason.what for reason in reasons])


def test_no_rows_at_all_are_inconclusive() -> None:
    """An empty list of comparisons is not one in which everything held."""
    expected = ExitCode.INCONCLUSIVE
    assert expected is judged([])[0]
    assert expected is exit_code(count({}, [], n_layer=2, time=5), [], [], [])[0]


def test_half_matched_fails_at_the_first_one_missing() -> None:
    """What our side never showed is a difference, and the first of it is named."""
    rows = rows_of({tap.name: Status.MISSING for tap in ALL[17:]})
    expected = ExitCode.FAIL
    assert expected is judged(rows)[0]
    expected = ALL[17].name
    assert expected == first_divergence(planned("plain"), rows).tap


def test_something_extra_fails() -> None:
    """A tap more than planned is another model, though every planned one agrees."""
    expected = ExitCode.FAIL
    assert expected is judged([*rows_of({}), row("h.2.ln_1", Status.EXTRA)])[0]


@pytest.mark.parametrize(
    "status",
    [Status.FAIL, Status.NONFINITE, Status.MISSING, Status.SHAPE, Status.DTYPE],
    ids=str,
)
def test_one_row_that_differs_fails(status: Status) -> None:
    """Of 33 taps in three modes."""
    modes = (Mode.FLOAT64, Mode.PER_OP)
    rows = [*rows_of({}, *modes), *rows_of({"h.0.ln_1": status}, Mode.END_TO_END)]
    expected = (ExitCode.FAIL, [])
    assert expected == judged(rows)


def test_one_row_that_was_not_run_is_inconclusive() -> None:
    """Not everything was compared; but a difference elsewhere is one all the same."""
    rows = rows_of({"h.0.ln_1": Status.NOT_RUN})
    expected = ExitCode.INCONCLUSIVE
    assert expected is judged(rows)[0]
    rows = rows_of({"h.0.ln_1": Status.NOT_RUN, "logits": Status.FAIL})
    expected = ExitCode.FAIL
    assert expected is judged(rows)[0]


def test_a_dead_block_is_inconclusive() -> None:
    """Every tap agrees, and the reason names the block."""
    code, reasons = judged(rows_of({}), blocks=[ALIVE, DEAD])
    expected = (ExitCode.INCONCLUSIVE, 1)
    assert expected == (code, len(reasons))
    assert "h.1" in reasons[0].where
    expected = ExitCode.FAIL
    assert expected is judged(rows_of({"logits": Status.FAIL}), blocks=[DEAD])[0]


@pytest.mark.parametrize("code", [1, 3, 4, 5, 70])
@pytest.mark.parametrize("status", [Status.PASS, Status.FAIL, Status.NOT_RUN], ids=str)
def test_the_worst_of_rows_and_reasons_is_the_exit_code(status: Status, code: int) -> None:
    """70, 4, 5, 1, 3, 0, in this order; reasons given are kept."""
    given = reason(ExitCode(code))
    of_rows = {Status.PASS: 0, Status.FAIL: 1, Status.NOT_RUN: 3}[status]
    worst_first = [70, 4, 5, 1, 3, 0]
    found, reasons = judged(rows_of({"h.0.ln_1": status}), [given])
    expected = min(code, of_rows, key=worst_first.index)
    assert expected == found
    assert [given] == reasons


@pytest.mark.parametrize("code", [1, 4, 5, 70])
def test_where_nothing_was_compared_a_worse_reason_still_wins(code: int) -> None:
    """A run that broke off before its first tap has that to say."""
    rows = rows_of({tap.name: Status.NOT_RUN for tap in ALL})
    assert code == judged(rows, [reason(ExitCode(code))])[0]
