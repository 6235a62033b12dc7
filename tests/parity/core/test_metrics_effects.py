"""What a difference means for a user, worked out again position by position with `math`."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.core.metrics import consequences

pytestmark = pytest.mark.usefixtures("one_thread")

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


def drawn(spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(20180611)
    truth = 3 * torch.randn(2, 5, VOCAB, dtype=torch.float64, generator=generator)
    return truth + spread * torch.randn(truth.shape, dtype=truth.dtype, generator=generator), truth


@pytest.mark.parametrize("mask", [None, PADDED, HOLES], ids=["whole", "padded", "holes"])
@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["near", "far"])
def test_are_what_the_definitions_say(
    spread: float, mask: Tensor | None, assert_same: Same
) -> None:
    ours, truth = drawn(spread)
    expected = by_hand(ours, truth, mask)
    actual = consequences(ours, truth, IDS, mask)
    assert list(expected) == list(actual)
    for name, number in expected.items():
        assert_same(float64(number), float64(actual[name]))


@pytest.mark.parametrize("vocab", [1, 3, 5, 6])
def test_a_vocabulary_may_be_smaller_than_what_is_ranked(vocab: int, assert_same: Same) -> None:
    ours, truth = (logits[..., :vocab] for logits in drawn(3.0))
    actual = consequences(ours, truth, IDS % vocab, None)
    for name, number in by_hand(ours, truth, None, IDS % vocab).items():
        assert_same(float64(number), float64(actual[name]))


def test_without_a_real_position_nothing_follows() -> None:
    ours, truth = drawn(1.0)
    found = consequences(ours, truth, IDS, torch.zeros_like(PADDED))
    assert all(map(math.isnan, found.values()))


def test_padding_changes_nothing() -> None:
    ours, truth = drawn(1.0)
    expected = consequences(ours, truth, IDS, PADDED)
    ours[~PADDED], truth[~PADDED] = math.nan, math.inf
    assert expected == consequences(ours, truth, IDS.masked_fill(~PADDED, 36), PADDED)


def test_of_the_same_logits_nothing_follows() -> None:
    _, truth = drawn(0.0)
    found = consequences(truth, truth, IDS, None)
    assert found.pop("loss_ours") == found.pop("loss_oracle")
    assert found == dict.fromkeys(found, 0.0) | {"top1_agreement": 1.0, "top5_agreement": 1.0}


def test_a_shift_of_all_logits_means_nothing(assert_same: Same) -> None:
    _, truth = drawn(0.0)
    found = consequences(truth + 5, truth, IDS, None)
    for name in ("log_softmax_largest", "kl_largest", "flip_gap_largest"):
        assert_same(float64(0.0), float64(found[name]))


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
    ours, truth = drawn(1.0)
    found = consequences(ours[:, :1], truth[:, :1], IDS[:, :1], None)
    assert math.isnan(found.pop("loss_ours"))
    assert math.isnan(found.pop("loss_oracle"))
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_is_read_in_float64(dtype: torch.dtype) -> None:
    ours, truth = drawn(1.0)
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
