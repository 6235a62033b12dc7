"""The bounds: what each rests on, and which are refused."""

import dataclasses
import math
import re

import pytest
import torch

from parity.core import tolerances
from parity.core.tolerances import PRECISIONS, Bounds, bounds_for, precision_of
from parity.errors import ExitCode, InconclusiveError, UsageError

NAMES = ["float64", *PRECISIONS]


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_accepted(name: str) -> None:
    bounds_for(name).check(PRECISIONS.get(name))


@pytest.mark.parametrize("name", PRECISIONS)
def test_right_code_stays_well_under_the_quality_bound(name: str) -> None:
    precision = PRECISIONS[name]
    assert precision.measured * precision.margin <= precision.quality
    assert precision.margin == 1.5
    assert precision.quality == bounds_for(name).quality


def test_the_float64_bound_stands_between_noise_and_the_smallest_fault() -> None:
    assert Bounds().float64 >= tolerances.MEASURED_FLOAT64_NOISE
    assert Bounds().float64 * tolerances.FAULT_MARGIN <= tolerances.MEASURED_SMALLEST_FAULT
    assert tolerances.FAULT_MARGIN >= 100


def test_the_bound_of_one_operation_is_far_below_that_of_a_whole_run() -> None:
    bounds = Bounds()
    assert bounds.float64_per_op >= 2 * tolerances.MEASURED_FLOAT64_OPERATION_NOISE
    assert bounds.float64_per_op * 1_000 <= bounds.float64


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_unit_is_half_the_gap_after_one(name: str) -> None:
    precision = PRECISIONS[name]
    assert getattr(torch, name) is precision.dtype
    assert torch.finfo(precision.dtype).eps / 2 == precision.unit


@pytest.mark.parametrize(
    "bound", [1e9, math.nextafter(1e-8, 1), 0.0, -1e-9, math.nan, math.inf, -math.inf], ids=repr
)
@pytest.mark.parametrize("name", NAMES)
def test_a_float64_bound_that_decides_nothing_is_refused(bound: float, name: str) -> None:
    with pytest.raises(InconclusiveError, match=f"^the float64 bound {re.escape(repr(bound))} "):
        Bounds(float64=bound).check(PRECISIONS.get(name))


@pytest.mark.parametrize("bound", [1e9, 0.0, -1.0, 1.0, math.nan, math.inf], ids=repr)
@pytest.mark.parametrize("field", ["quality", "peak"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_quality_bound_that_decides_nothing_is_refused(
    field: str, bound: float, name: str
) -> None:
    bounds = dataclasses.replace(bounds_for(name), **{field: bound})
    with pytest.raises(InconclusiveError, match=f"^the {field} bound {re.escape(repr(bound))} "):
        bounds.check(PRECISIONS[name])


@pytest.mark.parametrize("bound", [1e-9, 1.1e-11, 4e-14, 0.0, math.nan, math.inf], ids=repr)
def test_a_bound_of_one_operation_that_decides_nothing_is_refused(bound: float) -> None:
    Bounds(float64_per_op=1e-11).check(None)
    with pytest.raises(InconclusiveError, match=r"^the float64 per-op bound "):
        Bounds(float64_per_op=bound).check(None)


def test_in_float64_only_its_own_bound_is_checked() -> None:
    Bounds(quality=math.nan, peak=math.nan).check(None)
    with pytest.raises(InconclusiveError) as refusal:
        Bounds(float64=1e9).check(None)
    assert refusal.value.exit_code == ExitCode.INCONCLUSIVE
    assert refusal.value.where == "it must lie in [2.8e-11, 1e-08]"


@pytest.mark.parametrize("name", ["relative", "absolute", "rtol", "atol", "cosine"])
def test_no_other_kind_of_bound_can_be_stated(name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        Bounds(**{name: 1e9})
    names = [field.name for field in dataclasses.fields(Bounds)]
    assert names == ["float64", "float64_per_op", "quality", "peak"]


def test_bounds_are_read_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="float64"):
        Bounds().float64 = 1e9
    with pytest.raises(dataclasses.FrozenInstanceError, match="quality"):
        PRECISIONS["float32"].quality = 1e9


def test_a_dtype_whose_rounding_is_not_judged_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no dtype 'float23'") as refusal:
        precision_of("float23")
    assert refusal.value.where == "dtype"
    known = "use float32, bfloat16, float16, float64"
    assert refusal.value.fix == f"did you mean float32? {known}"
    with pytest.raises(UsageError) as refusal:
        precision_of("complex")
    assert refusal.value.fix == known


def test_degenerate_is_far_from_healthy() -> None:
    surrogate, degenerate = (0.75, 50.0), (1.0, 1.0)
    assert surrogate[0] < tolerances.DEGENERATE_COSINE < degenerate[0]
    assert surrogate[1] > tolerances.DEGENERATE_ATTENTION > degenerate[1]


def test_the_numbers_that_decide_are_these() -> None:
    """Each has its measurement beside it; one that is changed here needs another."""
    numbers = {name: getattr(tolerances, name) for name in dir(tolerances) if name.isupper()}
    precisions = {name: (p.quality, p.measured) for name, p in numbers.pop("PRECISIONS").items()}
    assert precisions == {"float32": (4, 2.14), "bfloat16": (3, 1.39), "float16": (3, 1.96)}
    assert numbers == {
        "MEASURED_FLOAT64_NOISE": 2.8e-11,
        "MEASURED_FLOAT64_OPERATION_NOISE": 4.5e-14,
        "MEASURED_SMALLEST_FAULT": 1e-6,
        "FAULT_MARGIN": 100,
        "PEAK_GUARD": 10,
        "SMALL_TENSOR": 20_000,
        "DEGENERATE_COSINE": 0.98,
        "DEGENERATE_ATTENTION": 2,
        "FEWEST_PREDICTIONS": 32,
        "SLOPE_BOUND": 1e-6,
    }
    assert dataclasses.astuple(Bounds()) == (1e-9, 2e-13, 4, 10)
