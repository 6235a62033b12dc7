"""Ties, first differences and prompts of the generation check."""

import pytest
import torch
from torch import Tensor

from parity.checks.generation import texts
from parity.checks.generation.texts import GREEDY, Case, Made, first_difference
from parity.core.tolerances import Bounds

GAP = 1e-3


def made_of(text: list[int], logits: Tensor) -> Made:
    """Return a text after a prompt of one token, chosen from logits `[new vocab]`."""
    ids = torch.tensor([text])
    case = Case(tap="x", prompts=ids[:, :1], way=GREEDY, new=len(text) - 1, longest=9)
    return Made(case=case, text=ids, logits=logits[None], left=logits[None])


def excused(our_error: float, their_error: float, *, truth_gap: float = GAP) -> str:
    """Return the excuse for two texts that differ at step 1, in ids 2 and 4."""
    truth = torch.zeros(3, 6, dtype=torch.float64)
    truth[:, 2], truth[:, 4] = 5.0, 5.0 - truth_gap
    ours, theirs = truth.clone(), truth.clone()
    ours[:, 0] += our_error
    theirs[:, 1] -= their_error
    made = made_of([9, 1, 2, 3], ours)
    return texts.tie_excuse(
        made, [[1, 4, 3]], truth=truth[None], reference=theirs[None], bounds=Bounds()
    )


def test_a_gap_within_both_errors_is_a_tie() -> None:
    assert excused(GAP / 3, GAP / 3).startswith("a tie at step 1: the oracle's gap is 0.001")


def test_a_gap_beyond_both_errors_is_none() -> None:
    assert excused(GAP / 5, GAP / 5) == ""


def test_a_fault_does_not_excuse_itself() -> None:
    """Our error counts at most as much as the bound allows beside the reference's."""
    assert excused(GAP, GAP / 1000) == ""
    assert excused(GAP, GAP / 10) != ""


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_truth_that_is_not_finite_is_no_excuse(broken: float) -> None:
    assert excused(GAP, GAP, truth_gap=broken) == ""


def test_equal_texts_need_no_excuse() -> None:
    rows = torch.zeros(1, 6)
    made = made_of([9, 1], rows)
    assert not texts.tie_excuse(
        made, [[1]], truth=rows[None].double(), reference=rows[None], bounds=Bounds()
    )
    assert texts.difference_message(made, [[1]], "huggingface") == ""


def test_the_first_difference_is_the_first() -> None:
    assert first_difference([1, 2, 3, 4], [1, 2, 9, 9]) == 2
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1]) == 1


def test_prompts_are_of_every_length() -> None:
    made, again = (texts.draw_prompts(5, longest=300, vocab_size=211, seed=3) for _ in range(2))
    lengths = [prompt.shape[1] for prompt in made]
    assert (lengths[0], lengths[-1], len(set(lengths))) == (1, 300, 5)
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))
    (only,) = texts.draw_prompts(1, longest=300, vocab_size=211, seed=3)
    assert only.shape == (1, 300)
