"""What becomes of every gradient of one run: measured, extra, missing, of another dtype."""

import math

import torch
from torch import Tensor

from parity.checks.gradients.backward import REFERENCE, TRUTH, GradientComparator
from parity.checks.gradients.taps import gradient_names
from parity.core.lockstep import Observations
from parity.core.metrics import Reference, Status

PLAN = [
    place for place in gradient_names(1) if place.name in ("logits", "h.0.ln_2", "h.0.ln_2.weight")
]
TRUE = torch.tensor([[3.0, -4.0]], dtype=torch.float64)


def gauge(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> GradientComparator:
    return GradientComparator(
        name="ours",
        dtype=dtype,
        plan=PLAN,
        known=frozenset(place.name for place in gradient_names(1)),
        truths={place.name: Reference(TRUE) for place in PLAN},
        found=Observations(),
        look=lambda *_: None,
        scale=scale,
    )


def status(run: GradientComparator, name: str) -> Status:
    return run.found.differences[run.name, name, TRUTH].status


def test_a_float64_gradient_is_held_against_both() -> None:
    run = gauge()
    run.see("logits", TRUE + 1e-3)
    seen = [run.found.differences["ours", "logits", side] for side in (TRUTH, REFERENCE)]
    assert all(math.isclose(1e-3, difference.rms) for difference in seen)


def test_a_float32_gradient_is_no_identity() -> None:
    run = gauge(torch.float32)
    run.see("logits", TRUE.float())
    assert list(run.found.differences) == [("ours", "logits", TRUTH)]


def test_another_dtype_is_its_own_finding() -> None:
    for scale in (1.0, 4.0):
        run = gauge(scale=scale)
        run.see("logits", TRUE.float())
        assert status(run, "logits") is Status.DTYPE


def test_a_scaled_gradient_is_brought_back_to_size() -> None:
    run = gauge(torch.float16, scale=2.0**14)
    tiny = TRUE * 2.0**-26
    run.truths = {"logits": Reference(tiny)}
    run.see("logits", (tiny * run.scale).half())
    assert run.found.differences["ours", "logits", TRUTH].largest == 0.0


def test_what_nobody_knows_is_extra() -> None:
    run = gauge()
    for name in ("h.0.mlp.wrong", "logits", "logits", "h.0.attn"):
        run.see(name, TRUE)
    assert run.found.extras == {"ours": ["h.0.mlp.wrong", "logits"]}


def test_what_never_came_is_missing() -> None:
    run = gauge()
    run.see("logits", TRUE)
    run.finish({}, None)
    assert [status(run, n) for n in ("logits", "h.0.ln_2")] == [Status.PASS, Status.MISSING]


def test_a_parameter_that_is_not_there_is_not_run() -> None:
    run = gauge()
    run.finish({"h.0.ln_2.weight": "no such parameter"}, None)
    seen = run.found.differences["ours", "h.0.ln_2.weight", TRUTH]
    assert (seen.status, seen.detail) == (Status.NOT_RUN, "no such parameter")


def test_what_a_broken_run_owes_is_not_run() -> None:
    run = gauge()
    run.see("logits", TRUE)
    run.finish({}, "RuntimeError: no")
    seen = run.found.differences["ours", "h.0.ln_2", TRUTH]
    assert (seen.status, "RuntimeError: no" in seen.detail) == (Status.NOT_RUN, True)
    assert status(run, "logits") is Status.PASS


def test_without_a_reference_nothing_is_compared() -> None:
    run = gauge()
    run.truths = {}
    run.see("logits", TRUE)
    run.finish({}, None)
    assert status(run, "logits") is Status.NOT_RUN


def test_not_a_number_is_its_own_finding() -> None:
    run = gauge()
    broken: Tensor = TRUE.clone()
    broken[0, 1] = math.nan
    run.see("logits", broken)
    assert status(run, "logits") is Status.NONFINITE
