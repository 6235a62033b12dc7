"""Beam search against an exhaustive search, and its rules for ends, lengths and ties."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Settings, beam_search, search
from scratch_gpt.generation.sampling import Rules

VOCAB = 5

PROMPTS = torch.tensor([[0, 1], [2, 3]])


class Chain:
    """A decoder whose logits depend only on the last two tokens; it keeps each row's text."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.moved = False

    def start(self, token_ids: Tensor) -> Tensor:
        self.texts = token_ids
        return self.logits[self.texts[:, -2], self.texts[:, -1]]

    def step(self, token_ids: Tensor) -> Tensor:
        return self.start(torch.cat([self.texts, token_ids[:, None]], dim=1))

    def reorder(self, rows: Tensor) -> None:
        self.moved = self.moved or rows.tolist() != list(range(len(rows)))
        self.texts = self.texts[rows]


@pytest.fixture
def chain(draw: Any) -> Chain:  # noqa: ANN401 - the folder's fixture
    return Chain(draw(VOCAB, VOCAB, VOCAB) * 2)


def log_probability(chain: Chain, prompt: list[int], new: tuple[int, ...]) -> float:
    text = [*prompt, *new]
    pairs = zip(text[len(prompt) - 2 :], text[len(prompt) - 1 :], new, strict=False)
    return float(sum(chain.logits[a, b].log_softmax(-1)[token] for a, b, token in pairs))


def every_text(
    chain: Chain, prompt: list[int], *, new: int, end_id: int | None, penalty: float
) -> list[tuple[float, list[int]]]:
    """Return all possible texts with their scores, best first."""
    ended = {
        text[: text.index(end_id) + 1] if end_id in text else text
        for text in itertools.product(range(VOCAB), repeat=new)
    }
    scored = [
        (log_probability(chain, prompt, text) / len(text) ** penalty, list(text)) for text in ended
    ]
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("end_id", [None, 3])
def test_a_beam_for_every_text_finds_the_best(
    chain: Chain, penalty: float, end_id: int | None, assert_same: Callable[..., None]
) -> None:
    """With as many beams as texts the search is exhaustive."""
    settings = Settings(
        beams=VOCAB**3,
        max_new_tokens=3,
        length_penalty=penalty,
        early_stopping="never",
        end_id=end_id,
        returned=4,
    )
    found = search(chain, PROMPTS, settings, Rules())
    for prompt, best in zip(PROMPTS.tolist(), found, strict=True):
        expected = every_text(chain, prompt, new=3, end_id=end_id, penalty=penalty)[:4]
        assert [text for _, text in expected] == [text.token_ids for text in best]
        scores = torch.tensor([text.score for text in best], dtype=torch.float64)
        assert_same(torch.tensor([s for s, _ in expected], dtype=torch.float64), scores)


def test_one_beam_is_greedy(chain: Chain) -> None:
    found = beam_search(chain, PROMPTS, Settings(beams=1, max_new_tokens=6))
    for row in found.tolist():
        for at in range(2, 8):
            assert int(chain.logits[row[at - 2], row[at - 1]].argmax()) == row[at]


def test_a_prompt_is_searched_as_if_alone(chain: Chain) -> None:
    settings = Settings(beams=3, max_new_tokens=5, end_id=3, returned=2)
    together = beam_search(chain, PROMPTS, settings).tolist()
    alone = [
        row for prompt in PROMPTS for row in beam_search(chain, prompt[None], settings).tolist()
    ]
    length = max(map(len, alone))
    assert together == [row + [3] * (length - len(row)) for row in alone]
    assert chain.moved


def test_rules_change_log_probabilities(chain: Chain) -> None:
    def repeats(rules: Rules | None) -> bool:
        rows = beam_search(chain, PROMPTS, Settings(beams=2, max_new_tokens=9), rules).tolist()
        pairs = [list(itertools.pairwise(row)) for row in rows]
        return any(len(set(row)) < len(row) for row in pairs)

    assert repeats(None)
    assert not repeats(Rules(no_repeat_ngram_size=2))


def test_ties_go_to_the_lowest_ids() -> None:
    even = Chain(torch.zeros(VOCAB, VOCAB, VOCAB))
    found = beam_search(even, PROMPTS[:1], Settings(beams=3, max_new_tokens=1, returned=3))
    assert found[:, 2].tolist() == [0, 1, 2]


def test_there_may_be_more_beams_than_tokens(chain: Chain) -> None:
    found = beam_search(chain, PROMPTS[:1], Settings(beams=7, max_new_tokens=2, returned=7))
    assert len({tuple(row) for row in found.tolist()}) == 7


def test_half_precision_is_summed_in_float32(chain: Chain) -> None:
    chain.logits = chain.logits.bfloat16()
    (found,) = search(chain, PROMPTS[:1], Settings(beams=2, max_new_tokens=4), Rules())
    assert float(torch.tensor(found[0].score).bfloat16()) != found[0].score


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"beams": 0}, "beams"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"length_penalty": 1e4}, "length_penalty"),
        ({"length_penalty": -1e4}, "length_penalty"),
        ({"end_id": -1}, "end_id"),
        ({"returned": 3}, "returned"),
        ({"returned": 0}, "returned"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_rejected(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*; allowed: "):
        Settings(**{"beams": 2, "max_new_tokens": 2} | settings)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(sampled=True), r"^rules\.sampled is True"),
        (Rules(no_repeat_ngram_size=1), "every token is excluded"),
    ],
    ids=["sampling", "nothing left"],
)
def test_unusable_rules_are_an_error(rules: Rules, message: str, chain: Chain) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(chain, PROMPTS, Settings(beams=2, max_new_tokens=9), rules)


def test_too_few_texts_are_an_error() -> None:
    hypotheses = Hypotheses(Settings(beams=3, max_new_tokens=1, returned=3))
    hypotheses.advance([Candidate(-1.0, 0, 4)], [[], [], []], 1)
    with pytest.raises(ValueError, match=r"^returned is 3; the rules left only 1"):
        hypotheses.best()


@pytest.mark.parametrize(
    ("early_stopping", "done"),
    [(True, [False, True]), (False, [False, False]), ("never", [False, False])],
)
def test_when_a_prompt_is_done(early_stopping: Any, done: list[bool]) -> None:  # noqa: ANN401
    """With as many finished texts as beams it is done only with `early_stopping=True`."""
    settings = Settings(beams=2, max_new_tokens=9, early_stopping=early_stopping, end_id=0)
    hypotheses = Hypotheses(settings)
    seen = []
    for length in (1, 2):
        candidates = [Candidate(-1.0, 0, 1), Candidate(-1.5, 0, 0), Candidate(-2.0, 1, 2)]
        hypotheses.advance(candidates, [[5] * (length - 1)] * 2, length)
        seen.append(hypotheses.done)
    assert done == seen


@pytest.mark.parametrize(("early_stopping", "done"), [(False, True), ("never", False)])
def test_a_prompt_that_cannot_improve_is_done(early_stopping: Any, done: object) -> None:  # noqa: ANN401
    """At its present length it scores worse than the worst; at full length it might not."""
    settings = Settings(beams=1, max_new_tokens=9, early_stopping=early_stopping, end_id=0)
    hypotheses = Hypotheses(settings)
    hypotheses.advance([Candidate(-1.0, 0, 0), Candidate(-2.0, 0, 1)], [[]], 1)
    assert done == hypotheses.done
