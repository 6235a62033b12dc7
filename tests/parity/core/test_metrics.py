"""How far two tensors are apart, to the bit, and everything that keeps them from being compared."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.core import metrics
from parity.core.metrics import (
    Difference,
    Reference,
    Status,
    consequences,
    difference,
    visible_entries,
)
from parity.core.taps import Axes

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf
FLOAT64 = torch.float64
SHAPES = [(2, 5), (1, 1), (2, 5, 3), (1, 5, 7), (2, 3, 5, 5), (1, 1, 1, 1), (7,)]


@pytest.fixture(params=[None, 4], ids=["whole", "in chunks"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in whole chunks, and in chunks smaller than most rows."""
    if request.param is not None:
        monkeypatch.setattr(metrics, "_CHUNK", request.param)


def whole_numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return whole numbers as float64, so that every sum of squares is exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-50, 51, shape, generator=generator).double()


def measured(ours: Tensor, reference: Tensor, visible: Tensor | None = None) -> Difference:
    return difference(ours, reference, dtype=FLOAT64, visible=visible)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_numbers_are_numpys(shape: tuple[int, ...]) -> None:
    ours, reference = whole_numbers(shape, 1), whole_numbers(shape, 2)
    gap = (ours - reference).numpy()
    place = tuple(int(i) for i in np.unravel_index(np.abs(gap).argmax(), shape))
    expected = Difference(
        status=Status.PASS,
        shape=shape,
        count=gap.size,
        rms=math.sqrt(np.square(gap).sum() / gap.size),
        largest=np.abs(gap).max(),
        worst_index=place,
        scale=math.sqrt(np.square(reference.numpy()).sum() / gap.size),
        scale_largest=np.abs(reference.numpy()).max(),
        ours=float(ours[place]),
        reference=float(reference[place]),
    )
    assert expected == measured(ours, reference)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["above", "below"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_worst_index_is_found_wherever_it_is(shape: tuple[int, ...], sign: float) -> None:
    reference = whole_numbers(shape, 3)
    for place in np.ndindex(*shape):
        ours = reference + 1
        ours[place] = reference[place] + sign * 100
        found = measured(ours, reference)
        assert found.worst_index == place
        assert found.largest == 100.0
        assert found.ours == float(ours[place])
        assert found.reference == float(reference[place])


@pytest.mark.usefixtures("_chunk")
def test_of_equal_differences_the_first_is_named() -> None:
    """So that a report does not depend on how the tensor is cut."""
    reference = torch.zeros(3, 5, dtype=FLOAT64)
    assert measured(reference + 2, reference).worst_index == (0, 0)


def test_a_status_is_written_as_its_word() -> None:
    """Programs read these words in the JSON form."""
    assert [status.value for status in Status] == [
        "pass",
        "fail",
        "nonfinite",
        "missing",
        "extra",
        "shape",
        "dtype",
        "not_run",
    ]


def test_ratios_are_over_the_reference() -> None:
    found = measured(
        torch.tensor([[3.0, 11.0]], dtype=FLOAT64), torch.tensor([[3.0, 4.0]], dtype=FLOAT64)
    )
    scale = math.sqrt((9 + 16) / 2)
    assert found.relative_rms == math.sqrt(49 / 2) / scale
    assert found.relative_largest == 7 / scale
    assert found.peak_ratio == 7 / 4


def test_over_a_reference_of_zeros_there_is_no_ratio() -> None:
    """It is NaN, which no bound lets pass."""
    for ours in (torch.zeros(2, 3, dtype=FLOAT64), torch.ones(2, 3, dtype=FLOAT64)):
        found = measured(ours, torch.zeros(2, 3, dtype=FLOAT64))
        assert all(map(math.isnan, (found.relative_rms, found.relative_largest, found.peak_ratio)))


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        pytest.param(NAN, NAN, id="both NaN"),
        pytest.param(NAN, 1.0, id="ours NaN"),
        pytest.param(1.0, NAN, id="reference NaN"),
        pytest.param(INF, INF, id="both infinite"),
        pytest.param(-INF, -INF, id="both minus infinite"),
        pytest.param(INF, -INF, id="infinities of either sign"),
        pytest.param(INF, 1.0, id="ours infinite"),
        pytest.param(1.0, -INF, id="reference infinite"),
        pytest.param(NAN, INF, id="NaN and infinite"),
    ],
)
@pytest.mark.parametrize("place", [(0, 0, 0), (0, 2, 1), (1, 4, 2)], ids=str)
def test_what_is_not_finite_is_a_finding_of_its_own(
    ours: float, reference: float, place: tuple[int, ...]
) -> None:
    mine, theirs = whole_numbers((2, 5, 3), 4), whole_numbers((2, 5, 3), 5)
    mine[place], theirs[place] = ours, reference
    found = measured(mine, theirs)
    assert found.status == Status.NONFINITE
    assert found.detail == f"not finite, first at {list(place)}"
    assert found.worst_index == place
    assert math.isnan(found.relative_rms)
    assert math.isnan(found.relative_largest)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("late", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("early", [NAN, INF, -INF], ids=str)
def test_the_first_of_several_is_located(early: float, late: float) -> None:
    ours, reference = whole_numbers((4, 5), 6), whole_numbers((4, 5), 7)
    ours[0, 1], ours[1, 3], ours[3, 2] = 1e300, early, late
    assert measured(ours, reference).detail == "not finite, first at [1, 3]"


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        ((1, 5), (2, 5)),
        ((2, 1), (2, 5)),
        ((2, 5), (2, 1)),
        ((5, 2), (2, 5)),
        ((10,), (2, 5)),
        ((2, 5, 1), (2, 5)),
        ((1, 2, 5), (2, 5)),
        ((0, 5), (2, 5)),
        ((2, 5), (0, 5)),
    ],
    ids=str,
)
def test_other_shapes_are_not_compared(ours: tuple[int, ...], reference: tuple[int, ...]) -> None:
    """Nothing broadcasts and nothing is reshaped, even where all values agree."""
    found = measured(torch.ones(ours), torch.ones(reference, dtype=FLOAT64))
    assert found.detail == f"shape {list(ours)}, the reference has {list(reference)}"
    assert (found.status, found.shape, found.count) == (Status.SHAPE, ours, 0)
    assert math.isnan(found.relative_rms)


@pytest.mark.parametrize(
    ("actual", "wanted"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float32),
        (torch.int64, torch.float64),
    ],
    ids=str,
)
def test_another_dtype_is_not_compared(actual: torch.dtype, wanted: torch.dtype) -> None:
    """Nothing is cast, even where all values agree."""
    ones = torch.ones(2, 3)
    found = difference(ones.to(actual), ones.double(), dtype=wanted)
    assert (found.status, found.detail) == (Status.DTYPE, f"dtype {actual}, expected {wanted}")
    assert math.isnan(found.relative_rms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_narrower_dtype_is_measured_in_float64(dtype: torch.dtype) -> None:
    """The difference of two narrow tensors may need more digits than either of them has."""
    reference = whole_numbers((2, 5, 3), 8) / 49
    ours = reference.to(dtype)
    found = difference(ours, reference, dtype=dtype)
    assert float((ours.double() - reference).abs().max()) == found.largest > 0
    ours, reference = torch.tensor([[2048.0, 1.0]], dtype=dtype), torch.full((1, 2), 2.0**-14)
    assert difference(ours, reference.to(dtype), dtype=dtype).largest == 2048.0 - 2.0**-14


@pytest.mark.parametrize(
    ("shape", "hidden"),
    [
        *((shape, None) for shape in ((0, 5), (5, 0), (2, 0, 3), (0, 3, 5, 5))),
        *((shape, False) for shape in ((0, 5), (5, 0), (2, 0, 3), (0, 3, 5, 5))),
        ((2, 5, 3), True),
    ],
    ids=str,
)
def test_nothing_is_never_compared(shape: tuple[int, ...], hidden: bool | None) -> None:  # noqa: FBT001
    """Two empty tensors, and two whose every entry is hidden, are equal and no evidence."""
    tensor = torch.ones(shape, dtype=FLOAT64)
    visible = None if hidden is None else torch.full([1] * len(shape), not hidden)
    found = measured(tensor, tensor, visible)
    assert (found.status, found.detail, found.shape) == (Status.NOT_RUN, "no entry counts", shape)
    assert found.count == 0


def test_one_reference_measures_many() -> None:
    reference, ours = whole_numbers((2, 5, 3), 9), whole_numbers((2, 5, 3), 10)
    copies = reference.clone(), ours.clone()
    held = Reference(reference)
    expected = held.difference(ours, dtype=FLOAT64)
    held.difference(ours * NAN, dtype=FLOAT64)
    held.difference(ours[:1], dtype=FLOAT64)
    assert expected == held.difference(ours, dtype=FLOAT64)
    assert torch.equal(copies[0], reference)
    assert torch.equal(copies[1], ours)


def test_the_layout_does_not_matter() -> None:
    ours, reference = whole_numbers((2, 3, 5, 7), 11), whole_numbers((2, 3, 5, 7), 12)
    expected = measured(ours, reference)
    turned = ours.transpose(1, 2).contiguous().transpose(1, 2)
    assert expected == measured(turned, reference.transpose(0, 3).contiguous().transpose(0, 3))


# Entries that count.


TIME, HEADS, WIDTH = 5, 3, 7

MASKS = {
    "no padding": None,
    "one row, padded": torch.tensor([[True, True, True, False, False]]),
    "one row, whole": torch.tensor([[True] * 5]),
    "two rows": torch.tensor([[True] * 5, [False, True, True, False, True]]),
    "two rows, one of them padding": torch.tensor([[True] * 5, [False] * 5]),
}

AXES = {
    Axes.ROWS: (TIME, WIDTH),
    Axes.HEADS: (HEADS, TIME, WIDTH),
    Axes.SCORES: (HEADS, TIME, TIME),
    Axes.WEIGHTS: (HEADS, TIME, TIME),
    Axes.LOSS: (TIME - 1,),
}
"""The shapes after the batch; positions are the same in every row and have one of their own."""


def counts(axes: Axes, real: list[bool], place: tuple[int, ...]) -> bool:
    """Return whether both sides define the entry at `place` of one row of the batch."""
    if axes is Axes.ROWS:
        return real[place[0]]
    if axes is Axes.LOSS:  # both the token that predicts and the one predicted
        return real[place[0]] and real[place[0] + 1]
    if axes is Axes.SCORES:  # a key in the future, or padding, is a constant
        query, key = place[1:]
        return real[query] and real[key] and key <= query
    return real[place[1]]  # heads and weights: whatever a real position has


def drawn(axes: Axes, mask: Tensor | None) -> tuple[Tensor, Tensor, np.ndarray]:
    reals = [[True] * TIME] * 2 if mask is None else mask.tolist()
    shape = (len(reals), *AXES[axes])
    generator = torch.Generator().manual_seed(20180611)
    ours, reference = (
        torch.randint(-50, 51, shape, generator=generator).double() for _ in range(2)
    )
    counted = np.array(
        [[counts(axes, real, place) for place in np.ndindex(*shape[1:])] for real in reals]
    )
    return ours, reference, counted.reshape(shape)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("axes", AXES, ids=lambda axes: axes.name)
def test_only_entries_that_count_are_compared(axes: Axes, mask: Tensor | None) -> None:
    ours, reference, counted = drawn(axes, mask)
    gap = np.where(counted, (ours - reference).numpy(), 0.0)
    ours[torch.from_numpy(~counted)] = math.nan
    reference[torch.from_numpy(~counted)] = math.inf
    found = difference(ours, reference, dtype=FLOAT64, visible=visible_entries(axes, mask, TIME))
    right = reference.numpy()[counted]
    assert (found.status, found.count) == (Status.PASS, counted.sum())
    assert found.rms == math.sqrt(np.square(gap).sum() / counted.sum())
    assert found.scale == math.sqrt(np.square(right).sum() / counted.sum())
    assert found.largest == np.abs(gap).max()
    assert found.worst_index == np.unravel_index(np.abs(gap).argmax(), gap.shape)
    assert found.scale_largest == np.abs(right).max()


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("axes", AXES, ids=lambda axes: axes.name)
def test_every_entry_that_counts_is_compared(axes: Axes, mask: Tensor | None) -> None:
    ours, reference, counted = drawn(axes, mask)
    held = Reference(reference, visible_entries(axes, mask, TIME))
    for place in zip(*np.nonzero(counted), strict=True):
        broken = ours.clone()
        broken[place] = math.nan
        found = held.difference(broken, dtype=FLOAT64)
        assert (found.status, found.worst_index) == (Status.NONFINITE, place)


@pytest.mark.parametrize(
    ("axes", "mask"),
    [
        *((Axes.POSITIONS, mask) for mask in MASKS.values()),
        *((axes, None) for axes in AXES if axes is not Axes.SCORES),
    ],
)
def test_all_positions_count_and_all_unpadded_entries_but_scores(
    axes: Axes, mask: Tensor | None
) -> None:
    assert visible_entries(axes, mask, TIME) is None


def test_entries_that_count_have_as_many_axes_as_the_tensor() -> None:
    """Else they would be counted along other axes than those they hide."""
    ones = torch.ones(2, 5, 3, dtype=FLOAT64)
    with pytest.raises(ValueError, match="shorter"):
        Reference(ones, torch.ones(5, 1, dtype=torch.bool))


def test_one_token_has_one_score() -> None:
    ones = torch.ones(2, HEADS, 1, 1, dtype=FLOAT64)
    found = difference(ones, ones, dtype=FLOAT64, visible=visible_entries(Axes.SCORES, None, 1))
    assert (found.status, found.count) == (Status.PASS, 2 * HEADS)


# The effect on the logits.


VOCAB = 37
IDS = torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])
PADDED = torch.tensor([[True] * 5, [True, True, True, False, False]])
HOLES = torch.tensor([[False, True, True, False, True], [True] * 5])

Same = Callable[[Tensor, Tensor], None]


def float64(*numbers: float) -> Tensor:
    """Return the numbers without rounding them to float32 on the way."""
    return torch.tensor(numbers, dtype=torch.float64)


def logarithms(logits: list[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(logit) for logit in logits))
    return [logit - total for logit in logits]


def ranking(logits: list[float]) -> list[int]:
    return sorted(range(len(logits)), key=lambda token: -logits[token])


def by_hand(
    ours: Tensor, truth: Tensor, mask: Tensor | None, ids: Tensor = IDS
) -> dict[str, float]:
    """Compute every effect with `math`, one position after the other."""
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    positions = [(b, t) for b in range(2) for t in range(5) if real[b, t]]
    mine, right = ({at: x[at].tolist() for at in positions} for x in (ours, truth))
    mine_log, right_log = ({at: logarithms(x[at]) for at in positions} for x in (mine, right))
    first, best = ({at: ranking(x[at]) for at in positions} for x in (mine, right))
    pairs = {at: list(zip(mine_log[at], right_log[at], strict=True)) for at in positions}
    kl = [math.fsum(math.exp(r) * (r - m) for m, r in pairs[at]) for at in positions]
    predicted = [(b, t) for b, t in positions if t < 4 and real[b, t + 1]]
    targets = {(b, t): int(ids[b, t + 1]) for b, t in predicted}

    def mean(numbers: list[float]) -> float:
        return math.fsum(numbers) / len(numbers)

    return {
        "loss_ours": mean([-mine_log[at][targets[at]] for at in predicted]),
        "loss_oracle": mean([-right_log[at][targets[at]] for at in predicted]),
        "log_softmax_largest": max(abs(m - r) for at in positions for m, r in pairs[at]),
        "kl_mean": mean(kl),
        "kl_largest": max(kl),
        "top1_agreement": mean([float(first[at][0] == best[at][0]) for at in positions]),
        "top5_agreement": mean(
            [len(set(first[at][:5]) & set(best[at][:5])) / len(best[at][:5]) for at in positions]
        ),
        "rank_change_largest": max(
            abs(first[at].index(token) - place)
            for at in positions
            for place, token in enumerate(best[at][:5])
        ),
        "flip_gap_largest": max(
            right[at][best[at][0]] - right[at][first[at][0]] for at in positions
        ),
    }


def logits_apart(spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(20180611)
    truth = 3 * torch.randn(2, 5, VOCAB, dtype=torch.float64, generator=generator)
    return truth + spread * torch.randn(truth.shape, dtype=truth.dtype, generator=generator), truth


@pytest.mark.parametrize("mask", [None, PADDED, HOLES], ids=["whole", "padded", "holes"])
@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["near", "far"])
def test_are_what_the_definitions_say(
    spread: float, mask: Tensor | None, assert_same: Same
) -> None:
    ours, truth = logits_apart(spread)
    expected = by_hand(ours, truth, mask)
    actual = consequences(ours, truth, IDS, mask)
    assert list(expected) == list(actual)
    for name, number in expected.items():
        assert_same(float64(number), float64(actual[name]))


@pytest.mark.parametrize("vocab", [1, 3, 5, 6])
def test_a_vocabulary_may_be_smaller_than_what_is_ranked(vocab: int, assert_same: Same) -> None:
    ours, truth = (logits[..., :vocab] for logits in logits_apart(3.0))
    actual = consequences(ours, truth, IDS % vocab, None)
    for name, number in by_hand(ours, truth, None, IDS % vocab).items():
        assert_same(float64(number), float64(actual[name]))


def test_without_a_real_position_nothing_follows() -> None:
    ours, truth = logits_apart(1.0)
    found = consequences(ours, truth, IDS, torch.zeros_like(PADDED))
    assert all(map(math.isnan, found.values()))


def test_padding_changes_nothing() -> None:
    ours, truth = logits_apart(1.0)
    expected = consequences(ours, truth, IDS, PADDED)
    ours[~PADDED], truth[~PADDED] = math.nan, math.inf
    assert expected == consequences(ours, truth, IDS.masked_fill(~PADDED, 36), PADDED)


def test_of_the_same_logits_nothing_follows() -> None:
    _, truth = logits_apart(0.0)
    found = consequences(truth, truth, IDS, None)
    assert found.pop("loss_ours") == found.pop("loss_oracle")
    assert found == dict.fromkeys(found, 0.0) | {"top1_agreement": 1.0, "top5_agreement": 1.0}


def test_a_lost_first_choice_costs_the_oracles_lead() -> None:
    """The lead is the oracle's first choice over the token that ours chose."""
    truth = torch.zeros(1, 1, VOCAB, dtype=torch.float64)
    truth[0, 0, :3] = torch.tensor([9.0, 7.0, 6.5])
    ours = truth.clone()
    ours[0, 0, 1] = 10.0
    found = consequences(ours, truth, torch.tensor([[4]]), None)
    assert found["flip_gap_largest"] == 2.0
    assert found["top1_agreement"] == 0.0
    assert found["top5_agreement"] == 1.0
    assert found["rank_change_largest"] == 1.0


def test_one_token_predicts_nothing() -> None:
    ours, truth = logits_apart(1.0)
    found = consequences(ours[:, :1], truth[:, :1], IDS[:, :1], None)
    assert math.isnan(found.pop("loss_ours"))
    assert math.isnan(found.pop("loss_oracle"))
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_is_read_in_float64(dtype: torch.dtype) -> None:
    ours, truth = logits_apart(1.0)
    narrow = ours.to(dtype)
    assert consequences(narrow, truth, IDS, None) == consequences(narrow.double(), truth, IDS, None)


def test_more_positions_than_one_step_takes(assert_same: Same) -> None:
    """200 positions have the means and the largest of their four stretches of 50."""
    generator = torch.Generator().manual_seed(5)
    ours, truth = torch.randn(2, 4, 50, VOCAB, dtype=torch.float64, generator=generator)
    ids = torch.randint(0, VOCAB, (4, 50), generator=generator)
    parts = [consequences(*(x[i : i + 1] for x in (ours, truth, ids)), None) for i in range(4)]
    whole = consequences(ours, truth, ids, None)
    for name, number in whole.items():
        of_parts = float64(*(part[name] for part in parts))
        expected = of_parts.amax(0, True) if name.endswith("largest") else of_parts.mean(0, True)
        assert_same(expected, float64(number))
