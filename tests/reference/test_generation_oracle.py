"""The oracle's choices and its search, compared with all texts and with numbers by hand."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from reference.generation_oracle import Array, Search, draw, likeliest, uniform

VOCAB, NEW = 3, 3


def table(texts: Sequence[Sequence[int]]) -> Array:
    drawn_from = [np.random.Generator(np.random.Philox([7, *text])) for text in texts]
    scores = np.array([generator.standard_normal(VOCAB) for generator in drawn_from])
    normal: Array = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return normal


def total(tokens: Sequence[int]) -> float:
    return sum(float(table([[0, *tokens[:i]]])[0, token]) for i, token in enumerate(tokens))


def test_of_equal_scores_the_lowest_id_is_taken() -> None:
    assert likeliest(np.array([0.0, 2.0, -math.inf, 2.0])) == 1


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.2499, 1), (0.2501, 3), (0.9999, 3)])
def test_a_draw_is_the_token_at_which_the_sum_passes_the_number(number: float, token: int) -> None:
    scores = np.array([-math.inf, math.log(1.0), -math.inf, math.log(3.0)])
    assert draw(scores, number) == token


def test_streams_are_apart_and_even() -> None:
    """A row has its own numbers in [0, 1); the first are the same for any count."""
    numbers = uniform(5, 0, 4096)
    assert 0.0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1.0
    assert abs(numbers.mean() - 0.5) < 0.02
    assert np.array_equal(uniform(5, 0, 8), numbers[:8])
    assert not np.array_equal(uniform(5, 1, 8), numbers[:8])


def test_with_room_for_all_the_best_texts_are_found() -> None:
    """All texts are tried: the likeliest come first, with their scores."""
    every = sorted(itertools.product(range(VOCAB), repeat=NEW), key=lambda text: -total(text))
    found = Search(beams=VOCAB**NEW, new=NEW).best(table, [0])
    assert [text.tokens for text in found] == every
    assert np.allclose([text.score for text in found], [total(t) / NEW for t in every], atol=1e-14)


def test_a_finished_text_is_scored_by_its_own_length() -> None:
    found = Search(beams=VOCAB**NEW, new=NEW, length_penalty=2.0, end_id=2).best(table, [0])
    assert {len(text.tokens) for text in found} == {1, 2, 3}
    assert all(2 not in text.tokens[:-1] for text in found)
    for text in found:
        assert text.score == pytest.approx(total(text.tokens) / len(text.tokens) ** 2, abs=1e-14)


def test_one_beam_takes_the_likeliest_each_time() -> None:
    text: tuple[int, ...] = ()
    for _ in range(NEW):
        text = (*text, likeliest(table([[0, *text]])[0]))
    assert [found.tokens for found in Search(beams=1, new=NEW).best(table, [0])] == [text]


@pytest.mark.parametrize("gap", [0.0, 1e-9, 0.5])
def test_the_closest_call_is_remembered(gap: float) -> None:
    """Also that between the last kept and the first dropped text."""

    def scores(texts: Sequence[Sequence[int]]) -> Array:
        return np.tile(np.array([-1.0, -3.0, -5.0, -5.0 - gap, -9.0]), (len(texts), 1))

    search = Search(beams=1, new=1)
    assert [text.tokens for text in search.best(scores, [0])] == [(0,)]
    assert search.closest == pytest.approx((5.0 - 3.0) / 5.0)
    wider = Search(beams=2, new=1)
    wider.best(scores, [0])
    assert wider.closest == pytest.approx(gap / (5.0 + gap), abs=1e-12)
