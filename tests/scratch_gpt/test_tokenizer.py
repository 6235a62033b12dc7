"""The tokenizer as a whole: text to ids and back."""

from pathlib import Path

import pytest

from scratch_gpt import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> Tokenizer:
    """Return the tokenizer of the small vocabulary."""
    return Tokenizer.from_pretrained(small_vocabulary)


def test_text_comes_back_in_lower_case_with_words_apart(tokenizer: Tokenizer) -> None:
    """Decoding gives the words that were encoded, one space after each."""
    expected = "calm , he wrote ; the keeper didn ' t ."
    assert expected == tokenizer.decode(tokenizer.encode("Calm, he WROTE;\nthe keeper didn't."))


def test_the_small_vocabulary_has_its_merges(tokenizer: Tokenizer) -> None:
    """Each of the 500 merges made a token; nothing of the text is unknown."""
    vocabulary = tokenizer.vocabulary
    assert len(vocabulary.merges) == 500
    assert vocabulary.tokens[0] == "<unk>"
    assert vocabulary.tokens[-500:] == tuple(one + two for one, two in vocabulary.merges)


def test_a_saved_vocabulary_is_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same tokens and merges, and the same digest."""
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary
    assert again.digest == tokenizer.digest
