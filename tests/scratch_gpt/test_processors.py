"""Each rule's formula against numbers worked by hand, and against faults of its own kind."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.generation.sampling import (
    apply_temperature,
    forbid_repeated_ngrams,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)

OUT = -math.inf


def logits(*values: float) -> Tensor:
    """Return one row of float64 logits."""
    return torch.tensor([values], dtype=torch.float64)


def kept(row: Tensor) -> list[int]:
    """Return the ids that are not excluded."""
    return torch.isfinite(row[0]).nonzero()[:, 0].tolist()


def test_a_penalty_divides_above_nought_and_multiplies_below() -> None:
    """Once for a token that stands there twice, and not at all for one that does not."""
    expected = logits(1.0, -8.0, 3.0, 0.0)
    actual = penalize_repetition(logits(2.0, -4.0, 3.0, 0.0), torch.tensor([[1, 0, 1, 3]]), 2.0)
    assert torch.equal(expected, actual)


@pytest.mark.parametrize(
    ("size", "excluded"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, []), (6, []), (7, [])]
)
def test_what_would_complete_an_n_gram_is_excluded(size: int, excluded: list[int]) -> None:
    """Of 1 2 3 1 3 1: after 1 came 2 and 3; after 3 1 came 3; after 1 3 1 nothing yet."""
    text = torch.tensor([[1, 2, 3, 1, 3, 1]])
    row = forbid_repeated_ngrams(logits(*range(5)), text, size)
    assert [token for token in range(5) if token not in excluded] == kept(row)


def test_one_window_does_not_allow_what_another_excludes() -> None:
    """Of 1 2 3 2 1 the 2 follows a 1, and later a 3: it stays excluded after a 1."""
    assert kept(forbid_repeated_ngrams(logits(*range(4)), torch.tensor([[1, 2, 3, 2, 1]]), 2)) == [
        0,
        1,
        3,
    ]


def test_each_row_has_its_own_text() -> None:
    """What one row repeats is allowed in another."""
    rows = forbid_repeated_ngrams(torch.zeros(2, 3), torch.tensor([[0, 1], [2, 2]]), 1)
    assert rows.tolist() == [[OUT, OUT, 0.0], [0.0, 0.0, OUT]]


def test_a_temperature_divides() -> None:
    """Once, and by itself."""
    assert torch.equal(logits(4.0, -2.0), apply_temperature(logits(2.0, -1.0), 0.5))


@pytest.mark.parametrize(("k", "ids"), [(1, [2]), (2, [0, 2, 3]), (3, [0, 2, 3]), (5, [*range(5)])])
def test_what_equals_the_smallest_of_the_largest_is_kept(k: int, ids: list[int]) -> None:
    """Two logits are equal: with `k` at 2 both are kept."""
    assert ids == kept(keep_top_k(logits(1.0, 0.0, 3.0, 1.0, -1.0), k))


@pytest.mark.parametrize(
    ("p", "ids"),
    [
        (1e-9, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.79, [1, 3]),
        (0.81, [0, 1, 3]),
        (0.96, [*range(4)]),
    ],
)
def test_the_token_that_crosses_is_kept(p: float, ids: list[int]) -> None:
    """Of probabilities 0.15 0.5 0.05 0.3 the fewest whose sum is at least `p`."""
    assert ids == kept(keep_top_p(torch.log(logits(0.15, 0.5, 0.05, 0.3)) + 7.0, p))


def test_of_equal_logits_the_lower_ids_go_first() -> None:
    """Four alike, and half of the probability is asked for: the two higher ids are left."""
    assert kept(keep_top_p(logits(2.0, 2.0, 2.0, 2.0), 0.5)) == [2, 3]


def test_what_is_excluded_already_stays_so() -> None:
    """And takes nothing of the probability."""
    assert kept(keep_top_p(logits(0.0, OUT, 0.0, OUT), 0.6)) == [0, 2]


def test_sums_over_a_whole_vocabulary_are_not_rounded() -> None:
    """In float32 the sum of as many as GPT-1 has drifts by more than one token's share."""
    row = torch.zeros(1, 40_478)
    row[0, -1] = 1.0
    for share in (0.25, 0.5, 0.75):
        total = 40_477 + math.e
        expected = 1 + math.ceil(share * total - math.e)
        assert expected == len(kept(keep_top_p(row, share)))


@pytest.mark.parametrize(
    "rule",
    [
        lambda x, ids: penalize_repetition(x, ids, 1.3),
        lambda x, ids: forbid_repeated_ngrams(x, ids, 1),
        lambda x, _: apply_temperature(x, 0.7),
        lambda x, _: keep_top_k(x, 2),
        lambda x, _: keep_top_p(x, 0.4),
    ],
    ids=["penalty", "repeats", "temperature", "top-k", "top-p"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logits_given_are_not_changed(
    rule: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, draw: Callable[..., Tensor]
) -> None:
    """A rule returns others, of the same type, and of another value somewhere."""
    x = draw(3, 7).to(dtype)
    before = x.clone()
    result = rule(x, torch.tensor([[1, 2], [3, 3], [0, 6]]))
    assert torch.equal(before, x)
    assert dtype == result.dtype
    assert not torch.equal(before, result)
