"""How far a tap moved, from two fingerprints; and what only one of two has."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity.checks.drift.changes import (
    RunKey,
    all_changes,
    larger,
    reordered,
    tap_change,
    unmatched,
)
from parity.core.fingerprints import CELLS, CHUNK, ROUNDING, Draws, Fingerprint, Sketch, encoded

Made = Any
Read = Callable[..., Fingerprint]


@pytest.fixture
def tap(made: Made) -> Read:
    def make(
        run: tuple[str, str, str] = made.OURS, name: str = "logits", **other: object
    ) -> Fingerprint:
        found = made.fingerprint(run, name, **other)
        return Fingerprint(**found | {"shape": tuple(found["shape"])})

    return make


def test_equal_digests_are_no_change(tap: Read) -> None:
    assert tap_change(tap(), tap()) == 0.0


def test_a_change_is_over_the_larger_norm(tap: Read, made: Made) -> None:
    one = tap(norm=2.0, sketch=made.sketch(2.0))
    other = tap(norm=4.0, sketch=made.sketch(2.0, 1.0), digest="f" * 16)
    assert (tap_change(one, other), tap_change(other, one)) == (0.25, 0.25)


def test_a_change_below_the_sketch_is_its_rounding(tap: Read, made: Made) -> None:
    """Another digest is a change, so never 0."""
    small = tap(digest="f" * 16, sketch=made.sketch(2.0, 1e-17))
    exact, lost = (tap(made.ORACLE, digest=digit * 16) for digit in "0f")
    zero, other = (tap(made.ORACLE, digest=d * 16, norm=0.0, sketch=made.sketch()) for d in "0f")
    assert tap_change(tap(), small) == ROUNDING
    assert tap_change(exact, lost) == ROUNDING
    assert tap_change(zero, other) == ROUNDING


def test_changes_that_cancelled_have_no_size(tap: Read) -> None:
    """Two elements of one bucket change by opposite amounts: the sketch does not show it."""
    draws = Draws()
    signs, buckets = draws.chunk(0)
    alike = np.flatnonzero(buckets == buckets[0])
    pair = [0, int(next(place for place in alike if signs[place] != signs[0]))]
    taken = []
    for digit, value in (("0", 1.0), ("1", 1.5)):
        values = np.zeros(CELLS)
        values[pair] = value
        sketch = Sketch(draws)
        sketch.add(values)
        whole = encoded(sketch.sums)
        taken.append(tap(shape=(CELLS,), digest=digit * 16, norm=sketch.norm, sketch=whole))
    one, other = taken
    assert (one.sketch, None) == (other.sketch, tap_change(one, other))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"norm": None, "sketch": ""}, id="not finite, or ids"),
        pytest.param({"shape": (3, 1)}, id="another shape"),
    ],
)
def test_some_changes_have_no_size(other: dict[str, Any], tap: Read) -> None:
    found = tap_change(tap(), tap(digest="f" * 16, **other))
    assert (found, larger(found)) == (None, math.inf)


def test_the_same_digest_with_another_shape_is_a_change(tap: Read) -> None:
    """A digest includes the shape, so such a report was altered."""
    assert tap_change(tap(), tap(shape=(3, 1))) is None


def test_only_the_same_tap_of_the_same_run_is_compared(tap: Read, made: Made) -> None:
    first = [tap(made.OURS), tap(made.THEIRS)]
    second = [tap(made.OURS, digest="f" * 16), tap(made.ALONE)]
    assert all_changes(first, second) == {RunKey(*made.OURS): {"logits": None}}
    assert [f"{' '.join(made.THEIRS)} logits", f"{' '.join(made.ALONE)} logits"] == unmatched(
        first, second
    )


def test_taps_come_in_the_order_of_the_first(tap: Read) -> None:
    names = ["logits", "embeddings", "h.0.mlp"]
    (found,) = all_changes(
        [tap(name=name) for name in names], [tap(name=name) for name in sorted(names)]
    ).values()
    assert names == list(found)


def test_another_order_within_a_run_is_found(tap: Read, made: Made) -> None:
    one = [tap(run, name) for name in ("logits", "loss") for run in (made.OURS, made.THEIRS)]
    by_run = sorted(one, key=lambda found: found.subject)
    assert not reordered(one, one)
    assert not reordered(one, by_run)
    assert reordered(one, one[::-1])


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
def test_a_real_change_is_estimated(size: float, tap: Read) -> None:
    draws, generator = Draws(), np.random.Generator(np.random.Philox(0))
    tensor, noise = generator.standard_normal((2, CHUNK))
    taken = []
    for digest, values in (("0" * 16, tensor), ("1" * 16, tensor + size * noise)):
        sketch = Sketch(draws)
        sketch.add(values)
        taken.append(tap(digest=digest, norm=sketch.norm, sketch=encoded(sketch.sums)))
    true = size * float(np.linalg.norm(noise)) / max(one.norm or 0.0 for one in taken)
    found = tap_change(*taken)
    assert found is not None
    assert abs(found / true - 1.0) < 0.27
