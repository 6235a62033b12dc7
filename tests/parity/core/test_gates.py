"""From differences to rows: what passes, and that nothing else does."""

import dataclasses
import math
from collections.abc import Mapping

import pytest
import torch

from parity.core.gates import (
    RoundingError,
    RunNames,
    explained,
    extra_rows,
    float64_per_op_rows,
    float64_rows,
    ids_row,
    narrow_reason,
    overflows,
    raised_row,
    rounding_rows,
    run_names,
    stands_alone,
    taps_with_a_part,
    top1_changes,
)
from parity.core.lockstep import Observations
from parity.core.metrics import Difference, Status
from parity.core.results import Mode, Reason, Row
from parity.core.taps import taps
from parity.core.tolerances import PRECISIONS, SMALL_TENSOR, bounds_for
from parity.errors import ExitCode

NAMES = RunNames(ours="ours/plain/x", huggingface="huggingface/x")
FLOAT32 = PRECISIONS["float32"]
BOUNDS = bounds_for("float32")
PLAN = taps(2)
LOOKED_UP = ("embeddings.tokens", "embeddings.positions")
COMPUTED = "h.1.mlp.gelu"

Found = Mapping[tuple[str, str], Difference]


def gap(
    rms: float,
    largest: float | None = None,
    count: int = SMALL_TENSOR,
    status: Status = Status.PASS,
) -> Difference:
    """Return a difference over a reference whose RMS and largest value are 1."""
    return Difference(
        status=status,
        shape=(2, 5, 21),
        count=count,
        rms=rms,
        largest=rms if largest is None else largest,
        worst_index=(1, 4, 20),
        scale=1.0,
        scale_largest=1.0,
        ours=3.0,
        reference=2.0,
    )


def observed(ours: Found, huggingface: Found | None = None) -> Observations:
    """Return the observations of a pass: zeros, but for those given by (tap, reference)."""
    zeros = {(tap.name, w): gap(0.0) for tap in PLAN for w in ("oracle", "huggingface")}
    theirs = {(tap.name, "oracle"): gap(FLOAT32.unit) for tap in PLAN}
    mine = {(NAMES.ours, *key): seen for key, seen in (zeros | dict(ours)).items()}
    others = {(NAMES.huggingface, *key): s for key, s in (theirs | dict(huggingface or {})).items()}
    return Observations(differences=mine | others)


def identity(found: Observations) -> dict[tuple[str, str], Row]:
    """Return the rows of a float64 pass in which Hugging Face's error is of float64's size."""
    small = {
        key: gap(1e-14)
        for key, seen in found.differences.items()
        if key[0] == NAMES.huggingface and seen.largest > BOUNDS.float64
    }
    found = dataclasses.replace(found, differences=found.differences | small)
    rows = float64_rows(found, NAMES, PLAN, "plain", BOUNDS)
    return {(row.tap, row.against): row for row in rows}


def quality(found: Observations, mode: Mode = Mode.END_TO_END) -> dict[str, Row]:
    rows = rounding_rows(found, NAMES, PLAN, PLAN, "plain", mode, FLOAT32, BOUNDS)
    return {row.tap: row for row in rows}


def test_identity_has_a_row_for_each_tap_and_reference() -> None:
    rows = identity(observed({}))
    assert list(rows) == [(tap.name, w) for tap in PLAN for w in ("oracle", "huggingface")]
    assert {("plain", "float64", Mode.FLOAT64, Status.PASS)} == {
        (row.backend, row.dtype, row.mode, row.status) for row in rows.values()
    }


@pytest.mark.parametrize("own", [gap(1e-3), gap(math.nan, status=Status.NONFINITE)])
def test_where_hugging_face_stands_alone_ours_is_not_compared_with_it(own: Difference) -> None:
    later = PLAN[[tap.name for tap in PLAN].index(COMPUTED) + 1].name
    theirs = {(tap, "oracle"): own for tap in (COMPUTED, later)}
    small = {(tap.name, "oracle"): gap(1e-14) for tap in PLAN}
    found = observed({(COMPUTED, "huggingface"): gap(1e-3)}, small | theirs)
    rows = float64_rows(found, NAMES, PLAN, "plain", BOUNDS)
    skipped = [(row.tap, row.against) for row in rows if row.status is not Status.PASS]
    assert skipped == [(COMPUTED, "huggingface"), (later, "huggingface")]
    (reason,) = stands_alone(found, NAMES, rows, -5.0)
    assert reason.what.startswith(f"Hugging Face stands alone at {COMPUTED}: it differs")
    assert reason.code is ExitCode.INCONCLUSIVE
    assert "masks" not in reason.fix
    (reason,) = stands_alone(found, NAMES, rows, -10_001.0)
    assert "Hugging Face masks with -10000, and these weights make a score of -1e+04" in reason.fix
    assert stands_alone(found, NAMES, list(identity(observed({})).values()), -1e5) == []


@pytest.mark.parametrize("status", [Status.MISSING, Status.SHAPE, Status.NOT_RUN])
def test_a_reference_that_was_not_compared_does_not_stand_alone(status: Status) -> None:
    broken = Difference(status=status, detail="why")
    found = observed({(COMPUTED, "huggingface"): broken}, {(COMPUTED, "oracle"): broken})
    rows = identity(found)
    row = rows[COMPUTED, "huggingface"]
    assert (row.status, row.detail) == (status, "why")
    assert stands_alone(found, NAMES, list(rows.values()), -5.0) == []


def test_where_ours_differs_too_it_fails_against_both() -> None:
    both = {(COMPUTED, "oracle"): gap(1e-3), (COMPUTED, "huggingface"): gap(1e-3)}
    found = observed(both, {(COMPUTED, "oracle"): gap(2e-3)})
    rows = float64_rows(found, NAMES, PLAN, "plain", BOUNDS)
    failed = [(row.tap, row.against) for row in rows if row.status is Status.FAIL]
    assert failed == [(COMPUTED, "oracle"), (COMPUTED, "huggingface")]


def test_where_a_narrower_dtype_enters_hugging_faces_error_in_it_is_the_unit() -> None:
    """That of the same kind of tap, in any block; the loss may have that of the logits."""
    narrow = "float32 enters at a.py:3"
    unit = {("huggingface/float32", "h.0.mlp.gelu", "oracle"): gap(1e-7, 2e-6)}
    unit |= {("huggingface/float32", "logits", "oracle"): gap(1e-7, 3e-6)}
    unit |= {("huggingface/float32", "loss", "oracle"): gap(0.0)}
    limits = {COMPUTED: BOUNDS.quality * 2e-6, "loss": BOUNDS.quality * 3e-6, "h.0.ln_1": 1e-9}
    for tap, limit in limits.items():
        for error, failing in ((limit, []), (math.nextafter(limit, 1), [tap])):
            found = observed({(tap, "oracle"): gap(1e-10, error)})
            found = dataclasses.replace(found, differences={**found.differences, **unit})
            rows = float64_rows(found, NAMES, PLAN, "x", BOUNDS, narrow=narrow)
            assert [row.tap for row in rows if row.status is Status.FAIL] == failing


@pytest.mark.parametrize("ours", [Status.PASS, Status.NONFINITE])
@pytest.mark.parametrize("theirs", [Status.PASS, Status.NONFINITE])
def test_where_both_sides_overflow_nothing_is_compared(ours: Status, theirs: Status) -> None:
    found = observed(
        {(COMPUTED, "oracle"): gap(1e-9, status=ours)},
        {(COMPUTED, "oracle"): gap(1e-9, status=theirs)},
    )
    both = (ours, theirs) == (Status.NONFINITE, Status.NONFINITE)
    row = quality(found)[COMPUTED]
    expected = Status.NOT_RUN if both else Status.NONFINITE if ours is Status.NONFINITE else None
    assert expected in (None, row.status)
    reasons = overflows(found, NAMES, PLAN)
    assert [reason.code for reason in reasons] == ([ExitCode.INCONCLUSIVE] if both else [])
    assert all(f"both sides overflow at {COMPUTED}: x cannot hold this" in r.what for r in reasons)


@pytest.mark.parametrize("against", ["oracle", "huggingface"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (0.0, Status.PASS),
        (BOUNDS.float64, Status.PASS),
        (math.nextafter(BOUNDS.float64, 1), Status.FAIL),
        (1.0, Status.FAIL),
    ],
)
def test_identity_holds_up_to_its_bound(error: float, status: Status, against: str) -> None:
    rows = identity(observed({(COMPUTED, against): gap(error / 2, error)}))
    row = rows.pop((COMPUTED, against))
    assert (row.status, row.error_ours, row.bound) == (status, error, BOUNDS.float64)
    assert (row.required_tolerance, row.worst_index) == (error, (1, 4, 20))
    assert (row.value_ours, row.value_against) == (3.0, 2.0)
    assert {row.status for row in rows.values()} == {Status.PASS}


@pytest.mark.parametrize("tap", LOOKED_UP)
def test_what_is_looked_up_is_equal_or_wrong(tap: str) -> None:
    row = identity(observed({(tap, "oracle"): gap(0.0, math.ulp(0.0))}))[tap, "oracle"]
    assert (row.status, row.bound) == (Status.FAIL, 0.0)


@pytest.mark.parametrize("tap", [*LOOKED_UP, COMPUTED])
def test_an_error_that_is_no_number_fails(tap: str) -> None:
    """Over a reference of zeros a difference has no relative error."""
    broken = dataclasses.replace(gap(1.0), scale=0.0, scale_largest=0.0)
    found = observed({(tap, "oracle"): broken, (tap, "huggingface"): broken})
    for row in (identity(found)[tap, "oracle"], identity(found)[tap, "huggingface"]):
        assert (row.status, row.error_ours) == (Status.FAIL, None)
    assert quality(found)[tap].status is Status.FAIL
    for scale in ("scale", "scale_largest"):
        broken = dataclasses.replace(gap(1e-9), **{scale: 0.0})
        assert quality(observed({(COMPUTED, "oracle"): broken}))[COMPUTED].status is Status.FAIL


@pytest.mark.parametrize("tap", [*LOOKED_UP, COMPUTED])
def test_two_tensors_of_zeros_are_no_evidence(tap: str) -> None:
    nothing = dataclasses.replace(gap(0.0), scale=0.0, scale_largest=0.0)
    found = observed({(tap, "oracle"): nothing, (tap, "huggingface"): nothing})
    for row in (identity(found)[tap, "oracle"], quality(found)[tap]):
        assert (row.status, row.detail) == (Status.NOT_RUN, "both sides are zero throughout")


@pytest.mark.parametrize(
    "status", [s for s in Status if s not in (Status.PASS, Status.FAIL)], ids=str
)
def test_what_kept_values_from_being_compared_is_the_status(status: Status) -> None:
    seen = Difference(status=status, detail="why", shape=(2, 5))
    found = observed({(COMPUTED, "oracle"): seen, (COMPUTED, "huggingface"): seen})
    rows = identity(found)
    for row in (rows[COMPUTED, "oracle"], rows[COMPUTED, "huggingface"], quality(found)[COMPUTED]):
        assert (row.status, row.detail, row.shape) == (status, "why", (2, 5))
        assert (row.error_ours, row.required_tolerance) == (None, None)


def test_without_the_second_reference_its_row_was_not_run() -> None:
    found = observed({}, {(COMPUTED, "oracle"): gap(1e-13, 3e-13)})
    errors = [identity(found)[COMPUTED, w].error_reference for w in ("oracle", "huggingface")]
    assert errors == [3e-13, None]
    del found.differences[NAMES.ours, COMPUTED, "huggingface"]
    row = identity(found)[COMPUTED, "huggingface"]
    assert (row.status, row.detail) == (Status.NOT_RUN, "no huggingface to compare with")
    found.differences[NAMES.ours, COMPUTED, "oracle"] = Difference(status=Status.MISSING)
    assert identity(found)[COMPUTED, "huggingface"].status is Status.MISSING


def test_what_was_never_observed_was_not_run() -> None:
    nothing = Observations()
    rows = [*identity(nothing).values(), *quality(nothing).values()]
    assert len(rows) == 3 * len(PLAN)
    assert {row.status for row in rows} == {Status.NOT_RUN}


@pytest.mark.parametrize("mode", [Mode.END_TO_END, Mode.PER_OP])
@pytest.mark.parametrize(
    ("ratio", "status"),
    [
        (0.0, Status.PASS),
        (BOUNDS.quality, Status.PASS),
        (math.nextafter(BOUNDS.quality, 9), Status.FAIL),
        (1e9, Status.FAIL),
    ],
)
def test_quality_is_a_multiple_of_their_error(ratio: float, status: Status, mode: Mode) -> None:
    noise = 2.0**-20
    ours = {(COMPUTED, "oracle"): gap(ratio * noise, 0.0)}
    row = quality(observed(ours, {(COMPUTED, "oracle"): gap(noise)}), mode)[COMPUTED]
    assert (row.status, row.dtype, row.mode) == (status, "float32", mode)
    assert (row.error_ours, row.error_reference) == (ratio * noise, noise)
    assert (row.ratio, row.bound, row.required_tolerance) == (ratio, BOUNDS.quality, ratio)


def test_their_error_is_never_taken_below_the_roundoff() -> None:
    ours = {(COMPUTED, "oracle"): gap(BOUNDS.quality * FLOAT32.unit)}
    row = quality(observed(ours, {(COMPUTED, "oracle"): gap(0.0)}))[COMPUTED]
    assert (row.status, row.ratio) == (Status.PASS, BOUNDS.quality)


@pytest.mark.parametrize("within", [True, False])
def test_one_bad_element_moves_no_mean_and_is_caught(within: bool) -> None:  # noqa: FBT001
    noise = 2.0**-20
    peak = BOUNDS.peak if within else math.nextafter(BOUNDS.peak, 99)
    found = observed(
        {(COMPUTED, "oracle"): gap(noise, peak * noise)}, {(COMPUTED, "oracle"): gap(noise)}
    )
    row = quality(found)[COMPUTED]
    held, broken = (Status.PASS, 1.0, BOUNDS.quality), (Status.FAIL, peak, BOUNDS.peak)
    assert (held if within else broken) == (row.status, row.ratio, row.bound)


@pytest.mark.parametrize(("count", "pooled"), [(SMALL_TENSOR - 1, True), (SMALL_TENSOR, False)])
def test_only_the_noise_of_small_tensors_is_pooled(count: int, pooled: bool) -> None:  # noqa: FBT001
    """Their error is then the largest among the blocks' taps of one kind; ours is our own."""
    small, large = 3 * 2.0**-20, 4 * 2.0**-20
    noise = {
        ("h.0.ln_1", "oracle"): gap(small, count=count),
        ("h.1.ln_1", "oracle"): gap(large, count=count),
        ("h.0.ln_2", "oracle"): gap(1.0, count=count),
    }
    ours = {("h.0.ln_1", "oracle"): gap(0.0), ("h.1.ln_1", "oracle"): gap(1.0)}
    found = quality(observed(ours, noise))
    rows = [found[f"h.{i}.ln_1"] for i in range(2)]
    assert [row.error_reference for row in rows] == [large if pooled else small, large]
    assert [(row.status, row.error_ours) for row in rows] == [
        (Status.PASS, 0.0),
        (Status.FAIL, 1.0),
    ]


def test_without_their_error_there_is_no_pass() -> None:
    found = observed({})
    del found.differences[NAMES.huggingface, COMPUTED, "oracle"]
    assert quality(found)[COMPUTED].status is not Status.PASS
    for broken in (
        Difference(status=Status.NOT_RUN, detail="broke off"),
        Difference(status=Status.NONFINITE, detail="at [0]", count=SMALL_TENSOR - 1),
    ):
        found.differences[NAMES.huggingface, COMPUTED, "oracle"] = broken
        assert quality(found)[COMPUTED].status is not Status.PASS


@pytest.mark.parametrize("block", [0, 1])
def test_what_is_broken_in_one_block_does_not_reach_the_others(block: int) -> None:
    broken = Difference(status=Status.NONFINITE, detail="at [0]", count=SMALL_TENSOR - 1)
    noise = {(f"h.{i}.ln_1", "oracle"): gap(FLOAT32.unit, count=SMALL_TENSOR - 1) for i in range(2)}
    rows = quality(observed({}, noise | {(f"h.{block}.ln_1", "oracle"): broken}))
    assert rows[f"h.{1 - block}.ln_1"].status is Status.PASS
    assert rows[f"h.{block}.ln_1"].status is not Status.PASS


def test_amplification_is_over_the_largest_error_that_went_in() -> None:
    """Of several inputs, the worst one; of an input without error, none."""
    fed = ("h.1.ln_1", "h.1.mlp", "h.1.mlp.gelu")
    assert fed == next(tap for tap in PLAN if tap.name == "h.1.ln_2.input").inputs
    noise = 2.0**-30
    found = observed(
        {
            (fed[0], "oracle"): gap(noise),
            (fed[1], "oracle"): gap(4 * noise),
            ("h.1.ln_2.input", "oracle"): gap(10 * noise),
        }
    )
    assert identity(found)["h.1.ln_2.input", "oracle"].amplification == 2.5
    assert quality(found)["h.1.ln_2.input"].amplification == 2.5
    assert identity(found)["h.0.ln_2.input", "oracle"].amplification is None
    assert quality(found, Mode.PER_OP)["h.1.ln_2.input"].amplification is None


def test_a_tap_outside_the_plan_is_a_row_of_its_own() -> None:
    found = Observations(extras={NAMES.ours: ["h.2.ln_1", "logits", "h.2.ln_1"], "other": ["x"]})
    rows = extra_rows(found, NAMES, PLAN, "tiled", "float32", Mode.END_TO_END)
    expected = [
        (name, "tiled", "float32", Mode.END_TO_END, Status.EXTRA) for name in ("h.2.ln_1", "logits")
    ]
    assert expected == [(r.tap, r.backend, r.dtype, r.mode, r.status) for r in rows]
    assert [r.detail for r in rows] == [
        "no tap has this name; did you mean h.1.ln_1?",
        "shown twice, or out of order",
    ]
    assert not extra_rows(Observations(), NAMES, PLAN, "tiled", "float32", Mode.END_TO_END)


@pytest.mark.parametrize(
    ("mode", "status"),
    [(Mode.END_TO_END, Status.PASS), (Mode.PER_OP, Status.FAIL)],
    ids=["end-to-end", "per-op"],
)
def test_a_loss_that_is_right_by_luck_sets_no_standard(mode: Mode, status: Status) -> None:
    """End-to-end, the error that counts is at least that of the logits."""
    theirs = {
        ("loss", "oracle"): gap(0.0, count=1),
        ("logits", "oracle"): gap(64 * FLOAT32.unit),
    }
    ours = {("loss", "oracle"): gap(32 * FLOAT32.unit, count=1)}
    assert quality(observed(ours, theirs), mode)["loss"].status is status


def test_the_criteria_of_a_tap_need_its_kind_and_of_the_loss_the_logits() -> None:
    by_name = {tap.name: tap for tap in PLAN}
    needed = [tap.name for tap in taps_with_a_part([by_name["h.1.ln_1"]], PLAN)]
    assert needed == ["h.0.ln_1", "h.1.ln_1"]
    needed = [tap.name for tap in taps_with_a_part([by_name["loss"]], PLAN)]
    assert needed == ["logits", "loss"]


@pytest.mark.parametrize(
    ("lead", "ours", "theirs", "fails"),
    [
        (0.0, 0.0, 0.0, False),
        (1.0, 0.25, 0.25, False),
        (math.nextafter(1.0, 2), 0.25, 0.25, True),
        (0.75, 0.25, 0.125, False),
        (0.8, 0.25, 0.125, True),
        (0.8, 0.125, 0.25, True),
        (0.25, 0.5, 0.01, True),
        (math.nan, 0.25, 0.25, False),
    ],
)
def test_a_first_choice_may_differ_where_rounding_explains_it(
    lead: float, ours: float, theirs: float, *, fails: bool
) -> None:
    """Two logits are off on both sides, and ours count up to ten times Hugging Face's."""
    found = observed(
        {("logits", "oracle"): gap(1e-9, ours)}, {("logits", "oracle"): gap(1e-9, theirs)}
    )
    reasons = top1_changes(found, NAMES, lead)
    assert [reason.code for reason in reasons] == [ExitCode.FAIL] * fails
    assert all("attention plain, torch.x" in reason.where for reason in reasons)


@pytest.mark.parametrize(
    ("ours", "other", "excused", "status", "mismatches", "at"),
    [
        ([3, 7, 5], [3, 7, 5], "", Status.PASS, 0, 0),
        ([3, 7, 5], [3, 8, 6], "", Status.FAIL, 2, 1),
        ([3, 7, 5], [3, 7], "", Status.FAIL, 1, 0),
        ([3], [4, 7, 5], "", Status.FAIL, 3, 0),
        ([3, 7, 5], [3, 7, 6], "a tie", Status.PASS, 1, 2),
        ([], [3], "", Status.FAIL, 1, 0),
        ([], [], "", Status.FAIL, 0, 0),
        ([], [], "a tie", Status.FAIL, 0, 0),
        ([3], [], "", Status.FAIL, 1, 0),
    ],
)
def test_ids_are_equal_or_excused(  # noqa: PLR0913 - a case
    ours: list[int], other: list[int], excused: str, status: Status, mismatches: int, at: int
) -> None:
    row = ids_row(
        ours, other, tap="t", backend="b", dtype="float64", against="uncached", excused=excused
    )
    assert (row.status, row.error_ours, row.bound) == (status, mismatches, 0.0)
    assert row.required_tolerance == (0.0 if excused else mismatches)
    assert (row.shape, row.worst_index, row.detail) == ((len(ours),), (at,), excused)
    assert row.value_ours == (ours[at] if ours else None)
    assert row.value_against == (other[at] if other else None)
    assert (row.tap, row.backend, row.dtype) == ("t", "b", "float64")
    assert (row.mode, row.against) == (Mode.EXACT, "uncached")


def test_an_error_of_ours_is_a_failing_row() -> None:
    row = raised_row(KeyError("x"), tap="t", backend="b", dtype="float64")
    assert (row.status, row.detail) == (Status.FAIL, "ours raised KeyError: 'x'")
    assert explained(row) is row


def test_only_a_failing_row_without_a_detail_is_explained() -> None:
    rows = identity(observed({(COMPUTED, "oracle"): gap(1e-3)}))
    failing, passing = rows[COMPUTED, "oracle"], rows[COMPUTED, "huggingface"]
    assert "in float64 it differs from the oracle by 0.001" in explained(failing).detail
    assert explained(passing) is passing


def test_a_narrower_dtype_inside_is_a_note() -> None:
    reason = narrow_reason("float32 enters at a.py:3")
    assert reason.code is ExitCode.PASS
    expected = (
        "float32 enters at a.py:3: the float64 comparison is no finer than Hugging Face's error in "
        "float32"
    )
    assert reason.what == expected
    rejected = narrow_reason("float16 enters at a.py:3", allowed=False)
    assert rejected.what.endswith(": float16 is allowed only with --dtype float16")


# The bounds as numbers, from both sides: a larger one would pass what is wrong.


@pytest.mark.parametrize(("error", "status"), [(9e-10, Status.PASS), (1.1e-9, Status.FAIL)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_in_float64_an_error_of_1e_9_is_the_limit(error: float, status: Status, dtype: str) -> None:
    found = observed({(COMPUTED, "oracle"): gap(error), (COMPUTED, "huggingface"): gap(error)})
    theirs = {(NAMES.huggingface, tap.name, "oracle"): gap(1e-14) for tap in PLAN}
    found = dataclasses.replace(found, differences=found.differences | theirs)
    rows = float64_rows(found, NAMES, PLAN, "plain", bounds_for(dtype))
    assert [row.status for row in rows if row.tap == COMPUTED] == [status, status]


@pytest.mark.parametrize(
    ("error", "theirs", "status"),
    [
        (1.9e-13, 1e-14, Status.PASS),
        (2.1e-13, 1e-14, Status.FAIL),
        (3.9e-13, 1e-13, Status.PASS),  # behind several operations, by Hugging Face's own error
        (4.1e-13, 1e-13, Status.FAIL),
        (9e-10, 1.0, Status.PASS),  # never beyond the bound of a whole run
        (1.1e-9, 1.0, Status.FAIL),
        (2.1e-13, math.nan, Status.FAIL),
    ],
)
def test_of_one_operation_an_error_of_2e_13_is_the_limit(
    error: float, theirs: float, status: Status
) -> None:
    found = observed({(COMPUTED, "oracle"): gap(error)}, {(COMPUTED, "oracle"): gap(theirs)})
    rows = float64_per_op_rows(found, NAMES, PLAN, "plain", BOUNDS)
    by_tap = {row.tap: row for row in rows}
    assert [row.tap for row in rows] == [tap.name for tap in PLAN]
    assert by_tap[COMPUTED].status is status
    assert {row.bound for row in rows if row.tap in LOOKED_UP} == {0.0}
    assert {(row.mode, row.dtype, row.against) for row in rows} == {
        (Mode.FLOAT64_PER_OP, "float64", "oracle")
    }


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("holds", [True, False])
def test_the_limits_of_rounding_are_4_or_3_and_10(dtype: str, holds: bool) -> None:  # noqa: FBT001
    noise, off = 2.0**-5, -0.1 if holds else 0.1
    theirs = {(COMPUTED, "oracle"): gap(noise)}
    limit = {"float32": 4.0}.get(dtype, 3.0)
    for own in (gap((limit + off) * noise, 0.0), gap(noise, (10.0 + off) * noise)):
        found = observed({(COMPUTED, "oracle"): own}, theirs)
        precision, bounds = PRECISIONS[dtype], bounds_for(dtype)
        mode = Mode.END_TO_END
        rows = rounding_rows(found, NAMES, PLAN, PLAN, "plain", mode, precision, bounds)
        (row,) = (row for row in rows if row.tap == COMPUTED)
        assert row.status is (Status.PASS if holds else Status.FAIL)


@pytest.mark.parametrize(("times", "status"), [(9.5, Status.PASS), (10.5, Status.FAIL)])
@pytest.mark.parametrize("theirs", [0.0, FLOAT32.unit, 2.0**-15])
def test_a_peak_is_over_the_largest_value_and_not_over_an_rms(
    theirs: float, times: float, status: Status
) -> None:
    largest = 50.0  # of the reference, whose RMS is 1
    own = max(theirs, FLOAT32.unit)

    def peak(ratio: float) -> Difference:
        return dataclasses.replace(gap(own, ratio * largest), scale_largest=largest)

    found = observed(
        {(COMPUTED, "oracle"): peak(times * own)}, {(COMPUTED, "oracle"): peak(theirs)}
    )
    row = quality(found)[COMPUTED]
    assert row.status is status
    assert math.isclose(row.ratio or 0.0, times if status is Status.FAIL else 1.0)


@pytest.mark.parametrize(("times", "status"), [(3.9, Status.PASS), (4.1, Status.FAIL)])
def test_the_noise_of_a_loss_is_that_of_the_logits_and_no_more(
    times: float, status: Status
) -> None:
    logits, scale = 2.0**-12, 8.0  # the loss is 8 in the mean
    theirs = {("loss", "oracle"): gap(0.0, count=1), ("logits", "oracle"): gap(logits)}
    theirs["loss", "oracle"] = dataclasses.replace(
        theirs["loss", "oracle"], scale=scale, scale_largest=scale
    )
    own = dataclasses.replace(gap(times * logits, count=1), scale=scale, scale_largest=scale)
    row = quality(observed({("loss", "oracle"): own}, theirs))["loss"]
    assert (row.status, row.ratio) == (status, times)


def test_of_several_runs_of_the_reference_the_largest_error_counts() -> None:
    ours = {(COMPUTED, "oracle"): gap(20 * FLOAT32.unit)}
    found = observed(ours, {(COMPUTED, "oracle"): gap(FLOAT32.unit)})
    larger, lower = (
        observed({}, {(COMPUTED, "oracle"): gap(times * FLOAT32.unit)}) for times in (6, 0.1)
    )
    for again, status in (([], Status.FAIL), ([lower], Status.FAIL), ([larger], Status.PASS)):
        mode = Mode.END_TO_END
        rows = rounding_rows(found, NAMES, PLAN, PLAN, "plain", mode, FLOAT32, BOUNDS, again)
        assert {row.tap: row.status for row in rows}[COMPUTED] is status
    # Ours in the other runs is not there, and would not count.
    wrong = observed({(COMPUTED, "oracle"): gap(1.0)})
    rows = rounding_rows(found, NAMES, PLAN, PLAN, "plain", mode, FLOAT32, BOUNDS, [wrong])
    assert {row.tap: row.status for row in rows}[COMPUTED] is Status.FAIL


# Every field of a row and of a reason.


def test_runs_have_the_names_of_their_backend_and_dtype() -> None:
    assert run_names("tiled", torch.bfloat16) == ("ours/tiled/bfloat16", "huggingface/bfloat16")


def test_without_an_observation_an_error_is_0() -> None:
    some = RoundingError(rms=2.0**-20, peak=2.0**-18)
    assert RoundingError().at_least(some) == some
    assert some.at_least(RoundingError(rms=1.0)) == RoundingError(rms=1.0, peak=2.0**-18)


@pytest.mark.parametrize("mode", [Mode.END_TO_END, Mode.PER_OP])
def test_a_row_of_rounding_names_what_was_compared(mode: Mode) -> None:
    for row in quality(observed({(COMPUTED, "oracle"): gap(2.0**-20)}), mode).values():
        assert (row.backend, row.against, row.dtype, row.mode) == (
            *("plain", "oracle", "float32"),
            mode,
        )
    row = quality(observed({(COMPUTED, "oracle"): gap(2.0**-20)}), mode)[COMPUTED]
    assert (row.tap, row.shape, row.worst_index) == (COMPUTED, (2, 5, 21), (1, 4, 20))
    assert (row.value_ours, row.value_against, row.detail) == (3.0, 2.0, "")


def test_rows_of_errors_and_of_unplanned_taps_are_complete() -> None:
    error = ValueError("no")
    assert raised_row(error, tap="t", backend="b", dtype="float16") == Row(
        tap="t",
        backend="b",
        dtype="float16",
        mode=Mode.EXACT,
        against="huggingface",
        status=Status.FAIL,
        bound=0.0,
        detail="ours raised ValueError: no",
    )
    found = Observations(extras={NAMES.ours: ["x", "h.7.mlp", "h.1." + "@" * 16]})
    rows = extra_rows(found, NAMES, PLAN, "plain", "float32", Mode.PER_OP)
    assert {(row.against, row.bound) for row in rows} == {("oracle", 0.0)}
    no, near = "no tap has this name", "; did you mean "
    assert [row.detail for row in rows] == [no, f"{no}{near}h.1.mlp?", no]


def test_the_reasons_of_a_pass_have_place_and_fix() -> None:
    later = PLAN[[tap.name for tap in PLAN].index(COMPUTED) + 1].name
    theirs = {(tap.name, "oracle"): gap(1e-14) for tap in PLAN}
    theirs |= {(COMPUTED, "oracle"): gap(1e-3, 2e-3), (later, "oracle"): gap(1e-3)}
    found = observed({}, theirs)
    rows = float64_rows(found, NAMES, PLAN, "plain", BOUNDS)
    alone = Reason(
        what=f"Hugging Face stands alone at {COMPUTED}: it differs from the oracle by 0.002 of "
        "its RMS, ours does not",
        where=f"{COMPUTED} and the taps after it",
        fix="compare with other weights: here Hugging Face is no reference",
        code=ExitCode.INCONCLUSIVE,
    )
    assert stands_alone(found, NAMES, rows, -1e4) == [alone]
    (masked,) = stands_alone(found, NAMES, rows, -12_345.0)
    assert masked.fix.endswith("these weights make a score of -1.23e+04: use other weights")

    broken = {(COMPUTED, "oracle"): gap(1.0, status=Status.NONFINITE)}
    half = RunNames(ours="ours/plain/float16", huggingface="huggingface/float16")
    both = {(name, *key): seen for name in half for key, seen in broken.items()}
    assert overflows(Observations(differences=both), half, PLAN) == [
        Reason(
            what=f"both sides overflow at {COMPUTED}: float16 cannot hold this model",
            where=f"{COMPUTED} and the taps after it",
            fix="use --dtype bfloat16 or float32",
            code=ExitCode.INCONCLUSIVE,
        )
    ]

    choice = {("logits", "oracle"): gap(1e-9)}
    assert top1_changes(observed(choice, choice), NAMES, 0.5) == [
        Reason(
            what="the first choice of a token differs, against a lead of 0.5",
            where="logits, attention plain, torch.x",
            fix="if no tap before the logits fails, look at them with --explain logits",
            code=ExitCode.FAIL,
        )
    ]


def test_a_note_on_a_narrower_dtype_has_place_and_fix() -> None:
    note = narrow_reason("float16 enters at a.py:3")
    assert note.where == "the candidate in float64"
    assert note.fix == "compute in the input's dtype, or accept that finer errors are not seen"
    rejected = narrow_reason("float16 enters at a.py:3", allowed=False)
    assert (rejected.where, rejected.code) == (note.where, ExitCode.PASS)
    assert rejected.fix == "compute in the input's dtype"


@pytest.mark.parametrize("overflow", [True, False])
def test_where_both_sides_overflow_there_is_no_first_choice(overflow: bool) -> None:  # noqa: FBT001
    status = Status.NONFINITE if overflow else Status.PASS
    ours = {("logits", "oracle"): gap(0.1, status=Status.NONFINITE)}
    theirs = {("logits", "oracle"): gap(0.1, status=status)}
    reasons = top1_changes(observed(ours, theirs), NAMES, 0.5)
    assert len(reasons) == (not overflow)


@pytest.mark.parametrize(("theirs", "expected"), [(3e-14, 3e-14), (math.nan, None)])
def test_a_row_of_one_operation_has_hugging_faces_error(
    theirs: float, expected: float | None
) -> None:
    found = observed({}, {(COMPUTED, "oracle"): gap(1e-14, theirs)})
    rows = float64_per_op_rows(found, NAMES, PLAN, "fused", BOUNDS)
    (row,) = (row for row in rows if row.tap == COMPUTED)
    assert (row.error_reference, row.backend, row.amplification) == (expected, "fused", None)
    del found.differences[NAMES.huggingface, COMPUTED, "oracle"]
    rows = float64_per_op_rows(found, NAMES, PLAN, "fused", BOUNDS)
    assert [row.error_reference for row in rows if row.tap == COMPUTED] == [None]
