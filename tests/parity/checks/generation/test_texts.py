"""Ties, first differences and prompts of the generation check."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation import texts
from parity.checks.generation.requests import shortened
from parity.checks.generation.texts import GREEDY, LIFTED, Case, Made, first_difference
from parity.core import reordered
from parity.core.comparison import no_progress
from parity.core.gates import RoundingError
from parity.core.metrics import Status
from parity.core.tolerances import PRECISIONS, Bounds, bounds_for
from scratch_gpt import GPT

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


@pytest.mark.parametrize(
    ("elsewhere", "differs", "looks", "status"),
    [
        (0.0, False, reordered.RUNS, Status.FAIL),
        (1.0, False, 1, Status.PASS),
        (1.0, True, 0, Status.FAIL),
    ],
)
def test_rounding_is_measured_again_before_logits_fail(  # noqa: PLR0913 - a case, and fixtures
    elsewhere: float,
    differs: bool,  # noqa: FBT001 - a parameter of a test
    looks: int,
    status: Status,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hugging Face's bfloat16 logits are exact here; in another order they have a real error."""
    made_again, again = [], texts._noise_again

    def noise(run: texts.Pass, pair: texts._Both, seed: int) -> RoundingError:
        found = again(run, pair, seed)
        assert 0.001 < found.rms < 0.1
        made_again.append(found.rms)
        return RoundingError(rms=elsewhere * found.rms, peak=elsewhere * found.peak)

    both = texts._both
    monkeypatch.setattr(texts, "_noise_again", noise)
    monkeypatch.setattr(
        texts, "_both", lambda *run: dataclasses.replace(both(*run), noise=RoundingError())
    )
    run = texts.Pass(
        model=copy.deepcopy(ours).bfloat16(),
        reference=copy.deepcopy(theirs).bfloat16(),
        truth=texts.oracle_forward(theirs),
        prompts=[torch.tensor([[5, 9]])],
        new=3,
        bounds=bounds_for("bfloat16"),
        progress=no_progress,
    )
    precision = dataclasses.replace(PRECISIONS["bfloat16"], unit=2.0**-24)
    case = next(run.cases())
    logits, *_ids = texts.rounding_rows(run, [case], precision, differs=differs)
    assert (logits.tap, logits.status) == ("greedy.0.logits", status)
    assert len(set(made_again)) == len(made_again) == looks


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


# Steps and tokens that are due.


@pytest.mark.parametrize(
    ("known", "longest", "starts"),
    [(3, 5, [0, 0, 0, 4, 4, 4, 4, 8]), (7, 5, [5, 5, 5, 5, 9]), (1, 1, [0, 1, 2]), (2, 9, [0] * 7)],
)
def test_a_slide_keeps_half_of_the_positions(known: int, longest: int, starts: list[int]) -> None:
    prompts = torch.ones(1, known).long()
    case = Case(tap="x", prompts=prompts, way=GREEDY, new=9, longest=longest, overflow="slide")
    assert [case.start(step) for step in range(len(starts))] == starts


def due(case: Case, new: list[list[int]]) -> list[int]:
    """Return how many tokens are due for new tokens that are the likeliest at each step."""
    text = torch.cat([case.prompts, torch.tensor(new)], dim=1)
    logits = torch.nn.functional.one_hot(torch.tensor(new), 9).double()
    made = Made(case=case, text=text, logits=logits, left=logits)
    return [len([token for token in ids if token >= 0]) for ids in texts.rechosen(made, logits)]


def test_as_many_tokens_are_due_as_were_asked_for_or_fit() -> None:
    prompts = torch.tensor([[1, 2], [3, 4]])
    case = Case(tap="x", prompts=prompts, way=GREEDY, new=4, longest=9)
    short = dataclasses.replace(case, longest=5)
    assert due(case, [[1, 2, 3, 4], [5, 6, 7, 8]]) == [4, 4]
    assert due(short, [[1, 2, 3, 4], [5, 6, 7, 8]]) == [3, 3]
    assert due(dataclasses.replace(short, overflow="slide"), [[1, 2, 3, 4], [5, 6, 7, 8]]) == [4, 4]


def test_the_last_end_token_ends_all_texts() -> None:
    prompts = torch.tensor([[1, 2], [3, 4]])
    case = Case(tap="x", prompts=prompts, way=GREEDY, new=4, longest=9, end_id=0)
    assert due(case, [[0, 0, 0, 0], [5, 0, 0, 0]]) == [2, 2]
    assert due(case, [[0, 0, 0, 0], [5, 6, 7, 8]]) == [4, 4]


def test_a_text_is_filled_with_its_end_token() -> None:
    prompts = torch.tensor([[1, 2]])
    case = Case(tap="x", prompts=prompts, way=GREEDY, new=3, longest=9, end_id=0)
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 4, 5]]), 9).double()
    made = Made(case=case, text=torch.tensor([[1, 2, 0, 4, 5]]), logits=logits, left=logits)
    assert texts.rechosen(made, logits) == [[0]]


def test_every_text_has_its_own_numbers() -> None:
    """Samples of one prompt, with equal logits, differ; a stream that is given is used."""
    logits = torch.zeros(2, 6, 9, dtype=torch.float64)
    prompts = torch.tensor([[1, 2]])
    case = Case(tap="x", prompts=prompts, way=LIFTED, new=6, longest=9, samples=2)
    made = Made(case=case, text=torch.ones(2, 8).long(), logits=logits, left=logits)
    first, second = texts.rechosen(made)
    assert first != second
    swapped = dataclasses.replace(made, case=dataclasses.replace(case, streams=(1, 0)))
    assert texts.rechosen(swapped) == [second, first]


def test_a_shortened_model_shares_its_weights(ours: GPT) -> None:
    short = shortened(ours, 7)
    assert short.config.n_positions == len(short.positions_embed.weight) == 7
    assert short.h[0].mlp.c_fc.weight.data_ptr() == ours.h[0].mlp.c_fc.weight.data_ptr()
    ids = torch.tensor([[5, 9, 210, 0, 3, 3, 17]])
    assert torch.equal(short(ids), ours(ids))
    with pytest.raises(ValueError, match="max 7"):
        short(torch.ones(1, 8).long())
