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
    """A decoder whose logits depend on the last two tokens alone; it keeps each row's text."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.moved = False

    def start(self, token_ids: Tensor) -> Tensor:
        """Take the texts; return what follows."""
        self.texts = token_ids
        return self.logits[self.texts[:, -2], self.texts[:, -1]]

    def step(self, token_ids: Tensor) -> Tensor:
        """Take the next tokens; return what follows."""
        return self.start(torch.cat([self.texts, token_ids[:, None]], dim=1))

    def reorder(self, rows: Tensor) -> None:
        """Let rows change places."""
        self.moved = self.moved or rows.tolist() != list(range(len(rows)))
        self.texts = self.texts[rows]


@pytest.fixture
def chain(draw: Any) -> Chain:  # noqa: ANN401 - the folder's fixture
    """Return a decoder that prefers some tokens to others, differently after each pair."""
    return Chain(draw(VOCAB, VOCAB, VOCAB) * 2)


def log_probability(chain: Chain, prompt: list[int], new: tuple[int, ...]) -> float:
    """Return that of new tokens after a prompt, each from the library's softmax."""
    text = [*prompt, *new]
    pairs = zip(text[len(prompt) - 2 :], text[len(prompt) - 1 :], new, strict=False)
    return float(sum(chain.logits[a, b].log_softmax(-1)[token] for a, b, token in pairs))


def every_text(
    chain: Chain, prompt: list[int], *, new: int, end_id: int | None, penalty: float
) -> list[tuple[float, list[int]]]:
    """Return all texts that there are with their scores, best first."""
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
def test_beams_enough_for_every_text_find_the_best(
    chain: Chain,
    penalty: float,
    end_id: int | None,
    assert_same: Callable[[Tensor, Tensor], None],
) -> None:
    """With as many beams as texts nothing is lost: the best are those of all there are."""
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
    """Each token is the likeliest after what is there."""
    found = beam_search(chain, PROMPTS, Settings(beams=1, max_new_tokens=6))
    for row in found.tolist():
        for at in range(2, 8):
            assert int(chain.logits[row[at - 2], row[at - 1]].argmax()) == row[at]


def test_a_prompt_is_searched_as_if_it_were_alone(chain: Chain) -> None:
    """Another prompt in the batch changes nothing; and rows do change places."""
    settings = Settings(beams=3, max_new_tokens=5, end_id=3, returned=2)
    together = beam_search(chain, PROMPTS, settings).tolist()
    alone = [
        row for prompt in PROMPTS for row in beam_search(chain, prompt[None], settings).tolist()
    ]
    length = max(map(len, alone))
    assert together == [row + [3] * (length - len(row)) for row in alone]
    assert chain.moved


def test_rules_change_log_probabilities(chain: Chain) -> None:
    """No pair is there twice under the rule, and is without it."""

    def repeats(rules: Rules | None) -> bool:
        rows = beam_search(chain, PROMPTS, Settings(beams=2, max_new_tokens=9), rules).tolist()
        pairs = [list(itertools.pairwise(row)) for row in rows]
        return any(len(set(row)) < len(row) for row in pairs)

    assert repeats(None)
    assert not repeats(Rules(no_repeat_ngram_size=2))


def test_of_equal_texts_the_lowest_ids_win() -> None:
    """Where every token is as likely as any other, beams are filled from id 0 up."""
    even = Chain(torch.zeros(VOCAB, VOCAB, VOCAB))
    found = beam_search(even, PROMPTS[:1], Settings(beams=3, max_new_tokens=1, returned=3))
    assert found[:, 2].tolist() == [0, 1, 2]


def test_a_vocabulary_smaller_than_the_beams_is_no_obstacle(chain: Chain) -> None:
    """Beams without a text of their own count for nothing until there are texts enough."""
    found = beam_search(chain, PROMPTS[:1], Settings(beams=7, max_new_tokens=2, returned=7))
    assert len({tuple(row) for row in found.tolist()}) == 7


def test_half_precision_is_summed_in_float32(chain: Chain) -> None:
    """Scores of rounded logits are no multiples of their steps."""
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
    """The error says which, what was given and what is allowed."""
    with pytest.raises(ValueError, match=f"^{name} is .*; allowed: "):
        Settings(**{"beams": 2, "max_new_tokens": 2} | settings)


def test_rules_that_draw_are_refused(chain: Chain) -> None:
    """Beam search takes the likeliest; it is said, and not ignored."""
    with pytest.raises(ValueError, match=r"^rules\.sampled is True"):
        beam_search(chain, PROMPTS, Settings(beams=2, max_new_tokens=2), Rules(sampled=True))


def test_rules_that_leave_nothing_are_an_error(chain: Chain) -> None:
    """After every token was there once, none may come: no text of that length exists."""
    with pytest.raises(ValueError, match="every token is excluded"):
        beam_search(
            chain, PROMPTS, Settings(beams=2, max_new_tokens=9), Rules(no_repeat_ngram_size=1)
        )


def test_too_few_texts_are_an_error() -> None:
    """What was asked for and what there is are said."""
    hypotheses = Hypotheses(Settings(beams=3, max_new_tokens=1, returned=3))
    hypotheses.advance([Candidate(-1.0, 0, 4)], [[], [], []], 1)
    with pytest.raises(ValueError, match=r"^returned is 3; the rules left only 1"):
        hypotheses.best()


@pytest.mark.parametrize(
    ("early_stopping", "done"),
    [(True, [False, True]), (False, [False, False]), ("never", [False, False])],
)
def test_when_a_prompt_is_done(early_stopping: Any, done: list[bool]) -> None:  # noqa: ANN401
    """With as many finished texts as beams it is only where that was asked for."""
    settings = Settings(beams=2, max_new_tokens=9, early_stopping=early_stopping, end_id=0)
    hypotheses = Hypotheses(settings)
    seen = []
    for length in (1, 2):
        candidates = [Candidate(-1.0, 0, 1), Candidate(-1.5, 0, 0), Candidate(-2.0, 1, 2)]
        hypotheses.advance(candidates, [[5] * (length - 1)] * 2, length)
        seen.append(hypotheses.done)
    assert done == seen


@pytest.mark.parametrize(("early_stopping", "done"), [(False, True), ("never", False)])
def test_what_cannot_become_better_is_given_up(early_stopping: Any, done: bool) -> None:  # noqa: ANN401, FBT001
    """At its present length it is worse than the worst; at full length it might not be."""
    settings = Settings(beams=1, max_new_tokens=9, early_stopping=early_stopping, end_id=0)
    hypotheses = Hypotheses(settings)
    hypotheses.advance([Candidate(-1.0, 0, 0), Candidate(-2.0, 0, 1)], [[]], 1)
    assert done == hypotheses.done
