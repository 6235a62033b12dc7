"""The harness's main job: every kind of tap × block × core × witness, at both sizes."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from parity.checkpoints.load import load_weights
from parity.checks.layerwise import layerwise
from parity.core import inputs
from parity.core.backends import DEFAULT, EAGER
from parity.core.gates import REFERENCES
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import never_formed, taps
from parity.core.tolerances import Bounds

LAYERS = 12
PLANNED = {"plain": 173, "tiled": 149, "fused": 125}
Check = Callable[..., Report]
LONG = 1_200
"""Seconds after which a full-size test hangs: a busy machine takes minutes for some."""

CASES = [
    (backend, tap.name, mode, against)
    for backend in EAGER
    for tap in taps(LAYERS)
    if tap.name not in never_formed(backend, LAYERS)
    for mode in (Mode.FLOAT64, Mode.END_TO_END, Mode.PER_OP)
    for against in (REFERENCES if mode is Mode.FLOAT64 else ("oracle",))
]


def checker(size: str) -> Check:
    weights = load_weights(size)
    ours, theirs = build_ours(weights), build_huggingface(weights)
    candidates = {backend: ours.with_backend(backend) for backend in EAGER}

    def check(
        batch: int = 1,
        time: int = 37,
        seed: int = 0,
        given: Inputs | None = None,
        paths: Sequence[str] = EAGER,
    ) -> Report:
        chosen = given or inputs.seeded(
            batch=batch, time=time, vocab_size=weights.config["vocab_size"], seed=seed
        )
        return layerwise(
            {path: candidates[path] for path in paths},
            theirs,
            chosen.token_ids,
            positions=chosen.positions,
            attention_mask=chosen.attention_mask,
        )

    return check


def by_key(report: Report) -> dict[tuple[str, str, Mode, str], Row]:
    return {(row.backend, row.tap, row.mode, row.against): row for row in report.results}


@pytest.fixture(scope="module")
def tiny() -> Check:
    return checker("tiny")


@pytest.fixture(scope="module")
def tiny_report(tiny: Check) -> Report:
    return tiny(batch=2, time=37)


@pytest.fixture(scope="module")
def tiny_rows(tiny_report: Report) -> dict[tuple[str, str, Mode, str], Row]:
    return by_key(tiny_report)


@pytest.fixture(scope="module")
def full() -> Check:
    return checker("surrogate")


@pytest.fixture(scope="module")
def full_report(full: Check) -> Report:
    return full(batch=1, time=512)


@pytest.fixture(scope="module")
def full_rows(full_report: Report) -> dict[tuple[str, str, Mode, str], Row]:
    return by_key(full_report)


def assert_within_bound(row: Row) -> None:
    assert row.status is Status.PASS, row.detail
    assert row.required_tolerance is not None
    assert row.required_tolerance <= row.bound


@pytest.mark.parametrize(("backend", "tap", "mode", "against"), CASES)
def test_tiny_tap_agrees(
    tiny_rows: dict[tuple[str, str, Mode, str], Row],
    backend: str,
    tap: str,
    mode: Mode,
    against: str,
) -> None:
    assert_within_bound(tiny_rows[backend, tap, mode, against])


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize(("backend", "tap", "mode", "against"), CASES)
def test_full_size_tap_agrees(
    full_rows: dict[tuple[str, str, Mode, str], Row],
    backend: str,
    tap: str,
    mode: Mode,
    against: str,
) -> None:
    assert_within_bound(full_rows[backend, tap, mode, against])


@pytest.mark.parametrize("tap", ["logits", "loss"])
@pytest.mark.parametrize("backend", EAGER)
def test_output_is_identical_in_float64(
    tiny_rows: dict[tuple[str, str, Mode, str], Row], backend: str, tap: str
) -> None:
    rows = [tiny_rows[backend, tap, Mode.FLOAT64, against] for against in REFERENCES]

    assert all(row.bound == Bounds().float64 for row in rows)
    assert all(0.0 < (row.error_ours or 0.0) <= row.bound for row in rows)


def test_loss_is_the_mean_negative_log_likelihood(tiny_report: Report) -> None:
    losses = tiny_report.consequences["plain"]

    assert round(losses["loss_oracle"], 5) == round(losses["loss_ours"], 5)
    assert abs(losses["loss_oracle"] - float(torch.tensor(211.0).log())) < 1.0


def test_plan_is_complete(tiny_report: Report) -> None:
    assert {path: (n, n) for path, n in PLANNED.items()} == tiny_report.plan.per_backend
    assert sum(PLANNED.values()) == tiny_report.plan.planned == tiny_report.plan.compared
    assert set(by_key(tiny_report)) == set(CASES)


def test_exempt_taps_carry_their_reason(tiny_report: Report) -> None:
    assert Counter(entry["backend"] for entry in tiny_report.plan.exempt) == {
        "tiled": 24,
        "fused": 48,
    }
    assert all(entry["reason"] for entry in tiny_report.plan.exempt)


def test_looked_up_rows_are_equal_to_the_bit(
    tiny_rows: dict[tuple[str, str, Mode, str], Row],
) -> None:
    rows = [
        tiny_rows["plain", tap, Mode.FLOAT64, against]
        for tap in ("embeddings.tokens", "embeddings.positions")
        for against in REFERENCES
    ]

    assert [(row.bound, row.error_ours) for row in rows] == [(0.0, 0.0)] * 4


def assert_passes(report: Report, *, loss: bool = True, paths: Sequence[str] = EAGER) -> None:
    assert list(report.reasons) == []
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    taps_each = {path: PLANNED[path] if loss else PLANNED[path] - 1 for path in paths}
    assert {path: (n, n) for path, n in taps_each.items()} == report.plan.per_backend


@pytest.mark.parametrize("time", [1, 2, 37, 389], ids="time={}".format)
@pytest.mark.parametrize("batch", [1, 4], ids="batch={}".format)
def test_tiny_verdict_at_every_shape(tiny: Check, batch: int, time: int) -> None:
    assert_passes(tiny(batch=batch, time=time), loss=time > 1)


PADDED = {
    "right": [[5, 0, 210, 7, 7], [3, 9]],
    "long beside short": [list(range(40)), [1]],
}


@pytest.mark.parametrize("rows", PADDED.values(), ids=PADDED.keys())
def test_tiny_verdict_on_unequal_rows(tiny: Check, rows: list[list[int]]) -> None:
    assert_passes(tiny(given=inputs.from_rows(rows)))


def left_padded(vocab_size: int) -> Inputs:
    drawn = inputs.seeded(batch=2, time=40, vocab_size=vocab_size, seed=3)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, :9] = False
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Inputs(token_ids=drawn.token_ids, positions=positions, attention_mask=mask)


def test_tiny_verdict_with_left_padding_and_positions(tiny: Check) -> None:
    assert_passes(tiny(given=left_padded(211)))


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("time", [1, 2, 37], ids="time={}".format)
@pytest.mark.parametrize("batch", [1, 4], ids="batch={}".format)
def test_full_size_verdict_at_every_shape(full: Check, batch: int, time: int) -> None:
    assert_passes(full(batch=batch, time=time), loss=time > 1)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_full_size_verdict_with_left_padding_and_positions(full: Check) -> None:
    assert_passes(full(given=left_padded(40_478)))


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_full_size_verdict_on_four_longest_rows(full: Check) -> None:
    """On the default backends: `fused` has another kernel for one row."""
    assert_passes(full(batch=4, time=512, paths=DEFAULT), paths=DEFAULT)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_full_size_plan(full_report: Report) -> None:
    assert_passes(full_report)
    assert set(CASES) == set(by_key(full_report))
