"""What guessing by frequency loses."""

import math

import numpy as np
import pytest

from scratch_gpt.data import dataset
from scratch_gpt.data.dataset import unigram_loss


def test_by_hand() -> None:
    """Four training tokens and a vocabulary of three make shares of 4, 2 and 1 in seven."""
    train, validation = np.array([0, 0, 0, 1], "<u2"), np.array([0, 1, 2, 2], "<u2")
    expected = -sum(math.log(share / 7) for share in (4, 2, 1, 1)) / 4
    assert math.isclose(expected, unigram_loss(train, validation, vocab_size=3))


def test_a_mapped_file_is_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.Philox(key=3).random_raw(1_000) % 50
    train, validation = tokens[:900].astype("<u4"), tokens[900:].astype("<u4")
    whole = unigram_loss(train, validation, vocab_size=50)
    monkeypatch.setattr(dataset, "_CHUNK", 7)
    assert whole == unigram_loss(train, validation, vocab_size=50)


def test_another_vocabulary_is_told() -> None:
    train, validation = np.array([0, 7], "<u2"), np.array([0], "<u2")
    with pytest.raises(ValueError, match="id 7 is outside a vocabulary of 7"):
        unigram_loss(train, validation, vocab_size=7)


def test_nothing_has_no_loss() -> None:
    none = np.array([], "<u2")
    with pytest.raises(ValueError, match="there is no validation token"):
        unigram_loss(np.array([0], "<u2"), none, vocab_size=7)
