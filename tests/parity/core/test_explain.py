"""The close look: how errors are spread, and which elements are the worst."""

import math

import pytest
import torch
from torch import Tensor

from parity.core.explain import Explainer, histogram

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf


def float64(*numbers: float) -> Tensor:
    """Return the numbers without rounding them to float32 on the way."""
    return torch.tensor(numbers, dtype=torch.float64)


def explained(
    ours: Tensor, truth: Tensor, *, per_op: bool = False, tap: str = "h.0.ln_1"
) -> dict[str, object]:
    explainer = Explainer("h.0.ln_1")
    explainer.look("ours/plain/float32", tap, ours, truth, per_op=per_op)
    return explainer.explanation()["runs"]


def test_differences_are_counted_by_decade() -> None:
    gap = float64(0.0, 0.0, 1e-7, 3e-7, 9e-7, 1e-6, 0.5, 1.0, 9.5, 10.0)
    expected = {"0": 2, "1e-07": 3, "1e-06": 1, "1e-01": 1, "1e+00": 2, "1e+01": 1}
    assert expected == histogram(gap)
    assert list(expected) == list(histogram(gap))


@pytest.mark.parametrize(
    ("number", "label"),
    [
        *((float(f"1e{power}"), f"1e{power:+03d}") for power in range(-18, 5)),
        *((9e-19, "below"), (5e-324, "below"), (1e5, "above"), (1e300, "above")),
        *((INF, "not finite"), (NAN, "not finite")),
    ],
)
def test_every_number_has_its_decade(number: float, label: str) -> None:
    """A power of ten opens its decade, also where the float's logarithm is not quite whole."""
    assert histogram(float64(0.0, number)) == {"0": 1, label: 1}


def test_every_element_is_counted_once() -> None:
    gap = 10 ** torch.linspace(-25, 12, 371, dtype=torch.float64)
    gap = torch.cat([gap, float64(0.0, INF, NAN)]).reshape(11, 34)
    assert gap.numel() == sum(histogram(gap).values())


def test_the_worst_elements_come_worst_first() -> None:
    truth = torch.zeros(2, 3, 5, dtype=torch.float64)
    truth[1, 2, 4] = 1.0
    ours = truth.clone()
    places = [(0, 1, 2), (1, 2, 4), (1, 0, 0), (0, 0, 4), (0, 2, 3), (1, 1, 1)]
    for size, place in enumerate(places):
        ours[place] += (-2.0) ** size
    expected = [
        {
            "index": list(place),
            "ours": float(ours[place]),
            "oracle": float(truth[place]),
            "difference": abs(float(ours[place] - truth[place])),
        }
        for place in places[:0:-1]
    ]
    assert expected == explained(ours, truth)["ours/plain/float32"]["worst"]


def test_what_is_not_finite_is_worst_of_all() -> None:
    ours = float64(1e300, NAN, 2.0)[None]
    worst = explained(ours, float64(0.0, 0.0, 0.0)[None])["ours/plain/float32"]["worst"]
    assert [element["index"] for element in worst] == [[0, 1], [0, 0], [0, 2]]


def test_a_narrower_dtype_is_compared_in_float64() -> None:
    truth = float64(1.0 + 2.0**-30)[None]
    found = explained(torch.ones(1, 1), truth)["ours/plain/float32"]
    assert (found["worst"][0]["difference"], found["histogram"]) == (2.0**-30, {"0": 0, "1e-10": 1})


def test_other_taps_and_shapes_are_left_out() -> None:
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert list(explained(ones, ones)) == ["ours/plain/float32"]
    assert list(explained(ones, ones, per_op=True)) == ["ours/plain/float32, per-op"]
    assert not explained(ones, ones, tap="h.0.ln_2")
    assert not explained(ones, ones[:1])
    assert not explained(ones[:1], ones)


def test_without_a_tap_there_is_no_explanation() -> None:
    explainer = Explainer(None)
    explainer.look("x", "h.0.ln_1", torch.ones(1, 1), torch.ones(1, 1), per_op=False)
    assert explainer.explanation() is None
